#!lua
-- Stores tasks, dead letters and idempotency keys of an exported store as they were. Each has a line number in its export; how far
-- a partition has the export's lines is kept beside them, so that a line that is sent again stores nothing. Refused by the server
-- itself when memory is full.
-- KEYS  1 hash tag of the partition
-- ARGV  1 id of the store, 2 bucket width ms, 3 wake channel, 4 id of the export, 5 the last line that this call and those before it
--       cover, 6 how long that is remembered ms, then (line, kind, id, value, body or '', fingerprint of the idempotency key or '') ...
--       kind p: value is the record of a task that waits; d: value is a dead letter as it is stored;
--       k: id is the idempotency key of a task that has ended, value its entry, body the moment (ms) at which it expires
-- REPLY for each: stored; known (it is here, or was stored before); ended (its key says that it was here and has ended); taken (its key
--       names another task); bad (the record cannot be read)
-- ERRORS TRYAGAIN (nothing written), STORELOST (nothing written: another store lies here, or none)
-- BOUND 100 items, the caller keeps records <= 256 KiB and bodies <= 4 MiB a call; all together look 1,000 times into leases that an
--       earlier version made
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
--@include lib/leased.lua
local now, W = now_ms(), tonumber(ARGV[2])
local c = clock(now)
if c.store ~= ARGV[1] then
  return redis.error_reply('STORELOST nothing was written: here lies store ' .. (c.store == '' and 'none' or c.store))
end
local mark = T .. ':import:' .. ARGV[4]
local covered = tonumber(redis.call('GET', mark) or '0')
local keys = { mark, K_BUCKETS, K_CLOCK, K_DEAD, K_DEAD_AT, K_GROUPS, unpack(K_NEAR, 0, 11) }
local reply, todo, seen, named, touched = {}, {}, {}, {}, {}
local function touch(key)
  if not touched[key] then
    touched[key] = true
    keys[#keys + 1] = key
  end
end

-- What is here already, asked for all at once: id -> true. The index of leases is a hint, so what it names is looked at.
local here = {}
do
  local wanted, homes = {}, gather()
  for i = 7, #ARGV, 6 do
    local id = ARGV[i + 2]
    if ARGV[i + 1] ~= 'k' and #id == 16 and tonumber(ARGV[i]) > covered then
      wanted[#wanted + 1] = id
      add1(homes, k_bucket(math.floor(id_due(id) / W)), id)
    end
  end
  if #wanted > 0 then
    for _, key in ipairs({ K_DEAD, K_QUAR, K_LEASED }) do
      for n, found in ipairs(redis.call('HMGET', key, unpack(wanted))) do
        if found and (key ~= K_LEASED or leased_by_index(wanted[n])) then here[wanted[n]] = true end
      end
    end
    for _, key in ipairs(homes.order) do
      touch(key)
      for n, found in ipairs(redis.call('HMGET', key, unpack(homes.by[key]))) do
        if found and found ~= '' then here[homes.by[key][n]] = true end
      end
    end
  end
end

local function judged(kind, id, value)
  if kind == 'k' then
    local entry = k_idem(id)
    if redis.call('EXISTS', entry) == 1 then return 'known' end
    keys[#keys + 1] = entry
    return 'stored'
  end
  local rec = value
  if kind == 'd' then
    if #value < 10 or #value < 10 + struct.unpack('>I2', value, 9) then return 'bad' end
    rec = sub(value, 11 + struct.unpack('>I2', value, 9))
  end
  local ok, flags, due, at = rec_head(id, rec)
  if ok ~= 'ok' or #id ~= 16 then return 'bad' end
  if seen[id] or here[id] or leased_unindexed(id) then return 'known' end
  local entry = is_keyed(flags) and k_idem(rec_key(rec, at))
  if entry then
    local held = named[entry] or redis.call('GETRANGE', entry, 0, 15)
    if held ~= '' then return held == id and 'ended' or 'taken' end
    named[entry] = id
    keys[#keys + 1] = entry
  end
  seen[id] = true
  touch(k_bucket(math.floor(due / W)))
  if is_stub(flags) then touch(k_body(id)) end
  labels.touch(labels.of(id, rec, at, flags), keys)
  return 'stored', { rec, flags, due, at, entry }
end

for i = 7, #ARGV, 6 do
  local word, what = 'known', nil
  if tonumber(ARGV[i]) > covered then word, what = judged(ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]) end
  reply[#reply + 1] = word
  if word == 'stored' then todo[#todo + 1] = { i, what } end
end
local err = guard(keys)
if err then return err end

local fields, numbers, near, listed = gather(), {}, gather(), {}
for _, item in ipairs(todo) do
  local i = item[1]
  local kind, id, value, body, print_ = ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5]
  if kind == 'k' then
    redis.call('SET', k_idem(id), value, 'PXAT', body)
  else
    local rec, flags, due, at, entry = unpack(item[2], 1, 5)
    local member = grouped(id, rec, at, flags)
    if member then redis.call('ZADD', K_GROUPS, 0, member) end
    labels.enter(labels.of(id, rec, at, flags))
    if is_stub(flags) then redis.call('SET', k_body(id), body) end
    if entry and print_ ~= '' then redis.call('SET', entry, id .. print_) end
    if kind == 'd' then
      local hi, lo = struct.unpack('>I4I4', value)
      redis.call('HSET', K_DEAD, id, value)
      redis.call('ZADD', K_DEAD_AT, hi * 4294967296 + lo, id)
    else
      local home, lane = math.floor(id_due(id) / W), rec_lane(rec, at)
      numbers[home] = true
      add2(fields, k_bucket(home), id, rec)
      if due < c.horizon then
        local base = near_base(byte(lane))
        if byte(rec, 1) >= FRESH_EXT then fair.note(rec, flags, lane, due) end
        add2(near, K_NEAR[base + flags % 4], due, id .. lane)
        if due < c.earliest[base] then c.earliest[base] = due end
      else
        hint(id, flags, lane, due, W, c)
      end
    end
  end
end
-- Records before the list of buckets, hints last (rule 1).
flush(fields, 'HSET')
for number in pairs(numbers) do
  listed[#listed + 1] = number
  listed[#listed + 1] = number
end
if #listed > 0 then redis.call('ZADD', K_BUCKETS, unpack(listed)) end
flush(near, 'ZADD')
-- What was exported need not be indexed by the labels, or by the function, that are indexed here: the walk of engine/labeller.py looks
-- through all again, and until it has, look-ups scan.
if #todo > 0 then redis.call('HDEL', K_CLOCK, 'labels', 'functions') end
if tonumber(ARGV[5]) > covered then redis.call('SET', mark, ARGV[5], 'PX', ARGV[6]) end
wake(c, ARGV[3])
return reply
