#!lua flags=allow-oom
-- Makes tasks due now that were put off until a moment. One that was moved, taken or cancelled since is left alone.
-- KEYS  1 hash tag of the partition
-- ARGV  1 bucket width ms, 2 wake channel, then (id, the moment ms) ...
-- REPLY how many are due now
-- ERRORS TRYAGAIN (what was moved before stays moved; asking again leaves that alone)
-- BOUND 500 tasks
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/extension.lua
--@include lib/guard.lua
--@include lib/gather.lua
--@include lib/fair.lua
--@include lib/pauses.lua
--@include lib/turns.lua
--@include lib/hint.lua
--@include lib/place.lua
local now = now_ms()
local W = tonumber(ARGV[1])
local c = clock(now)
local moved = 0
for i = 3, #ARGV, 2 do
  local id, moment = ARGV[i], tonumber(ARGV[i + 1])
  local home = k_bucket(math.floor(id_due(id) / W))
  local rec = redis.call('HGET', home, id)
  local kind, flags, due, at
  if rec then kind, flags, due, at = rec_head(id, rec) end
  if kind == 'ok' and due == moment and due > now then
    local lane = rec_lane(rec, at)
    local err = guard({ home, k_bucket(math.floor(due / W)), K_BUCKETS, K_CLOCK, k_ready(lane, flags % 4 == 0), unpack(K_NEAR, 0, 11) })
    if err then return err end
    local attempt, losses, deliveries = rec_counters(rec)
    unhint(id, rec, flags, at, due, W)
    place(id, rec_build(rec, at, flags, attempt, losses, deliveries, now), flags, lane, now, W, c)
    moved = moved + 1
  end
end
wake(c, ARGV[2])
return moved
