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
--@include lib/guard.lua
--@include lib/hint.lua
--@include lib/settle.lua
local now = now_ms()
local lid, W, cap, idem_ttl = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4]), ARGV[5]
local lease = k_lease(lid)
local ids = {}
-- alone: whether all are tried again, leave no result and need nothing else.
local alone = true
for i = 7, #ARGV, 5 do
  ids[#ids + 1] = ARGV[i]
  alone = alone and tonumber(ARGV[i + 1]) >= 0 and ARGV[i + 3] == ''
end
--@include lib/read_ended.lua
local reply = { 0 }
-- extended: whether one has an extension.
local extended = false
for i, id in ipairs(ids) do
  local rec = records[i]
  if not rec then
    reply[#reply + 1] = id
  elseif byte(rec, 1) >= FRESH_EXT then
    extended = true
  end
end
-- Puts one home that is tried again. attempt: with this failure.
local function home(c, id, rec, flags, at, attempt, losses, deliveries, delay)
  local due = math.min(now + delay, MAX_DUE)
  place(id, rec_build(rec, at, flags, attempt, losses, deliveries, due), flags, rec_lane(rec, at), due, W, c)
  leave(lease, lid, id)
end
-- Puts all home. anew: EXT.due_anew, where there are extensions.
local function all_home(anew)
  local c = clock(now, read)
  for i, id in ipairs(ids) do
    local rec = records[i]
    if rec then
      local _, flags, _, at = rec_head(id, rec)
      local attempt, losses, deliveries = rec_counters(rec)
      if anew then rec = anew(rec, at, flags) end
      home(c, id, rec, flags, at, math.min(attempt + 1, 65535), losses, deliveries, tonumber(ARGV[5 * i + 3]))
    end
  end
  wake(c, ARGV[3])
  return reply
end
-- The functions below are not even made: for a lone task that takes longer than all else.
if alone and not extended then return all_home() end
--@rest
--@include lib/extension.lua
--@include lib/alone.lua
for i, id in ipairs(ids) do alone = alone and (not records[i] or goes_alone(id, records[i])) end
if alone then return all_home(EXT.due_anew) end
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
local c, ended = clock(now, read), {}
for n, id in ipairs(ids) do
  local rec, i = records[n], 5 * n + 2
  if rec then
    local delay, reason, result = tonumber(ARGV[i + 1]), ARGV[i + 2], ARGV[i + 3]
    rec = without_permit(id, rec, now)
    local _, flags, due, at = rec_head(id, rec)
    local attempt, losses, deliveries = rec_counters(rec)
    attempt = math.min(attempt + 1, 65535)
    local superseded = is_superseded(rec, at, flags)
    if superseded then
      -- Another task took its place: it is not tried again, and it is no dead letter.
      if result ~= '' then keep_result(id, result, rec, now + tonumber(ARGV[i + 4])) end
      forget(id, rec, flags, at, idem_ttl)
      ended[#ended + 1] = id
    elseif delay < 0 then
      reply[1] = reply[1] + bury(id, rec_build(rec, at, flags, attempt, losses, deliveries, due), now, reason, cap, idem_ttl)
      ended[#ended + 1] = id
    else
      home(c, id, EXT.due_anew(rec, at, flags), flags, at, attempt, losses, deliveries, delay)
    end
    if result ~= '' and not superseded then keep_result(id, result, '', now + tonumber(ARGV[i + 4])) end
    leave(lease, lid, id)
  end
end
part()
call_back(now, W, ARGV[3])
wake(c, ARGV[3])
settle_permits(now)
announce(ended, ARGV[6])
return reply
