#!lua flags=allow-oom
-- Sets fields of a hash: a store's meta, or the clock of a partition, which carries the store's id. On a full server too, or a
-- node could not open its store there to drain it.
-- KEYS  1 the hash
-- ARGV  field, value, ...
-- REPLY how many fields are new
-- BOUND constant
return redis.call('HSET', KEYS[1], unpack(ARGV))
