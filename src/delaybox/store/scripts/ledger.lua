#!lua flags=allow-oom
-- Changes the record of pools of permits that have their home in one partition: each only where it is as the caller read it.
-- KEYS  1 hash tag of the partition
-- ARGV  (pool, its record as it was read or '' for none, new record or '' to delete) ...
-- REPLY for each pool 1 (changed) or 0 (another record stands there by now)
-- ERRORS TRYAGAIN (nothing written)
-- BOUND 200 pools
--@include lib/keys.lua
--@include lib/guard.lua
-- Pool -> how its permits are dealt.
local K_LEDGER = T .. ':ledger'
local err = guard({ K_LEDGER })
if err then return err end
local reply = {}
for i = 1, #ARGV, 3 do
  local stands = redis.call('HGET', K_LEDGER, ARGV[i]) or ''
  if stands == ARGV[i + 1] then
    if ARGV[i + 2] == '' then redis.call('HDEL', K_LEDGER, ARGV[i]) else redis.call('HSET', K_LEDGER, ARGV[i], ARGV[i + 2]) end
    reply[#reply + 1] = 1
  else
    reply[#reply + 1] = 0
  end
end
return reply
