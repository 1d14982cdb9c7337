#!lua
-- Remembers how tasks ended: best effort. Refused by the server itself when memory is full, so that a full server still drains.
-- KEYS  1 hash tag of the partition
-- ARGV  1 how long ends are kept ms, 2 those of failures ms, 3 most entries of this partition, 4 most bytes,
--       ends that are only counted: 5 succeeded, 6 failed, 7 cancelled,
--       then parts (see lib/history_keys.lua), each: 8 family and home bucket, 9 number of ends, 10 chunk, ...
-- REPLY how many of the ends were only counted
-- ERRORS TRYAGAIN (nothing written)
-- BOUND 1,000 ends in chunks of at most 500; unlinks 4 hashes of at most 1,500 ends
--@include lib/time.lua
--@include lib/tag.lua
--@include lib/guard.lua
--@include lib/history_keys.lua
local now = now_ms()
local keep = { s = tonumber(ARGV[1]), f = tonumber(ARGV[2]) }
local most_entries, most_bytes = tonumber(ARGV[3]), tonumber(ARGV[4])
-- An expiry of its own is the fall-back where no owner unlinks. Spread, because a hundred thousand ends that expire at once hold the
-- server.
local SLACK = 600000
local err = MOVES and guard({ K_HISTORY, K_HISTORY_SIZES, k_history_at('s'), k_history_at('f') })
if err then return err end
local function write(name, number, family, chunks, chunk)
  redis.call('HSET', k_history(name), chunks, chunk)
  redis.call('PEXPIRE', k_history(name), keep[family] + SLACK + (number * 7919 + now) % SLACK)
end

-- Mostly some ends of one minute are noted, for which there is a hash with room. The tables below take longer than that.
if #ARGV == 10 and ARGV[5] == '0' and ARGV[6] == '0' and ARGV[7] == '0' then
  local bucket, count, chunk = ARGV[8], tonumber(ARGV[9]), ARGV[10]
  local family = string.sub(bucket, 1, 1)
  local e, b = 'entries:' .. family, 'bytes:' .. family
  local known = redis.call('HMGET', K_HISTORY, bucket, e, b, family == 's' and 'entries:f' or 'entries:s', family == 's' and 'bytes:f' or 'bytes:s')
  local name = known[1] and bucket .. ':' .. known[1]
  local size = name and redis.call('HGET', K_HISTORY_SIZES, name)
  if size then
    local entries, bytes, _, _, chunks = struct.unpack('>I4I4I2I4I4', size)
    local all, long = tonumber(known[2] or 0) + count, tonumber(known[3] or 0) + #chunk
    if entries < FULL and all + tonumber(known[4] or 0) <= most_entries and long + tonumber(known[5] or 0) <= most_bytes then
      write(name, tonumber(known[1]), family, chunks, chunk)
      redis.call('HSET', K_HISTORY_SIZES, name,
        struct.pack('>I4I4', entries + count, bytes + #chunk) .. string.sub(size, 9, 14) .. struct.pack('>I4', chunks + 1))
      redis.call('ZADD', k_history_at(family), now, name)
      redis.call('HSET', K_HISTORY, e, all, b, long)
      return 0
    end
  end
end
--@include lib/history.lua
local beyond = { s = tonumber(ARGV[5]), f = tonumber(ARGV[6]), c = tonumber(ARGV[7]) }

-- Everything that is known of these minutes is read at once and written at once: with 16 partitions, ten times a second, commands count.
local SUMS = { 'entries:s', 'entries:f', 'bytes:s', 'bytes:f', 'beyond:s', 'beyond:f', 'beyond:c' }
local fields, current, sizes = { unpack(SUMS) }, {}, {}
for i = 8, #ARGV, 3 do fields[#fields + 1] = ARGV[i] end
local found, sums = redis.call('HMGET', K_HISTORY, unpack(fields)), {}
for i, name in ipairs(SUMS) do sums[name] = tonumber(found[i] or 0) end
local hashes, unknown = {}, {}
for i = #SUMS + 1, #fields do
  current[fields[i]] = tonumber(found[i] or 0)
  unknown[fields[i]] = not found[i]
  hashes[#hashes + 1] = fields[i] .. ':' .. current[fields[i]]
end
if #hashes > 0 then
  local known = redis.call('HMGET', K_HISTORY_SIZES, unpack(hashes))
  for i, name in ipairs(hashes) do sizes[name] = known[i] or nil end
end

local counted = 0
local changed, measured, listed = {}, {}, { s = {}, f = {} }
for i = 8, #ARGV, 3 do
  local bucket, count, chunk = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local family, number = string.sub(bucket, 1, 1), current[bucket]
  local name = bucket .. ':' .. number
  local entries, bytes, chunks, first = history_measures(sizes[name])
  if entries >= FULL and number < MOST - 1 then
    number = number + 1
    name = bucket .. ':' .. number
    current[bucket], unknown[bucket] = number, true
    entries, bytes, chunks, first = history_size(name)
  end
  if entries >= FULL then
    beyond[family] = beyond[family] + count
    counted = counted + count
  else
    first = first or struct.pack('>I2I4', math.floor(now / 4294967296), now % 4294967296)
    write(name, number, family, chunks, chunk)
    if unknown[bucket] then
      unknown[bucket] = false
      changed[#changed + 1] = bucket
      changed[#changed + 1] = number
    end
    sizes[name] = struct.pack('>I4I4', entries + count, bytes + #chunk) .. first .. struct.pack('>I4', chunks + 1)
    measured[#measured + 1] = name
    measured[#measured + 1] = sizes[name]
    local there = listed[family]
    there[#there + 1] = now
    there[#there + 1] = name
    sums['entries:' .. family] = sums['entries:' .. family] + count
    sums['bytes:' .. family] = sums['bytes:' .. family] + #chunk
  end
end
if #measured > 0 then redis.call('HSET', K_HISTORY_SIZES, unpack(measured)) end
for family, there in pairs(listed) do
  if #there > 0 then redis.call('ZADD', k_history_at(family), unpack(there)) end
end
for state, n in pairs(beyond) do sums['beyond:' .. state] = sums['beyond:' .. state] + n end
for _, name in ipairs(SUMS) do
  if sums[name] > 0 then
    changed[#changed + 1] = name
    changed[#changed + 1] = sums[name]
  end
end
if #changed > 0 then redis.call('HSET', K_HISTORY, unpack(changed)) end

-- Past the bounds the oldest go: failures last, while they take no more than a quarter.
for _ = 1, 4 do
  local es, ef, bs, bf = sums['entries:s'], sums['entries:f'], sums['bytes:s'], sums['bytes:f']
  if es + ef <= most_entries and bs + bf <= most_bytes then break end
  local family = es > 0 and ef <= most_entries / 4 and bf <= most_bytes / 4 and 's' or ef > 0 and 'f' or 's'
  local oldest = redis.call('ZRANGE', k_history_at(family), 0, 0)[1]
  if not oldest then break end
  history_drop(oldest)
  local left = redis.call('HMGET', K_HISTORY, unpack(SUMS))
  for i, name in ipairs(SUMS) do sums[name] = tonumber(left[i] or 0) end
end
return counted
