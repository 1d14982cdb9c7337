-- Limits of queues: how many permits this partition may have in use, and how many are. Needs time, record, keys, pauses, turns. What claims do
-- besides stands in lib/permits.lua.
-- A limit is a pool of permits, named by its kind and its queue: 'c' concurrency, 'r' rate. What this partition may use stands in
-- `permits`: budget, number of the last grant, and while others wait a cap and until when it counts (core/queue_limits.py). What is in use
-- stands in a set for each pool: until its task leaves the lease, or until a time.
-- A limit key (core/limit_keys.py) is a pool's name too: queue, \1, what it goes by, \1, value. A task whose key has no room when a claim meets
-- it moves from its lane's ready set to a set of its own: `waits:` and queue, key, NUL, '!' or '-', lane, which `apart` lists. There it costs
-- nothing until its key is looked at again (`held:keys`).
-- Of these lanes `unserved` lists those that nobody serves, until when that counts: what stands apart in them waits for its takers and
-- keeps no permit from others.
-- All of it stands in one table, which is made when a script asks for it: most scripts meet no limit, and pay nothing for this.
-- rest: makes what claims add to it, and goes with that.

local permits = setmetatable({}, { __call = function(permits)
if permits.made then
  local rest = permits.rest
  if rest then
    permits.rest = nil
    rest()
  end
  return permits
end
permits.made = true
local K_HELD = T .. ':held'
local K_PERMITS = T .. ':permits'
local K_APART, K_HELD_KEYS, K_UNSERVED = T .. ':apart', T .. ':held:keys', T .. ':unserved'
local function k_used(pool) return T .. ':used:' .. pool end
local function k_waits(member) return T .. ':waits:' .. member end
local FOREVER = 1e15

-- Limits by name, a list of {pool, key, most, hold}.
local function pools_of(name, concurrency, permits_, hold)
  local found = { queue = name }
  local most = tonumber(concurrency or '')
  if most then found[1] = { pool = 'c' .. name, key = k_used('c' .. name), most = most, hold = 0 } end
  if tonumber(permits_ or '') then
    found[#found + 1] = { pool = 'r' .. name, key = k_used('r' .. name), most = tonumber(permits_), hold = tonumber(hold) }
  end
  return found
end

local limits_known = {}
-- The limits of a queue, as lanes spell it, with its limits by key as {by, ...} in `keyed`; or of a limit key. nil: there are none.
local function limits_named(name)
  local known = limits_known[name]
  if known == nil then
    known = false
    local queue, by = string.match(name, '^([^\1]*)\1([^\1]*)\1')
    local lane = 'w' .. (queue or name)
    if rule_of(lane, 'limited') then
      local keyed = {}
      for by_, concurrency, count, hold in string.gmatch(rule_of(lane, 'keys') or '', '([^,;]+),([^,;]+),([^,;]+),([^,;]+)') do
        keyed[#keyed + 1] = by_
        if by == by_ then known = pools_of(name, concurrency, count, hold) end
      end
      if not by then
        known = pools_of(name, rule_of(lane, 'concurrency'), string.match(rule_of(lane, 'rate') or '', '^(%d+),(%d+)$'))
        known.keyed = keyed[1] and keyed
      end
    end
    limits_known[name] = known
  end
  return known or nil
end
-- The limits of a lane's queue.
local function limits_of(lane)
  if not is_steered() then return nil end
  return limits_named(string.match(lane, '^.([^:]*)'))
end

-- What stands in `permits` for a pool.
local function budget_of(pool)
  local text = redis.call('HGET', K_PERMITS, pool) or ''
  local budget, seq, cap, upto = string.match(text, '^(%d+) (%d+) (%d+) (%d+)$')
  return {
    budget = tonumber(budget or '') or 0, seq = tonumber(seq or '') or 0, cap = tonumber(cap or '') or 0,
    upto = tonumber(upto or '') or 0,
  }
end

-- How many permits of a limit may be in use here now, and how many are.
local function usable(limit, now)
  local b = budget_of(limit.pool)
  local most = math.min(b.budget, limit.most)
  if now < b.upto then most = math.min(most, b.cap) end
  return most, redis.call('ZCOUNT', limit.key, now, '+inf'), b
end

-- How many tasks of a queue with these limits may be taken now.
local function room_of(limits, now)
  local room = FOREVER
  for _, limit in ipairs(limits) do
    local most, used = usable(limit, now)
    room = math.min(room, most - used)
  end
  return math.max(room, 0)
end

-- When there is room again because of time alone: now, later, or FOREVER. And whether a budget is empty.
local function room_at(limits, now)
  local at, starving = now, false
  for _, limit in ipairs(limits) do
    local most, used, b = usable(limit, now)
    starving = starving or b.budget == 0
    if most <= used then
      if most <= 0 then return FOREVER, starving end
      local first = redis.call('ZRANGE', limit.key, now, '+inf', 'BYSCORE', 'LIMIT', used - most, 1, 'WITHSCORES')
      -- What lies in a lease stays in use until it leaves that, and what was acked first until a time.
      at = math.min(math.max(at, tonumber(first[2]) + 1), FOREVER)
    end
  end
  return at, starving
end

-- Queues of which a lane was held back in this script, and limit keys: true where a budget is empty. urgent: those of which a critical task
-- was.
local hungry, urgent = {}, {}

-- Lists a lane of a limited queue among those with ready work. Where there is no room it leaves the active sets, and its queue is
-- looked at again when there is. Returns whether it does.
local function hold_back(lane, critical, now)
  local limits = limits_of(lane)
  if not limits then return false end
  redis.call('ZADD', K_LIMITED, 0, parked_name(lane, critical))
  local at, starving = room_at(limits, now)
  if at <= now then return false end
  redis.call('ZADD', K_HELD, at, limits.queue)
  for _, set in ipairs(active_sets(lane, critical)) do redis.call('ZREM', set, lane) end
  hungry[limits.queue], urgent[limits.queue] = hungry[limits.queue] or starving, urgent[limits.queue] or critical
  return true
end

-- The lanes of a queue that have ready work, as members of `limited`.
local MOST_LANES = 1000
local function limited_lanes(queue)
  return redis.call('ZRANGE', K_LIMITED, '[' .. queue .. '\0', '(' .. queue .. '\1', 'BYLEX', 'LIMIT', 0, MOST_LANES)
end

-- Lets the lanes of a queue be found again. Returns how many tasks wait in them, those of workers and others; those that this claim
-- itself fires (`permits.fires`, a letter's byte) do not count, or every claim that found a permit free again would call for another.
local function let_go(queue)
  local waiting = { w = 0, other = 0 }
  for _, member in ipairs(limited_lanes(queue)) do
    local lane, critical = parked_parts(member)
    local count = redis.call('ZCARD', k_ready(lane, critical))
    if count > 0 then
      activate(lane, critical, true)
      local kind = byte(lane) == 119 and 'w' or 'other'
      if byte(lane) ~= permits.fires then waiting[kind] = waiting[kind] + count end
    else
      redis.call('ZREM', K_LIMITED, member)
    end
  end
  redis.call('ZREM', K_HELD, queue)
  return waiting
end

-- Wakes those who claim, for lanes that were let go.
local function call_for(waiting, now)
  if waiting.other > 0 then
    redis.call(NOTIFY, T .. ':wake', int(now))
    redis.call(NOTIFY, T .. ':ready', T)
  end
  if waiting.w > 0 then
    redis.call(NOTIFY, T .. ':wake:w', int(now))
    redis.call(NOTIFY, T .. ':ready:w', int(now) .. ' ' .. waiting.w)
  end
end

-- The sets in which tasks of a limit key wait: {member of apart, lane, whether they are critical, its key}.
local function sets_of(name)
  local sets = {}
  for _, member in ipairs(redis.call('ZRANGE', K_APART, '[' .. name .. '\0', '(' .. name .. '\1', 'BYLEX', 'LIMIT', 0, MOST_LANES)) do
    local lane, critical = parked_parts(member)
    sets[#sets + 1] = { member = member, lane = lane, critical = critical, key = k_waits(member) }
  end
  return sets
end

-- A partition knows the permits of so many keys (core/limit_keys.py).
local MOST_KNOWN = 100000
local WITHOUT_PLACE = 2 * FOREVER
-- Whether a limit key has its place among the pools that this partition knows; it gets one where there is room.
local function has_place(limits)
  for _, limit in ipairs(limits) do
    if redis.call('HEXISTS', K_PERMITS, limit.pool) == 0 then
      if redis.call('HLEN', K_PERMITS) >= MOST_KNOWN then return false end
      redis.call('HSET', K_PERMITS, limit.pool, '0 0 0 0')
    end
  end
  return true
end

-- Looks again at a limit key whose tasks stand apart. A claim lets them go (to_move in lib/permits.lua); other scripts wake those who claim.
local function look_at_key(name, now, loud)
  if not redis.call('ZSCORE', K_HELD_KEYS, name) then return end
  local limits = is_steered() and limits_named(name)
  local at, starving = now, false
  if limits then at, starving = room_at(limits, now) end
  if permits.W then return permits.to_move(name, limits, at, starving, now) end
  redis.call('ZADD', K_HELD_KEYS, at, name)
  if at > now or not loud then return end
  local waiting = { w = 0, other = 0 }
  for _, set in ipairs(sets_of(name)) do
    local kind = byte(set.lane) == 119 and 'w' or 'other'
    waiting[kind] = waiting[kind] + redis.call('ZCARD', set.key)
  end
  call_for(waiting, now)
end

-- Looks again at a queue that is held: it is let go where there is room, and else looked at when there may be. loud: those who
-- claim are woken, else the queue is listed in permits.let. The same of a limit key.
permits.let = {}
local function look_again(queue, now, loud)
  if string.find(queue, '\1', 1, true) then return look_at_key(queue, now, loud) end
  if not redis.call('ZSCORE', K_HELD, queue) then return end
  local limits = limits_of('w' .. queue)
  local at = limits and room_at(limits, now) or now
  if at <= now then
    local waiting = let_go(queue)
    if loud then call_for(waiting, now) else permits.let[#permits.let + 1] = queue end
  else
    redis.call('ZADD', K_HELD, at, queue)
  end
end

-- For how long (ms) permits of tasks that were acked first are kept at most: the longest that a holder asked for.
local LONGEST = 3600000
function permits.kept_ms() return tonumber(redis.call('HGET', K_CLOCK, 'kept') or '') or LONGEST end
function permits.note_kept(ms)
  local known = tonumber(redis.call('HGET', K_CLOCK, 'kept') or '')
  if not known or ms > known then redis.call('HSET', K_CLOCK, 'kept', ms) end
end

local freed = {}
-- The permit that a task has of a queue or limit key comes back. kept_ms: it was to be handed out at most once, and is acked before; so it
-- has its permit for this long, unless its holder extends that.
function permits.back(id, name, now, kept_ms)
  if kept_ms then
    permits.note_kept(kept_ms)
    redis.call('ZADD', k_used('c' .. name), 'XX', now + kept_ms, id)
  else
    redis.call('ZREM', k_used('c' .. name), id)
  end
  freed[name] = true
end

-- Whether permits of a queue or limit key that came back are used here next: work waits for them, and nobody has asked for them back.
local function stay(name, now)
  for _, limit in ipairs(is_steered() and limits_named(name) or {}) do
    local b = limit.hold == 0 and budget_of(limit.pool)
    if b and now < b.upto and b.cap < b.budget then return false end
  end
  if string.find(name, '\1', 1, true) then return redis.call('ZSCORE', K_HELD_KEYS, name) end
  return redis.call('ZRANGE', K_LIMITED, '[' .. name .. '\0', '(' .. name .. '\1', 'BYLEX', 'LIMIT', 0, 1)[1]
end

-- Call it at the end: whoever waits for permits that came back is let go. Returns the names of those that others may use, or nil.
local function settle_freed(now)
  local elsewhere
  for name in pairs(freed) do
    look_again(name, now, true)
    if not stay(name, now) then
      elsewhere = elsewhere or {}
      elsewhere[#elsewhere + 1] = name
    end
  end
  return elsewhere
end

permits.of = limits_of
permits.named = limits_named
permits.sets = sets_of
permits.room = room_of
permits.room_at = room_at
permits.hold_back = hold_back
permits.lanes = limited_lanes
permits.call_for = call_for
permits.look_again = look_again
permits.settle = settle_freed
permits.budget = budget_of
permits.freed = freed
permits.hungry, permits.urgent = hungry, urgent
permits.K, permits.k_used, permits.FOREVER = K_PERMITS, k_used, FOREVER
permits.HELD, permits.HELD_KEYS, permits.APART, permits.UNSERVED = K_HELD, K_HELD_KEYS, K_APART, K_UNSERVED
permits.k_waits, permits.has_place, permits.MOST_KNOWN, permits.WITHOUT_PLACE = k_waits, has_place, MOST_KNOWN, WITHOUT_PLACE
return permits()
end })
