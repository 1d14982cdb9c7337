#!lua flags=allow-oom
-- Deletes kept results whose time is over, the oldest first.
-- KEYS  1 hash tag of the partition
-- ARGV  1 how many at most (<= 500)
-- REPLY how many were deleted; fewer than asked for when no more are over
-- ERRORS TRYAGAIN (nothing written)
-- BOUND 500 results
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/guard.lua
local err = guard({ K_RESULTS, K_RESULTS_AT })
if err then return err end
local over = redis.call('ZRANGE', K_RESULTS_AT, '-inf', now_ms(), 'BYSCORE', 'LIMIT', 0, ARGV[1])
if #over == 0 then return 0 end
redis.call('HDEL', K_RESULTS, unpack(over))
-- They are the first ones, so their rank names them.
redis.call('ZREMRANGEBYRANK', K_RESULTS_AT, 0, #over - 1)
return #over
