-- Putting a record where it belongs, and taking it away. Needs time, record, keys, gather, turns.
-- W: bucket width in ms. c: what clock() says. All hints of this file are safe to assert twice.

-- Reads the clock's hash. horizon: tasks due before it (ms) get a near hint at once; at least LEAD ahead, for times in which no node
-- moves it. looks and earliest have an entry for each group of near indexes (0, 4 for WORKER tasks, 8 for HTTP tasks). looks: when those who
-- claim there look next (far ahead if unknown). earliest: the first due time that this script hinted. store: id of this store.
-- steered: a queue may be paused (lib/pauses.lua).
local clock
do
local LEAD = 60000
-- The promise of those who take WORKER tasks counts no more when it is broken by this (ms): whoever made it is gone. A time
-- keeper's promise stays as it is, because the stand-in goes by it.
local BROKEN = 100
-- HTTP tasks are hinted in near indexes of their own while a process that claims there has promised to look, or its promise is over by
-- less than this (ms). Else they are hinted among those of time keepers, which make them ready: versions before this one know no others.
local HOOKS_GONE = 3000
-- read: the fields, where the caller has them.
function clock(now, read)
  local c = read or clock_fields()
  fair.set(c[7] ~= false)
  local workers = tonumber(c[3]) or 1e15
  if workers < now - BROKEN then workers = 1e15 end
  local hooks = tonumber(c[8]) or 0
  K_NEAR.hooks = hooks >= now - HOOKS_GONE and 8 or 0
  if hooks < now - BROKEN then hooks = 1e15 end
  return {
    horizon = math.max(tonumber(c[1]) or 0, now + LEAD),
    looks = { [0] = tonumber(c[2]) or 1e15, [4] = workers, [8] = hooks },
    earliest = { [0] = 1e15, [4] = 1e15, [8] = 1e15 },
    store = c[4] or '',
    steered = c[6] ~= false,
  }
end
end

-- Publishes a message only if something is due earlier than the next look of those who claim. They also look once every poll
-- interval, so a lost message costs no more than that. The promise of those who take HTTP tasks is lowered, but never made here where it is
-- over: HOOKS_GONE goes by it.
local function wake(c, channel)
  for base, due in pairs(c.earliest) do
    if due < c.looks[base] then
      local whose = base == 0 and '' or base == 4 and ':w' or ':h'
      if base < 8 or c.looks[8] < 1e15 then redis.call('HSET', K_CLOCK, 'wake' .. whose, due) end
      redis.call(NOTIFY, channel .. whose, int(due))
    end
  end
end

-- Deletes fields of buckets (bucket number -> ids through gather g keyed by bucket key) and drops empty buckets from the index.
local function drop_fields(g, numbers)
  for _, key in ipairs(g.order) do
    local l = g.by[key]
    for from = 1, #l, 1000 do
      redis.call('HDEL', key, unpack(l, from, math.min(from + 999, #l)))
    end
    if redis.call('EXISTS', key) == 0 then redis.call('ZREM', K_BUCKETS, numbers[key]) end
  end
end

-- Asserts the hint of a bucketed record: near before the horizon, else a pointer where its due bucket is not its home.
local function hint(id, flags, lane, due, W, c)
  if due < c.horizon then
    local base = near_base(byte(lane))
    redis.call('ZADD', K_NEAR[base + flags % 4], due, id .. lane)
    if due < c.earliest[base] then c.earliest[base] = due end
    return
  end
  local n = math.floor(due / W)
  if n ~= math.floor(id_due(id) / W) then
    redis.call('HSET', k_bucket(n), id, '')
    redis.call('ZADD', K_BUCKETS, n, n)
  end
end

-- HSET home + buckets + hint (rule 1). wake() comes when all are placed.
local function place(id, rec, flags, lane, due, W, c)
  local home = math.floor(id_due(id) / W)
  redis.call('HSET', k_bucket(home), id, rec)
  redis.call('ZADD', K_BUCKETS, home, home)
  if byte(rec, 1) >= FRESH_EXT and due < c.horizon then fair.note(rec, flags, lane, due) end
  hint(id, flags, lane, due, W, c)
end

-- Takes back every hint that the header of a record names (rule 5), and its place in the queue of its fairness key.
local function unhint(id, rec, flags, at, due, W)
  local lane = rec_lane(rec, at)
  local base = byte(lane) == 119 and 4 or 0
  local hints = redis.call('ZREM', K_NEAR[base + flags % 4], id .. lane)
  -- An HTTP task may be hinted in either place, and in both where versions work side by side.
  if byte(lane) == 104 then hints = hints + redis.call('ZREM', K_NEAR[8 + flags % 4], id .. lane) end
  if hints == 0 then
    local critical = flags % 4 == 0
    local ready = k_ready(lane, critical)
    if fair.any() then fair.leave(ready, id, rec, flags, at) end
    if redis.call('ZREM', ready, id) == 1 and redis.call('EXISTS', ready) == 0 then retire(lane, critical) end
  end
  local n = math.floor(due / W)
  if n ~= math.floor(id_due(id) / W) then
    local key = k_bucket(n)
    if redis.call('HDEL', key, id) == 1 and redis.call('EXISTS', key) == 0 then
      redis.call('ZREM', K_BUCKETS, n)
    end
  end
end
