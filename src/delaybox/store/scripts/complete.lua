#!lua flags=allow-oom
-- Completes tasks of one lease and keeps their results for a while. Without a result `ack` does it, which is cheaper.
-- KEYS  1 hash tag of the partition
-- ARGV  1 lease id, 2 how long idempotency keys outlive their task ms, 3 channel for those who wait for ends (announce in lib/results.lua),
--       4 bucket width ms, 5 wake channel, 6 number of tasks k that were cancelled while they ran, k x id, then (id, how long to keep ms, result) ...
-- REPLY as of ack.lua
-- ERRORS TRYAGAIN (nothing written)
-- BOUND 500 ids; the caller keeps results <= 4 MiB a call
--@include lib/time.lua
--@include lib/lease_keys.lua
local K_RESULTS, K_RESULTS_AT = T .. ':results', T .. ':results:at'
local NOTIFY = 'PUBLISH'
--@include lib/guard.lua
--@include lib/results.lua
-- Bytes of a result that is announced with the end of its task, at most.
local ANNOUNCED = 512
local now = now_ms()
local lid, idem_ttl, W = ARGV[1], ARGV[2], tonumber(ARGV[4])
local lease = T .. ':lease:' .. lid
local ids, first = {}, 7 + tonumber(ARGV[6])
for i = first, #ARGV, 3 do ids[#ids + 1] = ARGV[i] end
local records = redis.call('HMGET', lease, unpack(ids))
-- mine: the places of those that are in the lease. special: of those among them that may have something elsewhere. usual: whether none has an
-- extension, and none was cancelled.
local stale, mine, ended, seen, special, usual = {}, {}, {}, {}, {}, first == 7
for n, id in ipairs(ids) do
  local rec = records[n]
  if not rec or seen[id] then
    stale[#stale + 1] = id
  else
    seen[id], mine[#mine + 1], ended[#ended + 1] = true, n, id
    local kind, bits = string.byte(rec, 1, 2)
    if kind >= FRESH_EXT then usual = false end
    if bits >= 4 or kind >= FRESH_EXT then special[#special + 1] = n end
  end
end
local kept, until_ms, result = {}, {}, nil
local function keep(n, rec)
  local id, ms, text = unpack(ARGV, first + 3 * (n - 1), first + 3 * n - 1)
  local value = result_value(text, rec)
  if #ids == 1 and #text <= ANNOUNCED and tonumber(ms) >= 1000 then result = 'f' .. string.sub(value, 1, 20 + #text) end
  kept[#kept + 1], kept[#kept + 2] = id, value
  until_ms[#until_ms + 1], until_ms[#until_ms + 2] = now + tonumber(ms), id
end
local function leave()
  if #mine == 0 then return end
  redis.call('HSET', K_RESULTS, unpack(kept))
  redis.call('ZADD', K_RESULTS_AT, unpack(until_ms))
  redis.call('HDEL', lease, unpack(ended))
  if redis.call('EXISTS', lease) == 0 then redis.call('ZREM', K_LEASES, lid) end
  redis.call('HDEL', K_LEASED, unpack(ended))
end
-- touched: what is asked for first (rule 2). clear: what else is done for them. strip: makes of a record what is kept of it.
local function finish(touched, clear, strip)
  for _, key in ipairs({ lease, K_LEASES, K_LEASED, K_RESULTS, K_RESULTS_AT }) do touched[#touched + 1] = key end
  local err = guard(touched)
  if err then return err end
  for _, n in ipairs(mine) do keep(n, strip and strip(ids[n], records[n], now) or records[n]) end
  if clear then clear() end
  leave()
  announce(ended, ARGV[3], result)
  return stale
end
-- The functions below are not even made: for a lone task that takes longer than all else.
if usual and #special == 0 then return finish({}) end
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/ended.lua
if usual then
  local touched = {}
  return finish(touched, ending.of_plain(ids, records, special, touched, idem_ttl))
end
--@rest
--@include lib/extension.lua
--@include lib/pauses.lua
--@include lib/turns.lua
--@include lib/limits.lua
--@include lib/lent.lua
--@include lib/ends_alone.lua
local alone = first == 7
for _, n in ipairs(special) do alone = alone and ends_alone(ids[n], records[n]) end
if alone then
  local touched = {}
  local reply = finish(touched, ending.of_plain(ids, records, special, touched, idem_ttl), without_permit)
  if reply == stale then stale[#stale + 1] = settle_permits(now) end
  return reply
end
--@rest
--@include lib/gather.lua
--@include lib/fair.lua
--@include lib/hint.lua
--@include lib/place.lua
--@include lib/forget.lua
--@include lib/finish.lua
--@include lib/callback.lua
local err = guard({ lease, K_LEASES, K_LEASED, K_RESULTS, K_RESULTS_AT, K_GROUPS, callback_keys(now, W) })
if err then return err end
local cancelled = {}
for i = 7, first - 1 do cancelled[ARGV[i]] = true end
for _, n in ipairs(mine) do
  local id = ids[n]
  local rec = without_permit(id, records[n], now)
  keep(n, rec)
  local kind, flags, _, at = rec_head(id, rec)
  if kind == 'ok' then
    forget(id, rec, flags, at, idem_ttl)
    if not cancelled[id] then succeeded(id, rec, flags, at) end
    if cancelled[id] and is_keyed(flags) then retire(id, rec_key(rec, at), ending.keep(rec, at, idem_ttl)) end
  end
end
leave()
part()
call_back(now, W, ARGV[5])
stale[#stale + 1] = settle_permits(now)
announce(ended, ARGV[3], result)
return stale
