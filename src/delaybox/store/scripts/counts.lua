#!lua flags=no-writes,allow-oom
-- How much lies where in one partition. Also the health check: a real script with this server's clock.
-- KEYS  1 hash tag of the partition
-- REPLY {now ms, pending (with pointers), near, due and not taken, in flight, leases, dead, quarantined, oldest due ms or -1,
--        1 = pending is an estimate, 1 = due is one}
-- BOUND 500 buckets, 200 lanes with ready work of each type and 100 leases are added up. Past that buckets and lanes are estimated
--       by the mean of 100, evenly spaced, and what is in flight is what the index of leases names
--@include lib/time.lua
--@include lib/keys.lua
local now = now_ms()
-- The sum of size over the members of a zset, and whether it is an estimate.
local function sum(key, exact, size)
  local many, n = redis.call('ZCARD', key), 0
  if many == 0 then return 0, false end
  if many <= exact then
    for _, m in ipairs(redis.call('ZRANGE', key, 0, -1)) do n = n + size(m) end
    return n, false
  end
  for i = 0, 99 do
    local at = math.floor(i * many / 100)
    n = n + size(redis.call('ZRANGE', key, at, at)[1])
  end
  return math.floor(n * many / 100 + 0.5), true
end
local pending, pending_guessed = sum(K_BUCKETS, 500, function(m) return redis.call('HLEN', T .. ':b:' .. m) end)
local in_flight = 0
if redis.call('ZCARD', K_LEASES) <= 100 then
  in_flight = sum(K_LEASES, 100, function(m) return redis.call('HLEN', k_lease(m)) end)
else
  in_flight = redis.call('HLEN', K_LEASED)
end
local near, due, oldest, due_guessed = 0, 0, -1, false
for n = 0, 11 do
  local many = redis.call('ZCARD', K_NEAR[n])
  if many > 0 then
    near = near + many
    due = due + redis.call('ZCOUNT', K_NEAR[n], '-inf', now)
    local head = redis.call('ZRANGE', K_NEAR[n], 0, 0, 'WITHSCORES')
    if oldest < 0 or tonumber(head[2]) < oldest then oldest = tonumber(head[2]) end
  end
end
for _, letter in ipairs({ 'p', 's', 'h', 'w' }) do
  for _, critical in ipairs({ true, false }) do
    local ready, guessed = sum(k_active(letter, critical), 200, function(lane)
      return redis.call('ZCARD', k_ready(lane, critical))
    end)
    due, due_guessed = due + ready, due_guessed or guessed
  end
end
local parked, parked_guessed = sum(K_PARKED, 200, function(member)
  local mark, lane = string.match(member, '^[^%z]*%z(.)(.*)$')
  return redis.call('ZCARD', k_ready(lane, mark == '!'))
end)
due, due_guessed = due + parked, due_guessed or parked_guessed
local limited, limited_guessed = sum(K_LIMITED, 200, function(member)
  local mark, lane = string.match(member, '^[^%z]*%z(.)(.*)$')
  if redis.call('ZSCORE', k_active(string.sub(lane, 1, 1), mark == '!'), lane) or redis.call('ZSCORE', K_PARKED, member) then return 0 end
  return redis.call('ZCARD', k_ready(lane, mark == '!'))
end)
due, due_guessed = due + limited, due_guessed or limited_guessed
local apart, apart_guessed = sum(T .. ':apart', 200, function(member) return redis.call('ZCARD', T .. ':waits:' .. member) end)
due, due_guessed = due + apart, due_guessed or apart_guessed
return { now, pending, near, due, in_flight, redis.call('ZCARD', K_LEASES), redis.call('HLEN', K_DEAD), redis.call('HLEN', K_QUAR), oldest,
  pending_guessed and 1 or 0, due_guessed and 1 or 0 }
