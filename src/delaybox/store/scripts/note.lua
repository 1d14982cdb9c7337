#!lua
-- Remembers how tasks ended: best effort. Refused by the server itself when memory is full, so that a full server still drains.
-- KEYS  1 hash tag of the partition
-- ARGV  1 how long ends are kept ms, 2 those of failures ms, 3 most entries of this partition, 4 most bytes,
--       ends that are only counted: 5 succeeded, 6 failed, 7 cancelled,
--       then (family and home bucket, number of ends, chunk: see lib/history.lua) ...
-- REPLY how many of the ends were only counted
-- ERRORS TRYAGAIN (nothing written)
-- BOUND 1,000 ends in chunks of at most 500; unlinks 4 hashes of at most 1,500 ends
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/guard.lua
--@include lib/history.lua
local now = now_ms()
local keep = { s = tonumber(ARGV[1]), f = tonumber(ARGV[2]) }
local most_entries, most_bytes = tonumber(ARGV[3]), tonumber(ARGV[4])
-- An expiry of its own is the fall-back where no owner unlinks. Spread, because a hundred thousand ends that expire at once hold the
-- server.
local SLACK = 600000
local beyond = { s = tonumber(ARGV[5]), f = tonumber(ARGV[6]), c = tonumber(ARGV[7]) }
local err = guard({ K_HISTORY, K_HISTORY_SIZES, k_history_at('s'), k_history_at('f') })
if err then return err end

local counted, added = 0, { s = { 0, 0 }, f = { 0, 0 } }
for i = 8, #ARGV, 3 do
  local bucket, count, chunk = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local family = string.sub(bucket, 1, 1)
  local number = tonumber(redis.call('HGET', K_HISTORY, bucket) or '0')
  local entries, bytes, chunks, first = history_size(bucket .. ':' .. number)
  if entries >= FULL and number < MOST - 1 then
    number = number + 1
    entries, bytes, chunks, first = history_size(bucket .. ':' .. number)
  end
  if entries >= FULL then
    beyond[family] = beyond[family] + count
    counted = counted + count
  else
    local name = bucket .. ':' .. number
    first = first or struct.pack('>I2I4', math.floor(now / 4294967296), now % 4294967296)
    redis.call('HSET', k_history(name), chunks, chunk)
    redis.call('PEXPIRE', k_history(name), keep[family] + SLACK + (number * 7919 + now) % SLACK)
    redis.call('HSET', K_HISTORY_SIZES, name, struct.pack('>I4I4', entries + count, bytes + #chunk) .. first .. struct.pack('>I4', chunks + 1))
    redis.call('ZADD', k_history_at(family), now, name)
    redis.call('HSET', K_HISTORY, bucket, number)
    added[family] = { added[family][1] + count, added[family][2] + #chunk }
  end
end
for family, sums in pairs(added) do
  if sums[1] > 0 then
    redis.call('HINCRBY', K_HISTORY, 'entries:' .. family, sums[1])
    redis.call('HINCRBY', K_HISTORY, 'bytes:' .. family, sums[2])
  end
end
for state, n in pairs(beyond) do
  if n > 0 then redis.call('HINCRBY', K_HISTORY, 'beyond:' .. state, n) end
end

-- Past the bounds the oldest go: failures last, while they take no more than a quarter.
for _ = 1, 4 do
  local sums = redis.call('HMGET', K_HISTORY, 'entries:s', 'entries:f', 'bytes:s', 'bytes:f')
  local es, ef, bs, bf = tonumber(sums[1] or 0), tonumber(sums[2] or 0), tonumber(sums[3] or 0), tonumber(sums[4] or 0)
  if es + ef <= most_entries and bs + bf <= most_bytes then break end
  local family = es > 0 and ef <= most_entries / 4 and bf <= most_bytes / 4 and 's' or ef > 0 and 'f' or 's'
  local oldest = redis.call('ZRANGE', k_history_at(family), 0, 0)[1]
  if not oldest then break end
  history_drop(oldest)
end
return counted
