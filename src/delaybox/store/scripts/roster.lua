#!lua flags=no-writes,allow-oom
-- The list of members, with the records that a caller does not have yet.
-- KEYS  1 members hash
-- ARGV  1 number of the last note that the caller knows of ('0': none)
-- REPLY {now ms, version of the list, number of the last note, 1 = all records follow, 0 = those noted since, {id, record, ...}, ids of
--        those that live, {id, ms from which it ranks, ...} of those of them that came back, or are ending}
-- BOUND the number of members, and the bytes of the records that follow
--@include lib/time.lua
--@include lib/members.lua
local since = ARGV[1]
local list = redis.call('HMGET', K_LIST, 'version', 'noted')
local last = tonumber(list[2] or '') or 0
-- A caller that knows of more than there was has read a list that is lost.
local all = since == '0' or tonumber(since) > last
local records = {}
if all then
  records = redis.call('HGETALL', K_MEMBERS)
elseif tonumber(since) < last then
  local ids = redis.call('ZRANGE', K_NOTED, '(' .. since, '+inf', 'BYSCORE')
  for at = 1, #ids, 1000 do
    local found = redis.call('HMGET', K_MEMBERS, unpack(ids, at, math.min(at + 999, #ids)))
    for n = 1, #found do
      -- A record may have been swept away.
      if found[n] then
        records[#records + 1] = ids[at + n - 1]
        records[#records + 1] = found[n]
      end
    end
  end
end
return {
  now_ms(),
  tonumber(list[1] or '') or 0,
  last,
  all and 1 or 0,
  records,
  redis.call('ZRANGE', K_BEATS, 0, -1),
  redis.call('ZRANGE', K_RETURNED, 0, -1, 'WITHSCORES'),
}
