#!lua flags=allow-oom
-- Moves pending tasks to another time or priority. The id stays, so its home bucket stays; the header's due counts.
-- KEYS  1 hash tag of the partition
-- ARGV  1 bucket width ms, 2 wake channel, 3 'at', 'delay' or 'keep', 4 Unix ms or ms, 5 priority 0..3 or -1 to keep,
--       6 '' or the group that each must belong to (of another it is unknown), then ids
-- REPLY for each id: its due ms now, or running, dead, quarantined, newer or unknown
-- ERRORS TRYAGAIN (what was moved before stays moved; asking again moves it to the same place)
-- BOUND 500 ids; all together look 1,000 times into leases that an earlier version made
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
local W, how, value, priority = tonumber(ARGV[1]), ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local group = ARGV[6]
local words = { lease = 'running', dead = 'dead', quarantine = 'quarantined' }
local c = clock(now)
local reply = {}
for i = 7, #ARGV do
  local id = ARGV[i]
  local where, rec = find(id, W)
  local kind, flags, due, at
  if where == 'home' then kind, flags, due, at = rec_head(id, rec) end
  if kind == 'ok' and group ~= '' and ext_get(rec, at, flags, EXT.GROUP) ~= group then kind = nil end
  if kind == 'ok' then
    local to = due
    if how == 'at' then to = value end
    if how == 'delay' then to = now + value end
    if how ~= 'keep' then to = math.min(math.max(to, now), MAX_DUE) end
    local lane, home = rec_lane(rec, at), math.floor(id_due(id) / W)
    local keys = { k_bucket(home), k_bucket(math.floor(due / W)), k_bucket(math.floor(to / W)), K_BUCKETS, K_CLOCK,
      k_ready(lane, flags % 4 == 0), unpack(K_NEAR, 0, 11) }
    local sets = apart.of(id, rec, at, flags, keys)
    local err = guard(keys)
    if err then return err end
    local new_flags = priority >= 0 and flags - flags % 4 + priority or flags
    local attempt, losses, deliveries = rec_counters(rec)
    unhint(id, rec, flags, at, due, W)
    apart.leave(id, sets)
    -- A task that was moved by hand may be put off for the whole time again.
    if how ~= 'keep' then rec = EXT.due_anew(ext_set(rec, at, flags, EXT_SNOOZED, nil), at, flags) end
    place(id, rec_build(rec, at, new_flags, attempt, losses, deliveries, to), new_flags, lane, to, W, c)
    reply[#reply + 1] = to
  elseif kind then
    reply[#reply + 1] = kind == 'newer' and 'newer' or 'quarantined'
  else
    reply[#reply + 1] = words[where] or 'unknown'
  end
end
wake(c, ARGV[2])
return reply
