#!lua flags=allow-oom
-- Takes tasks of one lease back from a doer that went away: each is charged one loss, and dead-lettered past the cap.
-- KEYS  1 hash tag of the partition
-- ARGV  1 lease id, 2 bucket width ms, 3 wake channel, 4 cap of losses, 5 cap of dead letters,
--       6 how long idempotency keys outlive their task ms, 7 lease ms, 8 '1' = most doers went away within one lease, so
--       dead-lettering for losses is held, then ids
-- REPLY {dead-lettered, dead letters dropped by the cap, ids that were not in the lease (stale) ...}
-- ERRORS TRYAGAIN (nothing written)
-- BOUND 500 ids; the cap of dead letters drops one for each that comes in, and 500
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/extension.lua
--@include lib/guard.lua
--@include lib/gather.lua
--@include lib/fair.lua
--@include lib/pauses.lua
--@include lib/turns.lua
--@include lib/limits.lua
--@include lib/lent.lua
--@include lib/hint.lua
--@include lib/place.lua
--@include lib/ended.lua
--@include lib/forget.lua
--@include lib/finish.lua
--@include lib/callback.lua
--@include lib/settle.lua
--@include lib/loss.lua
local now = now_ms()
local lid, W, losses_cap, cap, idem_ttl = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local lease = k_lease(lid)
local c = clock(now)
local keys = { lease, K_LEASES, K_LEASED, K_BUCKETS, K_CLOCK, K_DEAD, K_DEAD_AT, K_GROUPS, callback_keys(now, W) }
for i = 9, #ARGV do keys[#keys + 1] = k_bucket(math.floor(id_due(ARGV[i]) / W)) end
local err = guard(keys)
if err then return err end
local reply = { 0, 0 }
local hold = held(ARGV[8] == '1', now, tonumber(ARGV[7]))
for i = 9, #ARGV do
  local id = ARGV[i]
  local rec = redis.call('HGET', lease, id)
  if not rec then
    reply[#reply + 1] = id
  else
    rec = without_permit(id, rec, now)
    local _, flags, due, at = rec_head(id, rec)
    local dropped = charge_loss(id, rec, flags, due, at, now, 'worker', 0, losses_cap, hold, cap, idem_ttl, W, c)
    if dropped then reply[1], reply[2] = reply[1] + 1, reply[2] + dropped end
    leave(lease, lid, id)
  end
end
part()
call_back(now, W, ARGV[3])
wake(c, ARGV[3])
settle_permits(now)
return reply
