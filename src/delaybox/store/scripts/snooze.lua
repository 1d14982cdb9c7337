#!lua flags=allow-oom
-- Puts off tasks of one lease, because their own code asked for it. No attempt is charged; instead the whole time is limited, from
-- the first time that a task was put off. A task that would go beyond it is dead-lettered.
-- KEYS  1 hash tag of the partition
-- ARGV  1 lease id, 2 bucket width ms, 3 wake channel, 4 cap of dead letters, 5 how long idempotency keys outlive their task ms,
--       6 channel for those who wait for ends,
--       then (id, delay ms, longest whole time ms, reason if it is over, result or '', how long to keep it ms) ...
-- REPLY {dead letters dropped by the cap, number d of tasks dead-lettered, d x id, stale ids ...}
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
for i = 7, #ARGV, 6 do keys[#keys + 1] = k_bucket(math.floor(id_due(ARGV[i]) / W)) end
local err = guard(keys)
if err then return err end
local dropped, ended, gone, stale = 0, {}, {}, {}
for i = 7, #ARGV, 6 do
  local id, delay, longest = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local rec = redis.call('HGET', lease, id)
  if not rec then
    stale[#stale + 1] = id
  else
    rec = without_permit(id, rec, now)
    local _, flags, due, at = rec_head(id, rec)
    local attempt, losses, deliveries = rec_counters(rec)
    local first = ext_get(rec, at, flags, EXT_SNOOZED)
    local since = first and of_u48(first) or now
    if is_superseded(rec, at, flags) then
      forget(id, rec, flags, at, idem_ttl)
      gone[#gone + 1] = id
    elseif now + delay > since + longest then
      dropped = dropped + bury(id, rec, now, ARGV[i + 3], cap, idem_ttl)
      if ARGV[i + 4] ~= '' then keep_result(id, ARGV[i + 4], '', now + tonumber(ARGV[i + 5])) end
      ended[#ended + 1] = id
    else
      due, rec = math.min(now + delay, MAX_DUE), EXT.due_anew(rec, at, flags)
      if not first then rec = ext_set(rec, at, flags, EXT_SNOOZED, u48(now)) end
      place(id, rec_build(rec, at, flags, attempt, losses, deliveries, due), flags, rec_lane(rec, at), due, W, c)
    end
    leave(lease, lid, id)
  end
end
part()
call_back(now, W, ARGV[3])
wake(c, ARGV[3])
settle_permits(now)
announce(ended, ARGV[6])
announce(gone, ARGV[6])
local reply = { dropped, #ended, unpack(ended) }
for _, id in ipairs(stale) do reply[#reply + 1] = id end
return reply
