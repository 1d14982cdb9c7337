-- What claims do with permits of limited queues (lib/limits.lua): they use them, and let go what stands apart by its limit keys. Needs
-- extension, gather, fair, limit_keys, limits.
function permits.rest()
local limits_of, limits_named, room_of, room_at = permits.of, permits.named, permits.room, permits.room_at
local has_place, sets_of, k_waits = permits.has_place, permits.sets, permits.k_waits
local hungry, urgent = permits.hungry, permits.urgent
local K_PERMITS, K_APART, K_HELD_KEYS = permits.K, permits.APART, permits.HELD_KEYS
local FOREVER, WITHOUT_PLACE = permits.FOREVER, permits.WITHOUT_PLACE
local AHEAD, LOOK_AGAIN = 3600000, 1000
permits.moves = 500
-- As gather makes it.
permits.using = { order = {}, by = {} }

-- Lanes with tasks that stand apart which nobody serves now.
local unserved
local function is_unserved(lane, now)
  if not unserved then
    unserved = {}
    for _, one in ipairs(redis.call('ZRANGE', permits.UNSERVED, now, '+inf', 'BYSCORE')) do unserved[one] = true end
  end
  return unserved[lane]
end

-- Tasks of a limit key are ready again: as many as there is room for, earliest first, critical ones before all. What is gone or was moved
-- to another lane is left out.
local function let_keys_go(name, room, now)
  local sets, keyed = sets_of(name), {}
  local function head(set)
    local first = redis.call('ZRANGE', set.key, 0, 0, 'WITHSCORES')[2]
    set.some = first
    set.at = first and not is_unserved(set.lane, now) and tonumber(first) - (set.critical and AHEAD or 0) or nil
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
  local left, more = false, false
  for _, set in ipairs(sets) do
    if set.moved then activate(set.lane, set.critical) end
    if set.some then left = true else redis.call('ZREM', K_APART, set.member) end
    more = more or set.at and room > 0
  end
  if #keyed > 0 then fair.enlist(keyed, permits.W) end
  -- What was let go may end without having used a permit, so the others are looked at again after a while.
  if not left then redis.call('ZREM', K_HELD_KEYS, name)
  else redis.call('ZADD', K_HELD_KEYS, more and now or now + LOOK_AGAIN, name) end
end

-- A limit key was looked at whose tasks stand apart. at, starving: as room_at returns them.
function permits.to_move(name, limits, at, starving, now)
  if at <= now then return let_keys_go(name, limits and room_of(limits, now) or FOREVER, now) end
  if has_place(limits) then hungry[name] = starving else at = WITHOUT_PLACE end
  redis.call('ZADD', K_HELD_KEYS, at, name)
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
-- A record that is claimed: noted, and marked where it must give its permit back. Returns it in full shape, its first byte and where its
-- lane is; what has no limit stays as it is.
function permits.lend(id, rec, at, flags, due, now)
  local limits = limits_of(rec_lane(rec, at))
  if not limits then return rec, byte(rec, 1), at end
  local attempt, losses, deliveries = rec_counters(rec)
  rec = rec_build(rec, at, flags, attempt, losses, deliveries, due)
  if use_permits(permits.using, limits, id, deliveries + 1, now, true) then rec = ext_set(rec, 16, flags, EXT.PERMIT, '') end
  rec = ext_set(rec, 16, flags, EXT.LIMIT_KEYS, use_keys(id, deliveries + 1, now, true))
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
end
