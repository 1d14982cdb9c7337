#!lua flags=allow-oom
-- Completes tasks of one lease and keeps their results for a while. Without a result `ack` does it, which is cheaper.
-- KEYS  1 hash tag of the partition
-- ARGV  1 lease id, 2 how long idempotency keys outlive their task ms, 3 channel for those who wait for ends (announce in lib/finish.lua),
--       4 bucket width ms, 5 wake channel, 6 number of tasks k that were cancelled while they ran, k x id, then (id, how long to keep ms, result) ...
-- REPLY ids that were not in the lease (stale)
-- ERRORS TRYAGAIN (nothing written)
-- BOUND 500 ids; the caller keeps results <= 4 MiB a call
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/extension.lua
--@include lib/guard.lua
--@include lib/gather.lua
--@include lib/fair.lua
--@include lib/pauses.lua
--@include lib/turns.lua
--@include lib/permits.lua
--@include lib/lent.lua
--@include lib/hint.lua
--@include lib/place.lua
--@include lib/forget.lua
--@include lib/finish.lua
--@include lib/callback.lua
-- Bytes of a result that is announced with the end of its task, at most.
local ANNOUNCED = 512
local now = now_ms()
local lid, idem_ttl, W = ARGV[1], ARGV[2], tonumber(ARGV[4])
local lease = k_lease(lid)
local err = guard({ lease, K_LEASES, K_LEASED, K_RESULTS, K_RESULTS_AT, K_GROUPS, callback_keys(now, W) })
if err then return err end
local stale, ended, kept, until_ms = {}, {}, gather(), gather()
local ids, taken, cancelled, result = {}, {}, {}, nil
local first = 7 + tonumber(ARGV[6])
for i = 7, first - 1 do cancelled[ARGV[i]] = true end
for i = first, #ARGV, 3 do ids[#ids + 1] = ARGV[i] end
local records = redis.call('HMGET', lease, unpack(ids))
for n, id in ipairs(ids) do
  local i = first + 3 * (n - 1)
  local rec = records[n]
  if not rec or taken[id] then
    stale[#stale + 1] = id
  else
    taken[id] = true
    rec = without_permit(id, rec, now)
    local value = result_value(ARGV[i + 2], rec)
    if #ids == 1 and #ARGV[i + 2] <= ANNOUNCED and tonumber(ARGV[i + 1]) >= 1000 then result = 'f' .. string.sub(value, 1, 20 + #ARGV[i + 2]) end
    add2(kept, K_RESULTS, id, value)
    add2(until_ms, K_RESULTS_AT, now + tonumber(ARGV[i + 1]), id)
    local kind, flags, _, at = rec_head(id, rec)
    if kind == 'ok' then
      forget(id, rec, flags, at, idem_ttl)
      if not cancelled[id] then succeeded(id, rec, flags, at) end
      if cancelled[id] and is_keyed(flags) then retire(id, rec_key(rec, at), ending.keep(rec, at, idem_ttl)) end
    end
    ended[#ended + 1] = id
  end
end
if #ended > 0 then
  flush(kept, 'HSET')
  flush(until_ms, 'ZADD')
  redis.call('HDEL', lease, unpack(ended))
  if redis.call('EXISTS', lease) == 0 then redis.call('ZREM', K_LEASES, lid) end
  redis.call('HDEL', K_LEASED, unpack(ended))
end
part()
call_back(now, W, ARGV[5])
settle_permits(now)
announce(ended, ARGV[3], result)
return stale
