-- Fairness keys: within a lane of this partition, keys with ready work take turns by start-time fair queueing. Needs time, keys, record,
-- extension, gather. Kept only while a lane has ready work of such tasks; a lane without pays one look at a field that is read anyway.
--   fair            hash: '.' + lane -> largest due ms of its hinted tasks with a key; '=' + lane[:critical] -> virtual time and takes
--                   since one by virtual deadline; '' -> how many keys the partition knows
--   fair:<lane>     zset: key -> start, of keys with ready work         fairidle:<lane>  the same of keys whose work was taken
--   fairq:<lane>    zset, all 0: key, NUL, virtual deadline (6 bytes), id, charge (8 bytes): what is ready, in order within each key
-- (with :critical behind for critical tasks). The ready set stays what it is; an entry here that it lacks is dropped when it is met.
-- Virtual time is the largest start that was served. Every twentieth take goes by virtual deadline, or new keys at capacity would
-- starve a key with a backlog.
-- looks: how many times this call may still look up what a key has. A look costs more than all else of a task, so with many keys a
-- call takes about a quarter as many tasks as with few (docs/bounds.md). passed: keys that had nothing. crowded, moved, W: set by callers.
-- Most scripts meet no such task. For these only what asks whether there are any is made; the first use of anything else makes the rest,
-- because each function of a script is made anew when it runs, which costs as much as a command.
local fair = { looks = 64, passed = 0, crowded = false, moved = false, W = false }
do
local on, lanes, marked, states = nil, {}, {}, {}

function fair.set(value) on = value end
-- Whether a lane may have ready tasks with a fairness key. Scripts that did not read the clock's hash ask for the flag.
function fair.has(lane)
  if on == nil then on = redis.call('HEXISTS', K_CLOCK, 'fair') == 1 end
  if not on then return false end
  local known = lanes[lane]
  if known == nil then
    known = redis.call('HEXISTS', K_FAIR, '.' .. lane) == 1
    lanes[lane] = known
  end
  return known
end

-- Whatever this script knows of lanes may not hold any more, because some have no ready work now.
function fair.again() on, lanes, marked, states = nil, {}, {}, {} end
-- Whether any lane has.
function fair.any()
  if on == nil then on = redis.call('HEXISTS', K_CLOCK, 'fair') == 1 end
  return on
end

