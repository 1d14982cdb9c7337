#!lua flags=allow-oom
-- Heartbeat: moves the expiry of leases that still exist.
-- KEYS  1 hash tag of the partition
-- ARGV  1 lease ms, for lease ids that do not carry their length, then lease ids
-- REPLY lease ids that are gone (their work was taken back)
-- BOUND 500 leases
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/lease.lua
local now, lease_ms = now_ms(), tonumber(ARGV[1])
local missing = {}
for i = 2, #ARGV do
  local lid = ARGV[i]
  if redis.call('ZSCORE', K_LEASES, lid) then
    redis.call('ZADD', K_LEASES, 'XX', now + lease_length(lid, lease_ms), lid)
  else
    missing[#missing + 1] = lid
  end
end
return missing
