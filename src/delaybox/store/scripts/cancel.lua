#!lua flags=allow-oom
-- Cancels tasks that are not running.
-- KEYS  1 hash tag of the partition
-- ARGV  1 bucket width ms, 2 how long idempotency keys outlive their task ms, then ids
-- REPLY for each id: cancelled, running, dead, quarantined, newer or unknown
-- ERRORS TRYAGAIN (what was answered before stays cancelled: asking again answers unknown for it)
-- BOUND 500 ids; an id that is not pending looks through at most 5,000 leases
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/guard.lua
--@include lib/gather.lua
--@include lib/place.lua
--@include lib/finish.lua
--@include lib/find.lua
local W, idem_ttl = tonumber(ARGV[1]), ARGV[2]
local reply = {}
local words = { lease = 'running', dead = 'dead', quarantine = 'quarantined' }
for i = 3, #ARGV do
  local id = ARGV[i]
  local where, rec = find(id, W)
  if where == 'home' then
    local kind, flags, due, at = rec_head(id, rec)
    if kind == 'ok' then
      local home, lane = math.floor(id_due(id) / W), rec_lane(rec, at)
      local err = guard({ k_bucket(home), k_bucket(math.floor(due / W)), K_BUCKETS, K_NEAR[flags % 4], k_ready(lane, flags % 4 == 0) })
      if err then return err end
      forget(id, rec, flags, at, idem_ttl)
      redis.call('HDEL', k_bucket(home), id)
      if redis.call('EXISTS', k_bucket(home)) == 0 then redis.call('ZREM', K_BUCKETS, int(home)) end
      unhint(id, flags, lane, due, W)
      reply[#reply + 1] = 'cancelled'
    else
      reply[#reply + 1] = kind == 'newer' and 'newer' or 'quarantined'
    end
  else
    reply[#reply + 1] = words[where] or 'unknown'
  end
end
return reply