setmetatable(fair, { __index = function(_, name)
setmetatable(fair, nil)
local MOST_KEYS, FORGOTTEN, EVERY, SHARED = 100000, 100, 20, '\1'

local function suffix(lane, critical) return critical and lane .. ':critical' or lane end
local function k_keys(s) return T .. ':fair:' .. s end
local function k_idle(s) return T .. ':fairidle:' .. s end
local function k_queue(s) return T .. ':fairq:' .. s end

-- The fairness key of a record and by how much the task moves it: cost over weight. '' for one without.
function fair.of(rec, at, flags)
  if byte(rec, 1) < FRESH_EXT then return '', 1 end
  -- The same as three times ext_get, without its tables.
  local key, weight, cost = '', 1, 1
  local from = behind_key(rec, at, flags)
  local high, low = byte(rec, from, from + 1)
  local stop = from + 2 + 256 * high + low
  from = from + 2
  while from + 2 < stop do
    local tag, size_high, size_low = byte(rec, from, from + 2)
    local behind = from + 3 + 256 * size_high + size_low
    if behind > stop then break end
    if tag == EXT_FAIR_KEY then key = sub(rec, from + 3, behind - 1)
    elseif tag == EXT_FAIR_WEIGHT then weight = tonumber(sub(rec, from + 3, behind - 1)) or 1
    elseif tag == EXT_COST then cost = struct.unpack('>I2', rec, from + 3) end
    from = behind
  end
  return key, key == '' and cost or cost / weight
end

-- Notes that a task of this lane with a fairness key has a hint.
function fair.mark(lane, due)
  if (marked[lane] or -1) >= due then return end
  local before = tonumber(redis.call('HGET', K_FAIR, '.' .. lane) or '') or -1
  marked[lane], lanes[lane], on = math.max(before, due), true, true
  if before < 0 then redis.call('HSET', K_CLOCK, 'fair', 1) end
  if due > before then redis.call('HSET', K_FAIR, '.' .. lane, due) end
end
-- The same by a record.
function fair.note(rec, flags, lane, due)
  local at = byte(rec, 1) % 16 == 0 and 3 or 16
  if flags < 8 then
    -- Most extensions have one entry, as of labels: it is enough to look at its tag, where it is as long as the whole.
    local from = at + 1 + byte(rec, at)
    local high, low, tag, entry_high, entry_low = byte(rec, from, from + 4)
    if tag ~= EXT_FAIR_KEY and entry_low and 256 * high + low == 256 * entry_high + entry_low + 3 then return end
  end
  if ext_get(rec, at, flags, EXT_FAIR_KEY) then fair.mark(lane, due) end
end

local ONE = struct.pack('>d', 1)
local function member(key, deadline, id, charge)
  local hi = math.floor(deadline / 4294967296)
  return key .. struct.pack('>BI2I4', 0, hi, deadline - hi * 4294967296) .. id .. (charge == 1 and ONE or struct.pack('>d', charge))
end

local function state(s)
  local known = states[s]
  if not known then
    local text = redis.call('HGET', K_FAIR, '=' .. s) or ''
    known = { virtual = tonumber(string.match(text, '^%S+') or '') or 0, since = tonumber(string.match(text, ' (%S+)') or '') or 0 }
    states[s] = known
  end
  return known
end

local function count(change)
  if change ~= 0 then redis.call('HINCRBY', K_FAIR, '', change) end
end

-- Adds ready tasks to their keys' queues. tasks: {id, lane, critical, virtual deadline, record or nil} ...; W: bucket width ms.
function fair.enlist(tasks, W)
  if #tasks == 0 then return end
  local missing, at, last, bucket = gather(), {}, nil, nil
  for i, t in ipairs(tasks) do
    if not t[5] then
      local id = t[1]
      local prefix = sub(id, 1, 6)
      if prefix ~= last then last, bucket = prefix, k_bucket(math.floor(id_due(id) / W)) end
      add2(missing, bucket, id, i)
    end
  end
  for _, key in ipairs(missing.order) do
    local flat, ids = missing.by[key], {}
    for j = 1, #flat, 2 do ids[#ids + 1] = flat[j] end
    for j, rec in ipairs(redis.call('HMGET', key, unpack(ids))) do tasks[flat[2 * j]][5] = rec end
  end
  -- The keys of each lane, and where they start: {the lane's suffix, its tasks: key, charge, task, ...; its keys; as: key -> the key whose
  -- turn it shares}.
  local found, of = {}, { [true] = {}, [false] = {} }
  for _, t in ipairs(tasks) do
    local lane, critical = t[2], t[3] and true or false
    local group = of[critical][lane]
    if not group then
      group = { s = suffix(lane, critical), tasks = {}, keys = {}, as = {} }
      of[critical][lane], found[#found + 1] = group, group
    end
    local rec, key, charge = t[5], '', 1
    if rec then
      local kind, flags, _, lane_at = rec_head(t[1], rec)
      if kind == 'ok' then key, charge = fair.of(rec, lane_at, flags) end
    end
    if not group.as[key] then group.as[key], group.keys[#group.keys + 1] = key, key end
    local l = group.tasks
    local n = #l
    l[n + 1], l[n + 2], l[n + 3] = key, charge, t
  end
  local known
  local active, over, queues = gather(), gather(), gather()
  for _, group in ipairs(found) do
    local s, keys = group.s, group.keys
    local starts, idle = redis.call('ZMSCORE', k_keys(s), unpack(keys)), nil
    for i, key in ipairs(keys) do
      if not starts[i] then
        idle = idle or redis.call('ZMSCORE', k_idle(s), unpack(keys))
        known = known or tonumber(redis.call('HGET', K_FAIR, '') or '') or 0
        local start = tonumber(idle[i] or '')
        if start then add1(over, k_idle(s), key) elseif known < MOST_KEYS then known = known + 1 else group.as[key] = SHARED end
        add2(active, k_keys(s), math.max(start or 0, state(s).virtual), group.as[key])
      end
    end
    local l, queue = group.tasks, k_queue(s)
    for i = 1, #l, 3 do
      local t = l[i + 2]
      add2(queues, queue, 0, member(group.as[l[i]], t[4], t[1], l[i + 1]))
    end
  end
  local before = 0
  for _, key in ipairs(over.order) do before = before - #over.by[key] end
  flush(over, 'ZREM')
  for _, key in ipairs(active.order) do before = before + redis.call('ZADD', key, 'NX', unpack(active.by[key])) end
  count(before)
  flush(queues, 'ZADD')
end

-- Takes a task out of its key's queue, while it stands in this ready set still. One that its key's weight, or a bound on keys, has put
-- elsewhere stays until it is met.
function fair.leave(ready, id, rec, flags, at)
  local lane = rec_lane(rec, at)
  local deadline = fair.has(lane) and redis.call('ZSCORE', ready, id)
  if deadline then
    local key, charge = fair.of(rec, at, flags)
    redis.call('ZREM', k_queue(suffix(lane, flags % 4 == 0)), member(key, tonumber(deadline), id, charge))
  end
end

-- Takes up to n ids of a lane in the order of its keys. Returns how many; lane.dry where nothing is left, lane.stopped where this call may
-- look up no more. Keys' own starts are moved by fair.settle at the end.
function fair.take(out, lane, n)
  local s = suffix(lane.name, lane.critical)
  local queue, f = k_queue(s), lane.fair
  if not f then
    f = { s = s, state = state(s), taken = {}, keys = {}, read = {}, next = 1, listed = 0, deadline = 0, chunk = {}, at = 0, used = {}, last = -1 }
    -- What became ready before its lane was known to have keys is found by virtual deadline alone.
    f.every = redis.call('ZCARD', lane.key) > redis.call('ZCARD', queue) and 2 or EVERY
    -- As many of a key's tasks are looked up at once as it will be asked for.
    f.each = math.max(math.min(math.ceil(n / math.max(redis.call('ZCARD', k_keys(s)), 1)), 64), 2)
    lane.fair = f
  end
  -- Keys that have had a turn in this call; those that have not follow one another in `f.read`, as they were read.
  local heap = f.keys
  local function before(a, b) return a.start < b.start or a.start == b.start and a.key < b.key end
  local function push(k)
    local i = #heap + 1
    heap[i] = k
    while i > 1 do
      local up = (i - i % 2) / 2
      if not before(heap[i], heap[up]) then return end
      heap[i], heap[up], i = heap[up], heap[i], up
    end
  end
  local function pop()
    local top, n = heap[1], #heap
    heap[1] = heap[n]
    heap[n] = nil
    local i = 1
    while true do
      local least = i
      for child = 2 * i, 2 * i + 1 do
        if heap[child] and before(heap[child], heap[least]) then least = child end
      end
      if least == i then return top end
      heap[i], heap[least], i = heap[least], heap[i], least
    end
  end
  -- Takes out the key with the lowest start, or nil. Those that were not read yet start no earlier than the last one that was.
  local function lowest()
    local first = heap[1]
    if f.next > #f.read and not f.all and not (first and first.start <= f.last) then
      f.read = redis.call('ZRANGE', k_keys(s), f.listed, f.listed + 63, 'WITHSCORES')
      f.listed, f.all, f.last, f.next = f.listed + #f.read / 2, #f.read < 128, tonumber(f.read[#f.read]) or 0, 1
    end
    local key = f.read[f.next]
    if key then
      local start = tonumber(f.read[f.next + 1])
      if not first or start < first.start or start == first.start and key < first.key then
        f.next = f.next + 2
        return { key = key, start = start, at = 0, from = 0 }
      end
    end
    return first and pop()
  end
  -- Of one that its key brought, that key and the charge; of others the virtual deadline.
  local function put(id, score, key, charge)
    local at = #out.ids + 1
    out.ids[at], out.keys[at], out.lanes[at] = id, lane.key, lane.name
    out.fair = out.fair or {}
    out.fair[at] = { s, score, key, charge, lane }
    f.taken[id] = true
  end
  local function by_deadline()
    while true do
      f.at = f.at + 2
      if f.at > #f.chunk then
        f.chunk = redis.call('ZRANGE', lane.key, f.deadline, f.deadline + 15, 'WITHSCORES')
        f.deadline, f.at = f.deadline + #f.chunk / 2, 2
        if #f.chunk == 0 then return false end
      end
      local id = f.chunk[f.at - 1]
      if not f.taken[id] then
        put(id, tonumber(f.chunk[f.at]))
        return true
      end
    end
  end
  local function by_key()
    while true do
      local k = lowest()
      if not k then return false end
      k.at = k.at + 1
      local m = k.found and k.found[k.at]
      if not m and not k.ended then
        if fair.looks <= 0 then
          -- Not looked up, so it has had no turn, and is none of those that are moved.
          lane.stopped = true
          return false
        end
        fair.looks = fair.looks - 1
        local size = math.min(math.max(2 * k.from, f.each), 64)
        k.found = redis.call('ZRANGE', queue, '[' .. k.key .. '\0', '(' .. k.key .. '\1', 'BYLEX', 'LIMIT', k.from, size)
        k.from, k.at, k.ended = k.from + #k.found, 1, #k.found < size
        m = k.found[1]
      end
      f.used[k.key] = k
      k.dry = k.ended and k.at >= #k.found
      if not m then
        -- All that it had is gone, because it was cancelled, say.
        fair.passed = fair.passed + 1
      else
        local at = #k.key
        local id, start = sub(m, at + 8, at + 23), k.start
        out.gone = out.gone or gather()
        add1(out.gone, queue, m)
        if not f.taken[id] then
          local charge = struct.unpack('>d', m, at + 24)
          k.start = start + charge
          if not k.dry then push(k) end
          if start > f.state.virtual then f.state.virtual = start end
          put(id, nil, k, charge)
          return true
        end
        if not k.dry then push(k) end
      end
    end
  end
  local got = 0
  while got < n and not lane.stopped do
    local turn = f.state.since >= f.every - 1
    if turn and by_deadline() then
      f.state.since = 0
    elseif by_key() then
      if not turn then f.state.since = f.state.since + 1 end
    elseif not lane.stopped and not turn and by_deadline() then
      f.state.since = 0
    else
      lane.dry = not lane.stopped
      break
    end
    got = got + 1
  end
  lane.n = lane.n + got
  return got
end

-- A candidate that is not handed out after all, such as one that was cancelled, is no turn of its key, and none of its lane: or who cancels
-- much would wait for as many turns of others. Returns whether it is one that fair.take chose.
function fair.no_turn(out, i)
  local where = out.fair and out.fair[i]
  if not where then return false end
  local key, lane = where[3], where[5]
  lane.n = lane.n - 1
  if key then key.start = key.start - where[4] end
  return true
end

-- After a claim: what was taken leaves the queues of its keys, keys move on, and some that are remembered for nothing are forgotten.
-- records: of the candidates.
function fair.settle(out, records)
  for at, where in pairs(out.fair or {}) do
    local rec = records[at]
    if where[2] and rec and rec ~= '' then
      local kind, flags, _, lane_at = rec_head(out.ids[at], rec)
      if kind == 'ok' then
        local key, charge = fair.of(rec, lane_at, flags)
        out.gone = out.gone or gather()
        add1(out.gone, k_queue(where[1]), member(key, where[2], out.ids[at], charge))
      end
    end
  end
  if out.gone then flush(out.gone, 'ZREM') end
  for _, lane in ipairs(out.turns) do
    local f = lane.fair
    if f then
      local starts, dry = gather(), gather()
      for key, k in pairs(f.used) do
        add2(starts, k.dry and k_idle(f.s) or k_keys(f.s), k.start, key)
        if k.dry then add1(dry, k_keys(f.s), key) end
      end
      flush(starts, 'ZADD')
      flush(dry, 'ZREM')
      local over = redis.call('ZRANGE', k_idle(f.s), '-inf', f.state.virtual, 'BYSCORE', 'LIMIT', 0, FORGOTTEN)
      if #over > 0 then
        redis.call('ZREM', k_idle(f.s), unpack(over))
        count(-#over)
      end
      if redis.call('EXISTS', lane.key) == 0 then lane.dry = true end
      redis.call('HSET', K_FAIR, '=' .. f.s, string.format('%.17g %d', f.state.virtual, f.state.since))
    end
  end
end
return fair[name]
end })
end
