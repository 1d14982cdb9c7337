#!lua flags=allow-oom
-- Writes a member's heartbeat, on a full server too: the member goes on firing there and must not look dead.
-- KEYS  1 nodes hash
-- ARGV  1 member id, 2 its heartbeat (JSON)
-- REPLY 1 when the member is new, else 0
-- BOUND constant
return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
