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
--@include lib/alone.lua
--@include lib/hint.lua
--@include lib/settle.lua
local now = now_ms()
local lid, W, cap, idem_ttl = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4]), ARGV[5]
local lease = k_lease(lid)
local ids = {}
for i = 7, #ARGV, 6 do ids[#ids + 1] = ARGV[i] end
--@include lib/read_ended.lua
-- Since when its own code puts a task off, or nil; and whether it may be put off for so long.
local function allowed(rec, at, flags, delay, longest)
  local first = ext_get(rec, at, flags, EXT_SNOOZED)
  return first, now + delay <= (first and of_u48(first) or now) + longest
end
-- alone: whether all are put off, and need nothing else.
local stale, alone = {}, true
for n, id in ipairs(ids) do
  local rec, i = records[n], 6 * n + 1
  if not rec then
    stale[#stale + 1] = id
  elseif alone then
    alone = goes_alone(id, rec)
    if alone then
      local _, flags, _, at = rec_head(id, rec)
      local _, may = allowed(rec, at, flags, tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]))
      alone = may
    end
  end
end
-- Puts one home.
local function home(c, id, rec, flags, at, first, delay)
  local attempt, losses, deliveries = rec_counters(rec)
  local due = math.min(now + delay, MAX_DUE)
  rec = EXT.due_anew(rec, at, flags)
  if not first then rec = ext_set(rec, at, flags, EXT_SNOOZED, u48(now)) end
  place(id, rec_build(rec, at, flags, attempt, losses, deliveries, due), flags, rec_lane(rec, at), due, W, c)
  leave(lease, lid, id)
end
if alone then
  -- The functions below are not even made: for a lone task that takes longer than all else.
  local c = clock(now, read)
  for n, id in ipairs(ids) do
    local rec = records[n]
    if rec then
      local _, flags, _, at = rec_head(id, rec)
      home(c, id, rec, flags, at, ext_get(rec, at, flags, EXT_SNOOZED), tonumber(ARGV[6 * n + 2]))
    end
  end
  wake(c, ARGV[3])
  return { 0, 0, unpack(stale) }
end
--@rest
--@include lib/gather.lua
--@include lib/fair.lua
--@include lib/pauses.lua
--@include lib/turns.lua
--@include lib/limits.lua
--@include lib/lent.lua
--@include lib/place.lua
--@include lib/ended.lua
--@include lib/forget.lua
--@include lib/finish.lua
--@include lib/results.lua
--@include lib/callback.lua
local c, dropped, ended, gone = clock(now, read), 0, {}, {}
for n, id in ipairs(ids) do
  local rec, i = records[n], 6 * n + 1
  if rec then
    rec = without_permit(id, rec, now)
    local _, flags, _, at = rec_head(id, rec)
    local delay = tonumber(ARGV[i + 1])
    local first, may = allowed(rec, at, flags, delay, tonumber(ARGV[i + 2]))
    if is_superseded(rec, at, flags) then
      forget(id, rec, flags, at, idem_ttl)
      gone[#gone + 1] = id
      leave(lease, lid, id)
    elseif not may then
      dropped = dropped + bury(id, rec, now, ARGV[i + 3], cap, idem_ttl)
      if ARGV[i + 4] ~= '' then keep_result(id, ARGV[i + 4], '', now + tonumber(ARGV[i + 5])) end
      ended[#ended + 1] = id
      leave(lease, lid, id)
    else
      home(c, id, rec, flags, at, first, delay)
    end
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
