#!lua flags=allow-oom
-- Heartbeat: moves the expiry of leases that still exist.
-- KEYS  1 hash tag of the partition
-- ARGV  1 lease ms, then lease ids
-- REPLY lease ids that are gone (their work was taken back)
-- BOUND 500 leases
--@include lib/time.lua
--@include lib/keys.lua
local until_ms = now_ms() + tonumber(ARGV[1])
local missing = {}
for i = 2, #ARGV do
  if redis.call('ZSCORE', K_LEASES, ARGV[i]) then
    redis.call('ZADD', K_LEASES, 'XX', until_ms, ARGV[i])
  else
    missing[#missing + 1] = ARGV[i]
  end
end
return missing
