#!lua flags=allow-oom
-- Keeps or gives back the permits of tasks that were handed out at most once: they were acked before, so no lease keeps them.
-- KEYS  1 hash tag of the partition
-- ARGV  1 for how long ms (0 = given back), then (name of a queue or limit key that has such a permit, id) ...
-- REPLY how many of them had a permit
-- ERRORS TRYAGAIN (nothing written)
-- BOUND 500 tasks
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/guard.lua
--@include lib/pauses.lua
--@include lib/turns.lua
--@include lib/limits.lua
local now, keep_ms, had = now_ms(), tonumber(ARGV[1]), 0
local keys = { K_CLOCK, permits().K, K_LIMITED, permits().HELD, permits().APART, permits().HELD_KEYS }
for i = 2, #ARGV, 2 do keys[#keys + 1] = permits().k_used('c' .. ARGV[i]) end
local err = guard(keys)
if err then return err end
if keep_ms > 0 then permits().note_kept(keep_ms) end
for i = 2, #ARGV, 2 do
  local queue, id = ARGV[i], ARGV[i + 1]
  if keep_ms > 0 then
    had = had + redis.call('ZADD', permits().k_used('c' .. queue), 'XX', 'CH', now + keep_ms, id)
    permits().freed[queue] = true
  elseif redis.call('ZREM', permits().k_used('c' .. queue), id) == 1 then
    had = had + 1
    permits().freed[queue] = true
  end
end
permits().settle(now)
return had
