#!lua flags=allow-oom
-- Reports failed deliveries of one lease: each is retried later or dead-lettered; either way one attempt is charged.
-- KEYS  1 hash tag of the partition
-- ARGV  1 lease id, 2 bucket width ms, 3 wake channel, 4 cap of dead letters, 5 how long idempotency keys outlive their task ms,
--       6 channel for those who wait for ends, then (id, delay ms or -1 for dead, reason, result or '', how long to keep it ms) ...
-- REPLY {dead letters dropped by the cap, stale ids ...}
-- ERRORS TRYAGAIN (nothing written)
-- BOUND 500 items; the cap of dead letters drops one for each that comes in, and 500
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
--@include lib/place.lua
--@include lib/finish.lua
--@include lib/callback.lua
--@include lib/settle.lua
local now = now_ms()
local lid, W, cap, idem_ttl = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4]), ARGV[5]
local lease = k_lease(lid)
local c = clock(now)
local keys = { lease, K_LEASES, K_LEASED, K_BUCKETS, K_CLOCK, K_DEAD, K_DEAD_AT, K_RESULTS, K_RESULTS_AT, K_GROUPS, callback_keys(now, W) }
for i = 7, #ARGV, 5 do keys[#keys + 1] = k_bucket(math.floor(id_due(ARGV[i]) / W)) end
local err = guard(keys)
if err then return err end
local reply, ended = { 0 }, {}
for i = 7, #ARGV, 5 do
  local id, delay, reason = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local rec = redis.call('HGET', lease, id)
  if not rec then
    reply[#reply + 1] = id
  else
    rec = without_permit(id, rec, now)
    local _, flags, due, at = rec_head(id, rec)
    local attempt, losses, deliveries = rec_counters(rec)
    attempt = math.min(attempt + 1, 65535)
    local superseded = is_superseded(rec, at, flags)
    if superseded then
      -- Another task took its place: it is not tried again, and it is no dead letter.
      if ARGV[i + 3] ~= '' then keep_result(id, ARGV[i + 3], rec, now + tonumber(ARGV[i + 4])) end
      forget(id, rec, flags, at, idem_ttl)
      ended[#ended + 1] = id
    elseif delay < 0 then
      reply[1] = reply[1] + bury(id, rec_build(rec, at, flags, attempt, losses, deliveries, due), now, reason, cap, idem_ttl)
      ended[#ended + 1] = id
    else
      due, rec = math.min(now + delay, MAX_DUE), EXT.due_anew(rec, at, flags)
      place(id, rec_build(rec, at, flags, attempt, losses, deliveries, due), flags, rec_lane(rec, at), due, W, c)
    end
    if ARGV[i + 3] ~= '' and not superseded then keep_result(id, ARGV[i + 3], '', now + tonumber(ARGV[i + 4])) end
    leave(lease, lid, id)
  end
end
part()
call_back(now, W, ARGV[3])
wake(c, ARGV[3])
settle_permits(now)
announce(ended, ARGV[6])
return reply
