#!lua flags=no-writes,allow-oom
-- The list of members.
-- KEYS  1 members hash
-- ARGV  none
-- REPLY {now ms, version of the list, {id, record, ...}, {id, ms of its last beat, ...} of those that live, {id, ms
--        from which it ranks, ...} of those of them that came back, or are ending}
-- BOUND the number of members, and the bytes of their records
--@include lib/time.lua
--@include lib/members.lua
return {
  now_ms(),
  list_version(),
  redis.call('HGETALL', K_MEMBERS),
  redis.call('ZRANGE', K_BEATS, 0, -1, 'WITHSCORES'),
  redis.call('ZRANGE', K_RETURNED, 0, -1, 'WITHSCORES'),
}
