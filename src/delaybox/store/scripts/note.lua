#!lua
-- Remembers how tasks ended: best effort. Refused by the server itself when memory is full, so that a full server still drains.
-- KEYS  1 hash tag of the partition
-- ARGV  1 bucket width ms, 2 how long ends are kept ms, 3 those of failures ms, 4 most entries of this partition, 5 most bytes,
--       ends that are only counted: 6 succeeded, 7 failed, 8 cancelled, then (id, entry: store/history.py) ...
-- REPLY how many of the entries were only counted
-- ERRORS TRYAGAIN (nothing written)
-- BOUND 1,000 entries; unlinks 4 hashes of at most 1,000 entries
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/guard.lua
--@include lib/gather.lua
--@include lib/history.lua
local now, W = now_ms(), tonumber(ARGV[1])
local keep = { s = tonumber(ARGV[2]), f = tonumber(ARGV[3]) }
local most_entries, most_bytes = tonumber(ARGV[4]), tonumber(ARGV[5])
-- An expiry of its own is the fall-back where no owner unlinks. Spread, because a hundred thousand entries that expire at once hold
-- the server for 40 ms.
local SLACK = 600000
local beyond = { s = tonumber(ARGV[6]), f = tonumber(ARGV[7]), c = tonumber(ARGV[8]) }
local err = guard({ K_HISTORY, K_HISTORY_SIZES, k_history_at('s'), k_history_at('f') })
if err then return err end

local filled, room, bytes, entries = {}, {}, {}, gather()
local counted = 0
for i = 9, #ARGV, 2 do
  local id, entry = ARGV[i], ARGV[i + 1]
  local state = string.sub(entry, 2, 2)
  local family = state == 'f' and 'f' or 's'
  local bucket = family .. int(math.floor(id_due(id) / W))
  local number = filled[bucket]
  if not number then number = tonumber(redis.call('HGET', K_HISTORY, bucket) or '0') end
  local name = bucket .. ':' .. number
  if not room[name] then room[name] = FULL - redis.call('HLEN', k_history(name)) end
  if room[name] <= 0 and number < MOST - 1 then
    number = number + 1
    name = bucket .. ':' .. number
    room[name] = FULL
  end
  filled[bucket] = number
  if room[name] > 0 then
    room[name] = room[name] - 1
    bytes[name] = (bytes[name] or 0) + #id + #entry
    add2(entries, name, id, entry)
  else
    beyond[state] = (beyond[state] or 0) + 1
    counted = counted + 1
  end
end

for _, name in ipairs(entries.order) do
  local key, family = k_history(name), string.sub(name, 1, 1)
  local before, held = history_size(name)
  local l = entries.by[name]
  for from = 1, #l, 1000 do redis.call('HSET', key, unpack(l, from, math.min(from + 999, #l))) end
  local after = redis.call('HLEN', key)
  local first = redis.call('HGET', K_HISTORY_SIZES, name)
  first = first and string.sub(first, 9) or struct.pack('>I2I4', math.floor(now / 4294967296), now % 4294967296)
  redis.call('HSET', K_HISTORY_SIZES, name, struct.pack('>I4I4', after, held + bytes[name]) .. first)
  redis.call('ZADD', k_history_at(family), now, name)
  local spread = tonumber(string.sub(name, -2)) or tonumber(string.sub(name, -1)) or 0
  redis.call('PEXPIRE', key, keep[family] + SLACK + (spread * 7919 + now) % SLACK)
  redis.call('HINCRBY', K_HISTORY, 'entries:' .. family, after - before)
  redis.call('HINCRBY', K_HISTORY, 'bytes:' .. family, bytes[name])
end
for bucket, number in pairs(filled) do
  if redis.call('ZSCORE', k_history_at(string.sub(bucket, 1, 1)), bucket .. ':' .. number) then
    redis.call('HSET', K_HISTORY, bucket, number)
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
