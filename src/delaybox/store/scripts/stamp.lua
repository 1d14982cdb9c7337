#!lua flags=allow-oom
-- Sets fields of a hash: a store's meta, or the clock of a partition, which carries the store's id. Allowed on a full server too,
-- because a node must open its store there to drain it.
-- KEYS  1 the hash
-- ARGV  field, value, ...
-- REPLY how many fields are new
-- BOUND constant
return redis.call('HSET', KEYS[1], unpack(ARGV))
