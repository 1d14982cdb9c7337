-- Putting a record where it belongs, and taking it away. Needs time, record, keys, gather.
-- W: bucket width in ms. H: what clock() says. All hints of this file are safe to assert twice.

-- Deletes fields of buckets (bucket number -> ids through gather g keyed by bucket key) and drops empty buckets from the index.
local function drop_fields(g, numbers)
  for _, key in ipairs(g.order) do
    local l = g.by[key]
    for from = 1, #l, 1000 do
      redis.call('HDEL', key, unpack(l, from, math.min(from + 999, #l)))
    end
    if redis.call('EXISTS', key) == 0 then redis.call('ZREM', K_BUCKETS, int(numbers[key])) end
  end
end

-- Asserts the hint of a bucketed record: near before the horizon, else a pointer where its due bucket is not its home.
local function hint(id, flags, lane, due, W, H)
  if due < H then
    redis.call('ZADD', K_NEAR[flags % 4], int(due), id .. lane)
    return true
  end
  local n = math.floor(due / W)
  if n ~= math.floor(id_due(id) / W) then
    redis.call('HSET', k_bucket(n), id, '')
    redis.call('ZADD', K_BUCKETS, int(n), int(n))
  end
  return false
end

-- HSET home + buckets + hint (rule 1), and a wake-up where it is earlier than what the owner waits for.
local function place(id, rec, flags, lane, due, W, H)
  local home = math.floor(id_due(id) / W)
  redis.call('HSET', k_bucket(home), id, rec)
  redis.call('ZADD', K_BUCKETS, int(home), int(home))
  return hint(id, flags, lane, due, W, H)
end

-- Takes back every hint that a header names (rule 5).
local function unhint(id, flags, lane, due, W)
  if redis.call('ZREM', K_NEAR[flags % 4], id .. lane) == 0 then
    local critical = flags % 4 == 0
    local ready = k_ready(lane, critical)
    if redis.call('ZREM', ready, id) == 1 and redis.call('EXISTS', ready) == 0 then
      redis.call('ZREM', k_active(string.sub(lane, 1, 1), critical), lane)
    end
  end
  local n = math.floor(due / W)
  if n ~= math.floor(id_due(id) / W) then
    local key = k_bucket(n)
    if redis.call('HDEL', key, id) == 1 and redis.call('EXISTS', key) == 0 then
      redis.call('ZREM', K_BUCKETS, int(n))
    end
  end
end

-- The owner is told only of something earlier than what it waits for; its own look-up every poll covers a lost message.
local function wake(due, waits_for, channel)
  if due < waits_for then
    redis.call('HSET', K_CLOCK, 'wake', int(due))
    redis.call('PUBLISH', channel, T .. ' ' .. int(due))
  end
end

-- Tasks due before the first result (ms) get a near hint at once; the second is what the owner waits for (far when nobody
-- has said). The lead covers the time in which no owner moves the horizon.
local LEAD = 60000
local function clock(now)
  local c = redis.call('HMGET', K_CLOCK, 'horizon', 'wake')
  return math.max(tonumber(c[1]) or 0, now + LEAD), tonumber(c[2]) or 1e15
end
