#!lua flags=allow-oom
-- Moves one pending task to another time or priority. The id stays, so its home bucket stays; the header's due counts.
-- KEYS  1 hash tag of the partition
-- ARGV  1 id, 2 bucket width ms, 3 wake channel, 4 'at', 'delay' or 'keep', 5 Unix ms or ms, 6 priority 0..3 or -1 to keep
-- REPLY {'moved', due ms} or {running | dead | quarantined | newer | unknown}
-- ERRORS TRYAGAIN (nothing written)
-- BOUND one task; one that is not pending looks through at most 5,000 leases
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/guard.lua
--@include lib/gather.lua
--@include lib/place.lua
--@include lib/find.lua
local now = now_ms()
local id, W = ARGV[1], tonumber(ARGV[2])
local where, rec = find(id, W)
if where ~= 'home' then
  local words = { lease = 'running', dead = 'dead', quarantine = 'quarantined' }
  return { words[where] or 'unknown' }
end
local kind, flags, due, at = rec_head(id, rec)
if kind ~= 'ok' then return { kind == 'newer' and 'newer' or 'quarantined' } end
local to = due
if ARGV[4] == 'at' then to = tonumber(ARGV[5]) end
if ARGV[4] == 'delay' then to = now + tonumber(ARGV[5]) end
if ARGV[4] ~= 'keep' then to = math.min(math.max(to, now), MAX_DUE) end
local lane, home = rec_lane(rec, at), math.floor(id_due(id) / W)
local err = guard({ k_bucket(home), k_bucket(math.floor(due / W)), k_bucket(math.floor(to / W)), K_BUCKETS, K_CLOCK,
  K_NEAR[0], K_NEAR[1], K_NEAR[2], K_NEAR[3], k_ready(lane, flags % 4 == 0) })
if err then return err end
local priority = tonumber(ARGV[6])
local new_flags = priority >= 0 and flags - flags % 4 + priority or flags
local attempt, losses, deliveries = rec_counters(rec)
local horizon, waits_for = clock(now)
unhint(id, flags, lane, due, W)
if place(id, rec_build(rec, at, new_flags, attempt, losses, deliveries, to), new_flags, lane, to, W, horizon) then
  wake(to, waits_for, ARGV[3])
end
return { 'moved', to }
