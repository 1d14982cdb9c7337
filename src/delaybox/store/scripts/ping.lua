#!lua flags=no-writes,allow-oom
-- The health check: that scripts run here and the partition's clock can be read.
-- KEYS  1 hash tag of the partition
-- REPLY now ms
-- BOUND constant
--@include lib/time.lua
--@include lib/keys.lua
redis.call('HMGET', K_CLOCK, 'horizon', 'wake')
return now_ms()
