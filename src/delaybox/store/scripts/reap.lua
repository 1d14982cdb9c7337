#!lua flags=allow-oom
-- Puts back what expired leases hold, and deletes results whose time is over; each task is charged one loss, and dead-lettered past the cap.
-- KEYS  1 hash tag of the partition
-- ARGV  1 bucket width ms, 2 longest lease ms, 3 cap of losses, 4 wake channel, 5 cap of dead letters,
--       6 how long idempotency keys outlive their task ms, 7 what the caller's own clock says this server's is (0 unknown),
--       8 lease ms: when this clock ran ahead of 7 by more, it was set, and every lease is extended instead of reaped
-- REPLY {now ms, leases reaped, tasks put back, tasks dead-lettered, next expiry ms (-1 none), dead letters dropped by the cap,
--        leases re-stamped}
-- ERRORS TRYAGAIN (nothing written)
-- BOUND whole leases until 500 tasks; 200 results whose time is over; 5,000 re-stamps after a jump, else 200
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/guard.lua
--@include lib/gather.lua
--@include lib/turns.lua
--@include lib/place.lua
--@include lib/finish.lua
--@include lib/loss.lua
local now = now_ms()
local W, longest, losses_cap, cap, idem_ttl = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[5]), ARGV[6]
local err = guard({ K_RESULTS, K_RESULTS_AT, K_LEASES, K_BUCKETS, K_CLOCK, K_DEAD, K_DEAD_AT, K_QUAR, K_QUAR_AT, unpack(K_NEAR, 0, 7) })
if err then return err end
local c = clock(now)
-- The clock stepped back: such an expiry would keep a dead node's work for the length of the step.
local stamped = redis.call('ZRANGE', K_LEASES, '(' .. int(now + longest), '+inf', 'BYSCORE', 'LIMIT', 0, 200)
local until_ms = now + longest
local expected, lease_ms = tonumber(ARGV[7]), tonumber(ARGV[8])
if expected > 0 and now - expected > lease_ms then
  stamped, until_ms = redis.call('ZRANGE', K_LEASES, 0, 4999), now + lease_ms
end
for _, lid in ipairs(stamped) do redis.call('ZADD', K_LEASES, 'XX', until_ms, lid) end

local reaped, back, dead, dropped = 0, 0, 0, 0
for _, lid in ipairs(redis.call('ZRANGE', K_LEASES, '-inf', now, 'BYSCORE', 'LIMIT', 0, 100)) do
  local lease = k_lease(lid)
  if back + dead > 0 and back + dead + redis.call('HLEN', lease) > 500 then break end
  local held = redis.call('HGETALL', lease)
  local keys = { lease }
  for i = 1, #held, 2 do keys[#keys + 1] = k_bucket(math.floor(id_due(held[i]) / W)) end
  err = guard(keys)
  if err then return err end
  local handled, kept = {}, false
  for i = 1, #held, 2 do
    local id, rec = held[i], held[i + 1]
    local kind, flags, due, at = rec_head(id, rec)
    if kind == 'newer' then
      kept = true
    else
      handled[#handled + 1] = id
    end
    if kind == 'bad' then
      redis.call('HSET', K_QUAR, id, rec)
      redis.call('ZADD', K_QUAR_AT, now, id)
    elseif kind == 'ok' then
      local more = charge_loss(id, rec, flags, due, at, now, 'node', losses_cap, cap, idem_ttl, W, c)
      if more then
        dead, dropped = dead + 1, dropped + more
      else
        back = back + 1
      end
    end
  end
  if kept then
    -- Records of a newer DelayBox: a node of that version will reap what stays of the lease.
    if #handled > 0 then redis.call('HDEL', lease, unpack(handled)) end
    redis.call('ZADD', K_LEASES, now + longest, lid)
  else
    redis.call('DEL', lease)
    redis.call('ZREM', K_LEASES, lid)
  end
  reaped = reaped + 1
end
wake(c, ARGV[4])
local old = redis.call('ZRANGE', K_RESULTS_AT, '-inf', now, 'BYSCORE', 'LIMIT', 0, 200)
if #old > 0 then
  redis.call('HDEL', K_RESULTS, unpack(old))
  redis.call('ZREM', K_RESULTS_AT, unpack(old))
end
local head = redis.call('ZRANGE', K_LEASES, 0, 0, 'WITHSCORES')
return { now, reaped, back, dead, head[2] and tonumber(head[2]) or -1, dropped, #stamped }
