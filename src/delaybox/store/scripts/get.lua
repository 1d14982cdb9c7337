#!lua flags=no-writes,allow-oom
-- Where one task stands.
-- KEYS  1 hash tag of the partition
-- ARGV  1 id, 2 bucket width ms
-- REPLY {now ms} when unknown, else {now ms, home | lease | dead | quarantine, value, body or '', lease id or ''}
-- BOUND one task; one that is not pending looks through at most 5,000 leases
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/find.lua
local where, value, lid = find(ARGV[1], tonumber(ARGV[2]))
if not where then return { now_ms() } end
return { now_ms(), where, value, redis.call('GET', k_body(ARGV[1])) or '', lid or '' }
