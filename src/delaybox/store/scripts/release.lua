#!lua flags=allow-oom
-- Hands tasks of one lease back, unfinished; neither attempt nor loss is charged.
-- KEYS  1 hash tag of the partition
-- ARGV  1 lease id, 2 bucket width ms, 3 wake channel, 4 delay ms before they are due again (0 = as they were), 5 the moment at which
--       they are due again, in place of a delay (Unix ms; 0 = none), then ids
-- REPLY ids that were not in the lease (stale)
-- ERRORS TRYAGAIN (nothing written)
-- BOUND 500 ids
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/guard.lua
--@include lib/hint.lua
--@include lib/settle.lua
local now = now_ms()
local lid, W, delay, moment = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4]), tonumber(ARGV[5])
local lease = k_lease(lid)
local ids = { unpack(ARGV, 6) }
--@include lib/read_ended.lua
local later = delay > 0 or moment > 0
-- extended: whether one has an extension, or gets one.
local stale, extended = {}, false
for i, id in ipairs(ids) do
  local rec = records[i]
  if not rec then
    stale[#stale + 1] = id
  else
    local first, bits = byte(rec, 1, 2)
    extended = extended or first >= FRESH_EXT or later and bits % 32 >= 16
  end
end
-- Puts one home that no other task took the place of.
local function home(c, id, rec, flags, due, at)
  if later then
    local attempt, losses, deliveries = rec_counters(rec)
    due = math.min(moment > 0 and math.max(moment, now) or now + delay, MAX_DUE)
    rec = rec_build(rec, at, flags, attempt, losses, deliveries, due)
    at = 16
  end
  place(id, rec, flags, rec_lane(rec, at), due, W, c)
  leave(lease, lid, id)
end
-- Puts all home. extend: of those that have an extension, or get one.
local function all_home(extend)
  local c = clock(now, read)
  for i, id in ipairs(ids) do
    local rec = records[i]
    if rec then
      local _, flags, due, at = rec_head(id, rec)
      if extend then rec = extend(rec, at, flags, due) end
      home(c, id, rec, flags, due, at)
    end
  end
  wake(c, ARGV[3])
  return stale
end
-- The functions below are not even made: for a lone task that takes longer than all else.
if not extended then return all_home() end
--@rest
--@include lib/extension.lua
--@include lib/alone.lua
-- It may expire, and whoever hands it out asks how late it is, which a hand-back does not mend.
local function keep_due(rec, at, flags, due)
  if not later or flags % 32 < 16 or ext_get(rec, at, flags, EXT.FIRST_DUE) then return rec end
  return ext_set(rec, at, flags, EXT.FIRST_DUE, u48(due))
end
local alone = true
for i, id in ipairs(ids) do alone = alone and (not records[i] or goes_alone(id, records[i])) end
if alone then return all_home(keep_due) end
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
local c = clock(now, read)
for i, id in ipairs(ids) do
  local rec = records[i]
  if rec then
    rec = without_permit(id, rec, now)
    local _, flags, due, at = rec_head(id, rec)
    if is_superseded(rec, at, flags) then
      -- Another task took its place: it is not tried again.
      forget(id, rec, flags, at, 0)
      leave(lease, lid, id)
    else
      home(c, id, keep_due(rec, at, flags, due), flags, due, at)
    end
  end
end
part()
wake(c, ARGV[3])
settle_permits(now)
return stale
