#!lua flags=allow-oom
-- Replaces one pending task's record by another that the caller made from it: compare and set.
-- KEYS  1 hash tag of the partition
-- ARGV  1 id, 2 bucket width ms, 3 wake channel, 4 the record as it was read, 5 the record to store (full shape; a due before now
--       becomes now), 6 body to lie apart or ''
-- REPLY {'moved', due ms} or {changed | running | dead | quarantined | unknown}
-- ERRORS TRYAGAIN (nothing written)
-- BOUND one task of at most 1 MiB; 1,000 looks into leases that an earlier version made
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/extension.lua
--@include lib/guard.lua
--@include lib/gather.lua
--@include lib/fair.lua
--@include lib/pauses.lua
--@include lib/turns.lua
--@include lib/hint.lua
--@include lib/place.lua
--@include lib/limit_keys.lua
--@include lib/limits.lua
--@include lib/apart.lua
--@include lib/leased.lua
--@include lib/find.lua
local now = now_ms()
local id, W = ARGV[1], tonumber(ARGV[2])
local where, rec = find(id, W)
if where ~= 'home' then
  local words = { lease = 'running', dead = 'dead', quarantine = 'quarantined' }
  return { words[where] or 'unknown' }
end
if rec ~= ARGV[4] then return { 'changed' } end
local _, flags, due, at = rec_head(id, rec)
local lane = rec_lane(rec, at)
local _, new_flags, to, new_at = rec_head(id, ARGV[5])
if to ~= due and to < now then to = now end
local attempt, losses, deliveries = rec_counters(ARGV[5])
local home = math.floor(id_due(id) / W)
local keys = { k_bucket(home), k_bucket(math.floor(due / W)), k_bucket(math.floor(to / W)), k_body(id), K_BUCKETS, K_CLOCK,
  k_ready(lane, flags % 4 == 0), unpack(K_NEAR, 0, 11) }
labels.touch(labels.of(id, rec, at, flags), keys)
labels.touch(labels.of(id, ARGV[5], new_at, new_flags), keys)
local sets = apart.of(id, rec, at, flags, keys)
local err = guard(keys)
if err then return err end
local c = clock(now)
unhint(id, rec, flags, at, due, W)
apart.leave(id, sets)
if ARGV[6] ~= '' then redis.call('SET', k_body(id), ARGV[6]) end
labels.leave(labels.of(id, rec, at, flags))
labels.enter(labels.of(id, ARGV[5], new_at, new_flags))
place(id, rec_build(ARGV[5], new_at, new_flags, attempt, losses, deliveries, to), new_flags, lane, to, W, c)
wake(c, ARGV[3])
if is_stub(flags) and not is_stub(new_flags) then redis.call('UNLINK', k_body(id)) end
return { 'moved', to }
