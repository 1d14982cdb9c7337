#!lua flags=allow-oom
-- Puts quarantined records back where they can be read by now: pending again at their due time.
-- KEYS  1 hash tag of the partition
-- ARGV  1 bucket width ms, 2 wake channel, then ids
-- REPLY for each id: restored, newer, unreadable, elsewhere (the task stands somewhere else as well) or unknown
-- ERRORS TRYAGAIN (nothing written)
-- BOUND 500 ids; all together look 1,000 times into leases that an earlier version made
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/extension.lua
--@include lib/guard.lua
--@include lib/gather.lua
--@include lib/fair.lua
--@include lib/hint.lua
--@include lib/place.lua
--@include lib/leased.lua
--@include lib/find.lua
local now, W = now_ms(), tonumber(ARGV[1])
local keys = { K_QUAR, K_QUAR_AT, K_BUCKETS, K_CLOCK, unpack(K_NEAR, 0, 11) }
for i = 3, #ARGV do keys[#keys + 1] = k_bucket(math.floor(id_due(ARGV[i]) / W)) end
local err = guard(keys)
if err then return err end
local c = clock(now)
local words = { newer = 'newer', bad = 'unreadable' }
local reply = {}
for i = 3, #ARGV do
  local id = ARGV[i]
  local where, rec = find(id, W)
  if where ~= 'quarantine' then
    reply[#reply + 1] = where and redis.call('HEXISTS', K_QUAR, id) == 1 and 'elsewhere' or 'unknown'
  else
    local kind, flags, due, at = rec_head(id, rec)
    if kind == 'ok' then
      place(id, rec, flags, rec_lane(rec, at), due, W, c)
      redis.call('HDEL', K_QUAR, id)
      redis.call('ZREM', K_QUAR_AT, id)
    end
    reply[#reply + 1] = words[kind] or 'restored'
  end
end
wake(c, ARGV[2])
return reply
