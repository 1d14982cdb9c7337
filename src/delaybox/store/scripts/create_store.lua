#!lua flags=allow-oom
-- Creates the store's meta, or reads it. Two nodes that start together agree on the first one's. It must work on a full server too,
-- or a node that restarts could not drain it.
-- KEYS  1 meta key
-- ARGV  field, value, ... of a new store
-- REPLY flat list of fields and values that hold
-- BOUND constant
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('HSET', KEYS[1], unpack(ARGV)) end
return redis.call('HGETALL', KEYS[1])
