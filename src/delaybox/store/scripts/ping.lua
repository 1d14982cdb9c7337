#!lua flags=no-writes,allow-oom
-- The health check: that scripts run here and the partition's clock can be read.
-- KEYS  1 hash tag of the partition
-- REPLY {now ms, id of the store that lies here or ''}
-- BOUND constant
--@include lib/time.lua
--@include lib/keys.lua
return { now_ms(), redis.call('HGET', K_CLOCK, 'store') or '' }
