-- Limits of queues: how many permits this partition may have in use, and how many are. Needs time, record, extension, keys, turns.
-- A limit is a pool of permits, named by its kind and its queue: 'c' concurrency, 'r' rate. What this partition may use stands in
-- `permits`: budget, number of the last grant, and while others wait a cap and until when it counts (core/permits.py). What is in use
-- stands in a set for each pool: until its task leaves the lease, or until a time.
-- All of it stands in one table, which is made when a script asks for it: most scripts meet no limit, and pay nothing for this.

local permits = setmetatable({}, { __call = function(permits)
if permits.made then return permits end
permits.made = true
local K_HELD = T .. ':held'
local K_PERMITS = T .. ':permits'
local function k_used(pool) return T .. ':used:' .. pool end
local EXT_ONCE, EXT_PERMIT = 5, 6
local FOREVER = 1e15

local limits_known = {}
-- The limits of a lane's queue, a list of {pool, key, most, hold}; nil: it has none.
local function limits_of(lane)
  if not is_steered() then return nil end
  local queue = string.match(lane, '^.([^:]*)')
  local known = limits_known[queue]
  if known == nil then
    known = false
    if rule_of(lane, 'limited') then
      known = { queue = queue }
      local most = tonumber(rule_of(lane, 'concurrency') or '')
      if most then known[1] = { pool = 'c' .. queue, key = k_used('c' .. queue), most = most, hold = 0 } end
      local count, hold = string.match(rule_of(lane, 'rate') or '', '^(%d+),(%d+)$')
      if count then
        known[#known + 1] =
          { pool = 'r' .. queue, key = k_used('r' .. queue), most = tonumber(count), hold = tonumber(hold) }
      end
    end
    limits_known[queue] = known
  end
  return known or nil
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

-- Queues of which a lane was held back in this script: true where a budget is empty.
local hungry = {}

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
  hungry[limits.queue] = hungry[limits.queue] or starving
  return true
end

-- The lanes of a queue that have ready work, as members of `limited`.
local MOST_LANES = 1000
local function limited_lanes(queue)
  return redis.call('ZRANGE', K_LIMITED, '[' .. queue .. '\0', '(' .. queue .. '\1', 'BYLEX', 'LIMIT', 0, MOST_LANES)
end

-- Lets the lanes of a queue be found again. Returns how many tasks wait in them, those of workers and others.
local function let_go(queue)
  local waiting = { w = 0, other = 0 }
  for _, member in ipairs(limited_lanes(queue)) do
    local lane, critical = parked_parts(member)
    local count = redis.call('ZCARD', k_ready(lane, critical))
    if count > 0 then
      activate(lane, critical, true)
      local kind = byte(lane) == 119 and 'w' or 'other'
      waiting[kind] = waiting[kind] + count
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

-- Looks again at a queue that is held: it is let go where there is room, and else looked at when there may be. loud: those who
-- claim are woken.
local function look_again(queue, now, loud)
  if not redis.call('ZSCORE', K_HELD, queue) then return end
  local limits = limits_of('w' .. queue)
  local at = limits and room_at(limits, now) or now
  if at <= now then
    local waiting = let_go(queue)
    if loud then call_for(waiting, now) end
  else
    redis.call('ZADD', K_HELD, at, queue)
  end
end

-- Notes in `using` what a task that is claimed uses. Returns whether its record must say so, because the permit comes back when it leaves
-- the lease. leased: it is, else it is fired in place.
local function use_permits(using, limits, id, delivery, now, leased)
  local says = false
  for _, limit in ipairs(limits) do
    if limit.hold > 0 then
      add2(using, limit.key, now + limit.hold, id .. struct.pack('>I4', delivery))
    elseif leased then
      add2(using, limit.key, '+inf', id)
      says = true
    end
  end
  return says
end

-- Uses what was noted, and forgets what is used no more.
local function write_used(using, now)
  for _, key in ipairs(using.order) do redis.call('ZREMRANGEBYSCORE', key, '-inf', '(' .. int(now)) end
  flush(using, 'ZADD')
end

local freed = {}
-- A record on its way out of a lease gives its permit back. once_ms: it was to be handed out at most once, and is acked before; so
-- it has its permit for this long, unless its holder extends that. Returns the record as it may stand elsewhere.
local function give_back(id, rec, now, once_ms)
  if byte(rec, 1) < FRESH_EXT then return rec end
  local kind, flags, _, at = rec_head(id, rec)
  if kind ~= 'ok' or not ext_get(rec, at, flags, EXT_PERMIT) then return rec end
  local queue = string.match(rec_lane(rec, at), '^.([^:]*)')
  if once_ms and ext_get(rec, at, flags, EXT_ONCE) then
    redis.call('ZADD', k_used('c' .. queue), 'XX', now + once_ms, id)
  else
    redis.call('ZREM', k_used('c' .. queue), id)
  end
  freed[queue] = true
  return ext_set(rec, at, flags, EXT_PERMIT, nil)
end

-- Call it at the end: whoever waits for permits that came back is let go.
local function settle_freed(now)
  for queue in pairs(freed) do look_again(queue, now, true) end
end

permits.of = limits_of
permits.room = room_of
permits.hold_back = hold_back
permits.lanes = limited_lanes
permits.call_for = call_for
permits.look_again = look_again
permits.use = use_permits
permits.write = write_used
permits.give_back = give_back
permits.settle = settle_freed
permits.budget = budget_of
permits.freed = freed
permits.K, permits.k_used = K_PERMITS, k_used
-- A record that is claimed: noted, and marked where it must give its permit back. Returns it in full shape, its first byte and where its
-- lane is; what has no limit stays as it is.
function permits.lend(id, rec, at, flags, due, now)
  local limits = limits_of(rec_lane(rec, at))
  if not limits then return rec, byte(rec, 1), at end
  local attempt, losses, deliveries = rec_counters(rec)
  rec = rec_build(rec, at, flags, attempt, losses, deliveries, due)
  if use_permits(permits.using, limits, id, deliveries + 1, now, true) then rec = ext_set(rec, 16, flags, EXT_PERMIT, '') end
  return rec, byte(rec, 1), 16
end
-- The same of one that is fired in place.
function permits.fire(id, rec, at, now)
  local limits = limits_of(rec_lane(rec, at))
  if limits then use_permits(permits.using, limits, id, 0, now, false) end
end
-- The queues that were held back, as a claim answers them.
function permits.waits()
  local waits = {}
  for queue, starving in pairs(hungry) do
    waits[#waits + 1] = queue
    waits[#waits + 1] = starving and 1 or 0
  end
  return waits
end
permits.FOREVER, permits.TAG = FOREVER, EXT_PERMIT
-- As gather makes it; only claims note what they use.
permits.HELD, permits.using = K_HELD, { order = {}, by = {} }
return permits
end })
