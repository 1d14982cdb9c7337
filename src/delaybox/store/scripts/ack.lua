#!lua flags=allow-oom
-- Completes tasks of one lease (rule 8: only what lies in that lease).
-- KEYS  1 hash tag of the partition
-- ARGV  1 lease id, 2 how long idempotency keys outlive their task ms, 3 bucket width ms, 4 wake channel, then ids
-- REPLY ids that were not in the lease (stale)[, an array: queues and limit keys of which a permit came back that others may use]
-- ERRORS TRYAGAIN (nothing written)
-- BOUND 500 ids
--@include lib/lease_keys.lua
--@include lib/guard.lua
local lease = T .. ':lease:' .. ARGV[1]
local ids = { unpack(ARGV, 5) }
local records = redis.call('HMGET', lease, unpack(ids))
-- special: the places of those that may have something elsewhere. A plain record, and most are, has nothing. extended: whether one has an
-- extension.
local stale, special, mine, touched, extended = {}, {}, {}, { lease, K_LEASES, K_LEASED }, false
for i, id in ipairs(ids) do
  local rec = records[i]
  if not rec then
    stale[#stale + 1] = id
  else
    mine[#mine + 1] = id
    local first, bits = string.byte(rec, 1, 2)
    if first >= FRESH_EXT then extended = true end
    if bits >= 4 or first >= FRESH_EXT then special[#special + 1] = i end
  end
end
local function leave()
  if #mine == 0 then return end
  redis.call('HDEL', lease, unpack(mine))
  if redis.call('EXISTS', lease) == 0 then redis.call('ZREM', K_LEASES, ARGV[1]) end
  redis.call('HDEL', K_LEASED, unpack(mine))
end
if #special == 0 then
  -- The functions below are not even made: for a lone task that takes longer than all else.
  local err = guard(touched)
  if err then return err end
  leave()
  return stale
end
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/ended.lua
local idem_ttl = ARGV[2]
if not extended then
  local clear = ending.of_plain(ids, records, special, touched, idem_ttl)
  local err = guard(touched)
  if err then return err end
  clear()
  leave()
  return stale
end
--@rest
--@include lib/time.lua
--@include lib/extension.lua
--@include lib/lease.lua
--@include lib/pauses.lua
--@include lib/turns.lua
--@include lib/limits.lua
--@include lib/lent.lua
--@include lib/ends_alone.lua
local now, once_ms, alone = now_ms(), lease_length(ARGV[1], 15000), true
for _, i in ipairs(special) do alone = alone and ends_alone(ids[i], records[i]) end
-- Permits of these come back. Returns the reply.
local function give_back()
  for _, i in ipairs(special) do without_permit(ids[i], records[i], now, once_ms) end
  stale[#stale + 1] = settle_permits(now)
  return stale
end
if alone then
  local clear = ending.of_plain(ids, records, special, touched, idem_ttl)
  local err = guard(touched)
  if err then return err end
  clear()
  leave()
  return give_back()
end
--@rest
--@include lib/gather.lua
--@include lib/fair.lua
--@include lib/hint.lua
--@include lib/place.lua
--@include lib/forget.lua
--@include lib/finish.lua
--@include lib/callback.lua
local ended, W = {}, tonumber(ARGV[3])
for _, i in ipairs(special) do
  local id, rec = ids[i], records[i]
  local kind, flags, _, at = rec_head(id, rec)
  if kind == 'ok' then
    local entries
    if is_keyed(flags) then touched[#touched + 1] = k_idem(rec_key(rec, at)) end
    if byte(rec, 1) >= FRESH_EXT then
      succeeded(id, rec, flags, at)
      entries = labels.of(id, rec, at, flags)
      labels.touch(entries, touched)
    end
    ended[#ended + 1] = { id, rec, flags, at, entries }
  end
end
touched[#touched + 1] = K_GROUPS
for _, key in ipairs(#ending.calls > 0 and { callback_keys(now, W) } or {}) do touched[#touched + 1] = key end
local err = guard(touched)
if err then return err end
for _, s in ipairs(ended) do forget(s[1], s[2], s[3], s[4], idem_ttl, s[5]) end
leave()
part()
call_back(now, W, ARGV[4])
return give_back()
