-- Putting any record where it belongs, and taking it away. Needs hint, gather, fair, turns.

do
local bare_clock, put = clock, place
function clock(now, read)
  local c = bare_clock(now, read)
  fair.set(c.fair)
  return c
end
-- Its fairness key is noted as well.
function place(id, rec, flags, lane, due, W, c)
  if byte(rec, 1) >= FRESH_EXT and due < c.horizon then fair.note(rec, flags, lane, due) end
  put(id, rec, flags, lane, due, W, c)
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
