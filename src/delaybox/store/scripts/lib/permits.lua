-- Limits of queues: how many permits this partition may have in use, and how many are. Needs time, record, extension, keys, pauses, turns; claims, check and index also limit_keys.
-- A limit is a pool of permits, named by its kind and its queue: 'c' concurrency, 'r' rate. What this partition may use stands in
-- `permits`: budget, number of the last grant, and while others wait a cap and until when it counts (core/queue_limits.py). What is in use
-- stands in a set for each pool: until its task leaves the lease, or until a time.
-- A limit key (core/limit_keys.py) is a pool's name too: queue, \1, what it goes by, \1, value. A task whose key has no room when a claim meets
-- it moves from its lane's ready set to a set of its own: `waits:` and queue, key, NUL, '!' or '-', lane, which `apart` lists. There it costs
-- nothing until its key is looked at again (`held:keys`).
-- All of it stands in one table, which is made when a script asks for it: most scripts meet no limit, and pay nothing for this.

local permits = setmetatable({}, { __call = function(permits)
if permits.made then return permits end
permits.made = true
local K_HELD = T .. ':held'
local K_PERMITS = T .. ':permits'
local K_APART, K_HELD_KEYS = T .. ':apart', T .. ':held:keys'
local function k_used(pool) return T .. ':used:' .. pool end
local function k_waits(member) return T .. ':waits:' .. member end
local EXT_ONCE, EXT_PERMIT, EXT_KEYS = 5, EXT.PERMIT, EXT.LIMIT_KEYS
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

-- Looks again at a limit key whose tasks stand apart. A claim lets them go (let_keys_go); other scripts wake those who claim.
local AHEAD, LOOK_AGAIN = 3600000, 1000
permits.moves = 500
local let_keys_go
local function look_at_key(name, now, loud)
  if not redis.call('ZSCORE', K_HELD_KEYS, name) then return end
  local limits = is_steered() and limits_named(name)
  local at, starving = now, false
  if limits then at, starving = room_at(limits, now) end
  if at > now then
    if permits.W then
      if has_place(limits) then hungry[name] = starving else at = WITHOUT_PLACE end
    end
    redis.call('ZADD', K_HELD_KEYS, at, name)
  elseif permits.W then
    let_keys_go(name, limits and room_of(limits, now) or FOREVER, now)
  else
    redis.call('ZADD', K_HELD_KEYS, now, name)
    if not loud then return end
    local waiting = { w = 0, other = 0 }
    for _, set in ipairs(sets_of(name)) do
      local kind = byte(set.lane) == 119 and 'w' or 'other'
      waiting[kind] = waiting[kind] + redis.call('ZCARD', set.key)
    end
    call_for(waiting, now)
  end
end

-- Tasks of a limit key are ready again: as many as there is room for, earliest first, critical ones before all. What is gone or was moved
-- to another lane is left out.
function let_keys_go(name, room, now)
  local sets, keyed = sets_of(name), {}
  local function head(set)
    local first = redis.call('ZRANGE', set.key, 0, 0, 'WITHSCORES')[2]
    set.at = first and tonumber(first) - (set.critical and AHEAD or 0) or nil
  end
  for _, set in ipairs(sets) do head(set) end
  while room > 0 and permits.moves > 0 do
    local best
    for _, set in ipairs(sets) do
      if set.at and (not best or set.at < best.at) then best = set end
    end
    if not best then break end
    local flat = redis.call('ZRANGE', best.key, 0, math.min(room, permits.moves, 16) - 1, 'WITHSCORES')
    for i = 1, #flat, 2 do
      local id = flat[i]
      local rec = redis.call('HGET', k_bucket(math.floor(id_due(id) / permits.W)), id)
      permits.moves = permits.moves - 1
      local kind, flags, due, lane_at
      if rec then kind, flags, due, lane_at = rec_head(id, rec) end
      -- One that was replaced by a task of another lane or priority has its hint there. One that is not due yet goes as well, though it
      -- uses no room: it may have no other hint, where the clock went back. The claim that meets it indexes it again.
      if kind and (kind ~= 'ok' or rec_lane(rec, lane_at) == best.lane and (flags % 4 == 0) == best.critical) then
        room, best.moved = room - (due and due > now and 0 or 1), true
        redis.call('ZADD', k_ready(best.lane, best.critical), flat[i + 1], id)
        if kind == 'ok' and byte(rec, 1) >= FRESH_EXT then fair.note(rec, flags, best.lane, due) end
        if fair.has(best.lane) then keyed[#keyed + 1] = { id, best.lane, best.critical, tonumber(flat[i + 1]), rec } end
      end
      redis.call('ZREM', best.key, id)
    end
    head(best)
  end
  local left = false
  for _, set in ipairs(sets) do
    if set.moved then activate(set.lane, set.critical) end
    if set.at then left = true else redis.call('ZREM', K_APART, set.member) end
  end
  if #keyed > 0 then fair.enlist(keyed, permits.W) end
  -- What was let go may end without having used a permit, so the others are looked at again after a while.
  if not left then redis.call('ZREM', K_HELD_KEYS, name)
  else redis.call('ZADD', K_HELD_KEYS, room > 0 and now or now + LOOK_AGAIN, name) end
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

-- What this script knows of limit keys: their room, whether it used some, and whether tasks of theirs stand apart.
local states, apart, turns = {}, { order = {}, by = {} }, nil
local function state_of(name, now)
  local state = states[name]
  if not state then
    local limits = limits_named(name)
    state = { limits = limits, room = room_of(limits, now) }
    states[name] = state
  end
  return state
end

-- A candidate of a claim that stands apart is no turn of its lane, and no turn of its fairness key.
local function no_turn(out, i)
  if fair.no_turn(out, i) then return end
  if not turns then
    turns = {}
    for _, lane in ipairs(out.turns) do turns[lane.key] = lane end
  end
  local lane = turns[out.keys[i]]
  if lane then lane.n = lane.n - 1 end
end

-- Whether a record that lies at home stands apart because of a limit key.
function permits.stands_apart(id, rec, at, flags, lane)
  local limits = limits_of(lane)
  for _, name in ipairs(limits and limits.keyed and labels.limit_keys(limits, id, rec, at, flags) or {}) do
    local member = name .. '\0' .. (flags % 4 == 0 and '!' or '-') .. lane
    if redis.call('ZSCORE', k_waits(member), id) and redis.call('ZSCORE', K_APART, member)
      and redis.call('ZSCORE', K_HELD_KEYS, name) then return true end
  end
  return false
end

-- Whether a record stands apart because of a rule that is no more: a claim that looks at its key brings it back.
function permits.left_apart(id, flags, lane)
  local queue, suffix = string.match(lane, '^.([^:]*)'), '\0' .. (flags % 4 == 0 and '!' or '-') .. lane
  for _, member in ipairs(redis.call('ZRANGE', K_APART, '[' .. queue .. '\1', '(' .. queue .. '\2', 'BYLEX', 'LIMIT', 0, MOST_LANES)) do
    if string.sub(member, -#suffix) == suffix and redis.call('ZSCORE', k_waits(member), id)
      and redis.call('ZSCORE', K_HELD_KEYS, string.match(member, '^[^%z]*')) then return true end
  end
  return false
end

-- Whether a candidate of a claim has a limit key without room. Then it is noted as one that stands apart. deadline: its virtual one.
function permits.blocks(out, i, id, rec, at, flags, deadline)
  local lane = rec_lane(rec, at)
  local limits = limits_of(lane)
  permits.chosen = nil
  if not limits or not limits.keyed then return false end
  local names = labels.limit_keys(limits, id, rec, at, flags)
  for _, name in ipairs(names) do
    local state = state_of(name, permits.now)
    if state.room < 1 then
      local member = name .. '\0' .. (flags % 4 == 0 and '!' or '-') .. lane
      add2(apart, k_waits(member), deadline, id)
      add2(apart, K_APART, 0, member)
      state.apart, permits.moved, urgent[name] = true, true, urgent[name] or flags % 4 == 0
      no_turn(out, i)
      return true
    end
  end
  permits.chosen = names[1] and names
  return false
end

-- Notes what a candidate uses of its limit keys. Returns what its record must say of them, or nil.
local function use_keys(id, delivery, now, leased)
  local says
  for _, name in ipairs(permits.chosen or {}) do
    local state = states[name]
    state.room, state.used = state.room - 1, true
    if use_permits(permits.using, state.limits, id, delivery, now, leased) then says = says and says .. '\0' .. name or name end
  end
  return says
end

local freed = {}
-- For how long (ms) permits of tasks that were acked first are kept at most: the longest that a holder asked for.
local LONGEST = 3600000
function permits.kept_ms() return tonumber(redis.call('HGET', K_CLOCK, 'kept') or '') or LONGEST end
function permits.note_kept(ms)
  local known = tonumber(redis.call('HGET', K_CLOCK, 'kept') or '')
  if not known or ms > known then redis.call('HSET', K_CLOCK, 'kept', ms) end
end

-- A record on its way out of a lease gives its permit back. once_ms: it was to be handed out at most once, and is acked before; so
-- it has its permit for this long, unless its holder extends that. Returns the record as it may stand elsewhere.
local function give_back(id, rec, now, once_ms)
  if byte(rec, 1) < FRESH_EXT then return rec end
  local kind, flags, _, at = rec_head(id, rec)
  if kind ~= 'ok' then return rec end
  local once = once_ms and ext_get(rec, at, flags, EXT_ONCE)
  if once then permits.note_kept(once_ms) end
  local function back(name)
    if once then
      redis.call('ZADD', k_used('c' .. name), 'XX', now + once_ms, id)
    else
      redis.call('ZREM', k_used('c' .. name), id)
    end
    freed[name] = true
  end
  local names = ext_get(rec, at, flags, EXT_KEYS)
  if ext_get(rec, at, flags, EXT_PERMIT) then
    back(string.match(rec_lane(rec, at), '^.([^:]*)'))
    rec = ext_set(rec, at, flags, EXT_PERMIT, nil)
  end
  if names then
    for name in string.gmatch(names, '[^%z]+') do back(name) end
    rec = ext_set(rec, at, flags, EXT_KEYS, nil)
  end
  return rec
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
permits.hold_back = hold_back
permits.lanes = limited_lanes
permits.call_for = call_for
permits.look_again = look_again
permits.use = use_permits
function permits.write(using, now)
  write_used(using, now)
  flush(apart, 'ZADD')
  for name, state in pairs(states) do
    if state.apart or state.used and redis.call('ZSCORE', K_HELD_KEYS, name) then
      local at, starving = room_at(state.limits, now)
      if state.apart then
        if has_place(state.limits) then hungry[name] = starving else at = WITHOUT_PLACE end
      end
      redis.call('ZADD', K_HELD_KEYS, at, name)
    end
  end
end
-- The keys that write() touches.
function permits.touches()
  local keys = { K_PERMITS, K_HELD_KEYS, unpack(permits.using.order) }
  for _, key in ipairs(apart.order) do keys[#keys + 1] = key end
  return keys
end
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
  rec = ext_set(rec, 16, flags, EXT_KEYS, use_keys(id, deliveries + 1, now, true))
  return rec, byte(rec, 1), 16
end
-- The same of one that is fired in place.
function permits.fire(id, rec, at, now)
  local limits = limits_of(rec_lane(rec, at))
  if limits then
    use_permits(permits.using, limits, id, 0, now, false)
    use_keys(id, 0, now, false)
  end
end
-- The queues that were held back, as a claim answers them.
function permits.waits()
  local waits = {}
  for queue, starving in pairs(hungry) do
    waits[#waits + 1] = queue
    waits[#waits + 1] = starving and 1 or urgent[queue] and 2 or 0
  end
  return waits
end
permits.FOREVER, permits.TAG, permits.TAG_KEYS, permits.WITHOUT_PLACE = FOREVER, EXT_PERMIT, EXT_KEYS, WITHOUT_PLACE
-- As gather makes it; only claims note what they use.
permits.HELD, permits.HELD_KEYS, permits.APART, permits.using = K_HELD, K_HELD_KEYS, K_APART, { order = {}, by = {} }
permits.k_waits, permits.has_place, permits.MOST_KNOWN = k_waits, has_place, MOST_KNOWN
return permits
end })
