#!lua flags=allow-oom
-- Brings dead letters back: due now, attempts and losses at 0, deliveries kept (tokens only rise).
-- KEYS  1 hash tag of the partition
-- ARGV  1 bucket width ms, 2 wake channel, then ids
-- REPLY for each id: replayed, newer or unknown
-- ERRORS TRYAGAIN (nothing written)
-- BOUND 500 ids
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
local now, W = now_ms(), tonumber(ARGV[1])
local keys = { K_DEAD, K_DEAD_AT, K_BUCKETS, K_CLOCK, unpack(K_NEAR, 0, 11) }
for i = 3, #ARGV do keys[#keys + 1] = k_bucket(math.floor(id_due(ARGV[i]) / W)) end
local err = guard(keys)
if err then return err end
local c = clock(now)
local reply = {}
for i = 3, #ARGV do
  local id = ARGV[i]
  local value = redis.call('HGET', K_DEAD, id)
  local kind, flags, at, rec, _
  if value then
    rec = string.sub(value, 11 + struct.unpack('>I2', value, 9))
    kind, flags, _, at = rec_head(id, rec)
  end
  if kind == 'ok' then
    local _, _, deliveries = rec_counters(rec)
    rec = EXT.due_anew(ext_set(rec, at, flags, EXT_SNOOZED, nil), at, flags)
    place(id, rec_build(rec, at, flags, 0, 0, deliveries, now), flags, rec_lane(rec, at), now, W, c)
    redis.call('HDEL', K_DEAD, id)
    redis.call('ZREM', K_DEAD_AT, id)
    reply[#reply + 1] = 'replayed'
  else
    reply[#reply + 1] = kind == 'newer' and 'newer' or 'unknown'
  end
end
wake(c, ARGV[2])
return reply
