#!lua flags=allow-oom
-- Cancels tasks that are not running. The idempotency key of each is marked or freed: see retire.
-- KEYS  1 hash tag of the partition
-- ARGV  1 command id (16 bytes), 2 bucket width ms, 3 how long idempotency keys outlive their task ms, 4 how long the command is
--       remembered ms, 5 '1' = free the keys, also those of tasks that are cancelled already,
--       6 '' or the group that each must belong to (of another it is unknown), then ids
-- REPLY for each id: cancelled, running, dead, quarantined, newer or unknown. One whose key is freed now is cancelled. The same command id again gets the same
--       reply, so that a caller that lost the first one does not get the answer that there was nothing to cancel.
-- ERRORS TRYAGAIN (what was answered before stays cancelled: asking again answers unknown for it)
-- BOUND 500 ids; all together look 1,000 times into leases that an earlier version made
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
--@include lib/limit_keys.lua
--@include lib/limits.lua
--@include lib/apart.lua
--@include lib/ended.lua
--@include lib/forget.lua
--@include lib/finish.lua
--@include lib/leased.lua
--@include lib/find.lua
local W, idem_ttl, free, group = tonumber(ARGV[2]), ARGV[3], ARGV[5] == '1', ARGV[6]
local req = T .. ':req:' .. ARGV[1]
local known = redis.call('GET', req)
if known then return cmsgpack.unpack(known) end
local reply, cancelled = {}, false
local words = { lease = 'running', dead = 'dead', quarantine = 'quarantined' }
for i = 7, #ARGV do
  local id = ARGV[i]
  local where, rec = find(id, W)
  if where == 'home' then
    local kind, flags, due, at = rec_head(id, rec)
    if kind == 'ok' and group ~= '' and ext_get(rec, at, flags, EXT.GROUP) ~= group then
      reply[#reply + 1] = 'unknown'
    elseif kind == 'ok' then
      local home, lane = math.floor(id_due(id) / W), rec_lane(rec, at)
      local key = is_keyed(flags) and rec_key(rec, at)
      local keys = { req, k_bucket(home), k_bucket(math.floor(due / W)), K_BUCKETS, K_NEAR[near_of(flags, lane)], K_NEAR[8 + flags % 4],
        k_ready(lane, flags % 4 == 0), k_idem(key or ''), k_cancelled(id), k_body(id), K_GROUPS }
      local sets = apart.of(id, rec, at, flags, keys)
      local err = guard(keys)
      if err then return err end
      forget(id, rec, flags, at, idem_ttl)
      if key then retire(id, key, ending.keep(rec, at, idem_ttl), free) end
      redis.call('HDEL', k_bucket(home), id)
      if redis.call('EXISTS', k_bucket(home)) == 0 then redis.call('ZREM', K_BUCKETS, home) end
      unhint(id, rec, flags, at, due, W)
      apart.leave(id, sets)
      reply[#reply + 1] = 'cancelled'
      cancelled = true
    else
      reply[#reply + 1] = kind == 'newer' and 'newer' or 'quarantined'
    end
  else
    local key = free and group == '' and not where and redis.call('GET', k_cancelled(id))
    if key then
      local err = guard({ req, k_idem(key), k_cancelled(id) })
      if err then return err end
      -- Another task may have the key by now, such as one that replaced this one: it keeps it.
      if names(k_idem(key), id) then redis.call('UNLINK', k_idem(key)) end
      redis.call('UNLINK', k_cancelled(id))
      reply[#reply + 1] = 'cancelled'
      cancelled = true
    else
      reply[#reply + 1] = words[where] or 'unknown'
    end
  end
end
part()
if cancelled then redis.call('SET', req, cmsgpack.pack(reply), 'PX', ARGV[4]) end
return reply
