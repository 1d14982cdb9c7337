#!lua flags=allow-oom
-- Asserts the hints of one chunk of a bucket, and the groups of its tasks: expansion and scrubber are the same step (rules 4 to 6).
-- KEYS  1 hash tag of the partition
-- ARGV  1 bucket number, 2 cursor as last replied ('0' first), 3 count, 4 bucket width ms
-- REPLY {cursor ('0' at the end), fields seen, hints added, pointers dropped, quarantined}
--       A cursor carries this server's run id: after a restart or on another server it means nothing, and the scan
--       starts again at 0 (rule 4).
-- ERRORS TRYAGAIN (nothing written)
-- BOUND one HSCAN reply (about count fields; a small hash comes whole, at most 512 or so)
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/guard.lua
--@include lib/hint.lua
--@include lib/run.lua
local now = now_ms()
local number, W = tonumber(ARGV[1]), tonumber(ARGV[4])
local bucket = k_bucket(number)
local err = guard({ bucket, K_BUCKETS, K_CLOCK, K_QUAR, K_QUAR_AT, K_GROUPS, unpack(K_NEAR, 0, 11) })
if err then return err end
local fields = clock_fields()
local c = clock(now, fields)
local horizon = c.horizon
local beyond = number * W >= horizon
-- What is read in one go needs no run id, which takes the server longer than some records.
local cursor, run = '0', nil
if ARGV[2] ~= '0' then
  run = run_id()
  local at, of_run = string.match(ARGV[2], '^(%d+)@?(.*)$')
  if of_run == run then cursor = at end
end
local scan = redis.call('HSCAN', bucket, cursor, 'COUNT', ARGV[3])
cursor = scan[1] == '0' and '0' or scan[1] .. '@' .. (run or run_id())
local flat = scan[2]
-- Behind the horizon a task that was never moved needs no hint, and the scrubber meets millions of these.
local plain = beyond and #flat > 0
for i = 2, plain and #flat or 0, 2 do
  if byte(flat[i], 1) ~= FRESH then
    plain = false
    break
  end
end
-- Of tasks that have no extension, are at home here and are not ready, while no queue has rules, only the hint is asserted.
-- near: by the index, due and member of each.
local near, hints, usual = {}, 0, plain or #flat == 0 or not c.steered
for i = 1, usual and not plain and #flat or 0, 2 do
  local id, rec = flat[i], flat[i + 1]
  local kind, flags, due, at = rec_head(id, rec)
  if kind ~= 'ok' or byte(rec, 1) >= FRESH_EXT or math.floor(id_due(id) / W) ~= number
    or due >= horizon and math.floor(due / W) ~= number then
    usual = false
    break
  elseif due < horizon then
    local lane = rec_lane(rec, at)
    if due <= now and redis.call('ZSCORE', k_ready(lane, flags % 4 == 0), id) then
      usual = false
      break
    end
    local n = near_of(flags, lane)
    local list = near[n] or {}
    local end_ = #list
    near[n], list[end_ + 1], list[end_ + 2], hints = list, due, id .. lane, hints + 1
  end
end
if usual then
  for n, list in pairs(near) do
    for from = 1, #list, 1000 do redis.call('ZADD', K_NEAR[n], unpack(list, from, math.min(from + 999, #list))) end
  end
  local exists = redis.call('EXISTS', bucket) == 1
  if exists and #flat > 0 then redis.call('ZADD', K_BUCKETS, number, number) end
  if not exists and #flat == 0 then redis.call('ZREM', K_BUCKETS, number) end
  return { cursor, #flat / 2, hints, 0, 0 }
end
--@rest
--@include lib/extension.lua
--@include lib/gather.lua
--@include lib/fair.lua
--@include lib/pauses.lua
--@include lib/turns.lua
--@include lib/limit_keys.lua
--@include lib/limits.lua
--@include lib/stands_apart.lua
--@include lib/place.lua
c = clock(now, fields)
near, hints = gather(), 0
local far, active, gone, dropped, soured = {}, {}, gather(), 0, 0
local members, listed = gather(), gather()
-- kind, due
local function look(id, rec)
  local kind, flags, due, at = rec_head(id, rec)
  if kind ~= 'ok' then return kind end
  local lane = rec_lane(rec, at)
  local member = byte(rec, 1) >= FRESH_EXT and grouped(id, rec, at, flags)
  if member then add2(members, K_GROUPS, 0, member) end
  local entries = byte(rec, 1) >= FRESH_EXT and labels.of(id, rec, at, flags) or {}
  for i = 1, #entries, 2 do add1(listed, entries[i], entries[i + 1]) end
  if due < horizon then
    if byte(rec, 1) >= FRESH_EXT then fair.note(rec, flags, lane, due) end
    -- what is due may be ready already; asserting it in near as well would only make a claim look twice
    local critical = flags % 4 == 0
    if due <= now and redis.call('ZSCORE', k_ready(lane, critical), id) then
      active[lane .. (critical and '!' or '')] = { lane, critical }
    elseif not (due <= now and is_steered() and stands_apart(id, rec, at, flags, lane)) then
      add2(near, K_NEAR[near_of(flags, lane)], due, id .. lane)
      hints = hints + 1
    end
  elseif math.floor(due / W) ~= math.floor(id_due(id) / W) then
    far[#far + 1] = { id, flags, lane, due }
  end
  return kind, due
end
for i = 1, #flat, 2 do
  local id, rec = flat[i], flat[i + 1]
  local plain = beyond and byte(rec, 1) == FRESH
  local home = plain or math.floor(id_due(id) / W)
  if plain then
    -- Nothing is to be done.
  elseif home == number then
    if look(id, rec) == 'bad' then
      redis.call('HSET', K_QUAR, id, rec)
      redis.call('ZADD', K_QUAR_AT, now, id)
      soured = soured + 1
      add1(gone, bucket, id)
    end
  else
    -- a pointer: follow it; it has done its work once its task is indexed or was moved elsewhere
    local real = redis.call('HGET', k_bucket(home), id)
    local kind, due
    if real then kind, due = look(id, real) end
    if kind ~= 'newer' and not (due and due >= horizon and math.floor(due / W) == number) then
      add1(gone, bucket, id)
      dropped = dropped + 1
    end
  end
end
flush(members, 'ZADD')
flush(listed, 'SADD')
flush(near, 'ZADD')
for _, l in pairs(active) do activate(l[1], l[2]) end
for _, f in ipairs(far) do hint(f[1], f[2], f[3], f[4], W, c) end
drop_fields(gone, { [bucket] = number })
if #flat > 0 then
  if redis.call('EXISTS', bucket) == 1 then redis.call('ZADD', K_BUCKETS, number, number) end
else
  if redis.call('EXISTS', bucket) == 0 then redis.call('ZREM', K_BUCKETS, number) end
end
return { cursor, #flat / 2, hints, dropped, soured }
