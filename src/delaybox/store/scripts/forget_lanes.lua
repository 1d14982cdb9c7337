#!lua flags=allow-oom
-- Forgets lanes that have no tasks with a fairness key any more. One that was crowded is forgotten with its last ready task (lib/turns.lua),
-- one that never was had none; and while any is remembered, claims that find one task or nothing do more than they need to.
-- KEYS  1 hash tag of the partition
-- ARGV  1 cursor as last replied ('0' first), 2 count, 3 how long ago (ms) the last such task was due at least
-- REPLY {cursor ('0' at the end), lanes forgotten}
-- ERRORS TRYAGAIN (nothing written)
-- BOUND one HSCAN reply (about count fields; a small hash comes whole, at most 512 or so)
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/guard.lua
--@include lib/pauses.lua
--@include lib/turns.lua
local err = guard({ K_FAIR, K_CLOCK, unpack(K_NEAR, 0, 11) })
if err then return err end
local latest = now_ms() - tonumber(ARGV[3])
for n = 0, 11 do
  -- What is due and not ready yet takes turns by its keys when it is.
  local first = tonumber(redis.call('ZRANGE', K_NEAR[n], 0, 0, 'WITHSCORES')[2] or '')
  if first then latest = math.min(latest, first - 1) end
end
local scan, gone = redis.call('HSCAN', K_FAIR, ARGV[1], 'COUNT', ARGV[2]), {}
for i = 1, #scan[2], 2 do
  local lane = string.match(scan[2][i], '^%.(.*)$')
  if lane and tonumber(scan[2][i + 1]) <= latest and redis.call('EXISTS', k_ready(lane, true), k_ready(lane, false)) == 0 then
    gone[#gone + 1] = scan[2][i]
  end
end
for from = 1, #gone, 1000 do redis.call('HDEL', K_FAIR, unpack(gone, from, math.min(from + 999, #gone))) end
end_fair()
return { scan[1], #gone }
