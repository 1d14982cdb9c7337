#!lua flags=allow-oom
-- Completes tasks of one lease and keeps their results for a while. Without a result `ack` does it, which is cheaper.
-- KEYS  1 hash tag of the partition
-- ARGV  1 lease id, 2 how long idempotency keys outlive their task ms, 3 channel for those who wait for ends,
--       then (id, how long to keep ms, result) ...
-- REPLY ids that were not in the lease (stale)
-- ERRORS TRYAGAIN (nothing written)
-- BOUND 500 ids; the caller keeps results <= 4 MiB a call
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/guard.lua
--@include lib/finish.lua
--@include lib/settle.lua
local now = now_ms()
local lid, idem_ttl = ARGV[1], ARGV[2]
local lease = k_lease(lid)
local err = guard({ lease, K_LEASES, K_RESULTS, K_RESULTS_AT })
if err then return err end
local stale, ended = {}, {}
for i = 4, #ARGV, 3 do
  local id, keep, result = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local rec = redis.call('HGET', lease, id)
  if not rec then
    stale[#stale + 1] = id
  else
    keep_result(id, result, rec, now + keep)
    local kind, flags, _, at = rec_head(id, rec)
    if kind == 'ok' then forget(id, rec, flags, at, idem_ttl) end
    leave(lease, lid, id)
    ended[#ended + 1] = id
  end
end
announce(ended, ARGV[3])
return stale
