#!lua flags=no-writes,allow-oom
-- How much lies where in one partition. Also the health check: a real script with this server's clock.
-- KEYS  1 hash tag of the partition
-- REPLY {now ms, pending (with pointers), near, due and not taken, in flight, leases, dead, quarantined, oldest due ms or -1}
-- BOUND 2,000 buckets and 1,000 leases are added up; past that the rest is estimated by the mean
--@include lib/time.lua
--@include lib/keys.lua
local now = now_ms()
local function sum(key, cap, of)
  local members = redis.call('ZRANGE', key, 0, cap - 1)
  local n = 0
  for _, m in ipairs(members) do n = n + redis.call('HLEN', of(m)) end
  if #members == cap then n = math.floor(n / cap * redis.call('ZCARD', key)) end
  return n
end
local pending = sum(K_BUCKETS, 2000, function(m) return T .. ':b:' .. m end)
local in_flight = sum(K_LEASES, 1000, k_lease)
local near, due, oldest = 0, 0, -1
for n = 0, 7 do
  near = near + redis.call('ZCARD', K_NEAR[n])
  due = due + redis.call('ZCOUNT', K_NEAR[n], '-inf', now)
  local head = redis.call('ZRANGE', K_NEAR[n], 0, 0, 'WITHSCORES')
  if head[2] and (oldest < 0 or tonumber(head[2]) < oldest) then oldest = tonumber(head[2]) end
end
for _, letter in ipairs({ 'p', 's', 'h', 'w' }) do
  for _, critical in ipairs({ true, false }) do
    for _, lane in ipairs(redis.call('ZRANGE', k_active(letter, critical), 0, 99)) do
      due = due + redis.call('ZCARD', k_ready(lane, critical))
    end
  end
end
return { now, pending, near, due, in_flight, redis.call('ZCARD', K_LEASES), redis.call('HLEN', K_DEAD), redis.call('HLEN', K_QUAR), oldest }
