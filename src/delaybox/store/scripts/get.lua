#!lua flags=no-writes,allow-oom
-- Where one task stands.
-- KEYS  1 hash tag of the partition
-- ARGV  1 id, 2 bucket width ms
-- REPLY {now ms} when unknown, else {now ms, home | lease | dead | quarantine | finished, value, body or '', lease id or '', result
--       or ''}; finished: value is the record it had, known while its result is kept
-- BOUND one task; 1,000 looks into leases that an earlier version made
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/leased.lua
--@include lib/find.lua
local id = ARGV[1]
local where, value, lid = find(id, tonumber(ARGV[2]))
local result, rec = '', ''
local kept = redis.call('HGET', K_RESULTS, id)
if kept then
  local n = struct.unpack('>I4', kept)
  result, rec = string.sub(kept, 5, 4 + n), string.sub(kept, 5 + n)
end
if not where then
  if rec == '' then return { now_ms() } end
  where, value = 'finished', rec
end
return { now_ms(), where, value, redis.call('GET', k_body(id)) or '', lid or '', result }
