-- Putting a record that has no fairness key where it belongs. Needs time, keys, record. lib/place.lua is for any record.
-- W: bucket width in ms. c: what clock() says. All hints of this file are safe to assert twice.

-- Reads the clock's hash. horizon: tasks due before it (ms) get a near hint at once; at least LEAD ahead, for times in which no node
-- moves it. looks and earliest have an entry for each group of near indexes (0, 4 for WORKER tasks, 8 for HTTP tasks). looks: when those who
-- claim there look next (far ahead if unknown). earliest: the first due time that this script hinted. store: id of this store.
-- steered: a queue may be paused (lib/pauses.lua). fair: a lane may have fairness keys (lib/fair.lua).
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
    fair = c[7] ~= false,
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
  hint(id, flags, lane, due, W, c)
end
