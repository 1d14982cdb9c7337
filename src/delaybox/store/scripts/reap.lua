#!lua flags=allow-oom
-- Puts back what expired leases hold; each task is charged one loss, and dead-lettered past the cap. Each look is noted in the
-- partition. After a long gap between looks, on another server, or after the clock was set back, holders could not extend their
-- leases, or the server has lost that they did. Then nothing is reaped for the length of one lease, so that living holders extend first.
-- A lease is spared by three such graces: on a machine that has too much to do looks come late again and again, and no holder of a
-- lease that has ended uses them.
-- KEYS  1 hash tag of the partition
-- ARGV  1 bucket width ms, 2 lease ms of the caller, also for lease ids that do not carry their length, 3 cap of losses, 4 wake channel,
--       5 cap of dead letters, 6 how long idempotency keys outlive their task ms, 7 ms between two looks of the caller,
--       8 '1' = most holders went away within one lease, so dead-lettering for losses is held
-- REPLY {now ms, leases reaped, tasks put back, tasks dead-lettered, next expiry ms (-1 none), dead letters dropped by the cap,
--        until when nothing is reaped (ms) if this look decided so, else 0}
-- ERRORS TRYAGAIN (nothing written)
-- BOUND looks at 500 leases; reaps whole ones until 500 tasks, at most 100; the cap of dead letters drops one for each that comes in, and 500;
--       spares a lease that has ended for three of its lengths, and as many looks that came late
--@include lib/time.lua
--@include lib/lease_keys.lua
local K_CLOCK = T .. ':clock'
--@include lib/guard.lua
--@include lib/lease.lua
local now = now_ms()
local lease_ms, between = tonumber(ARGV[2]), tonumber(ARGV[7])

-- 1. Could the holders extend? The leases that expire first are looked at, because the shortest ones are among them, and
-- the shortest lease decides how long a gap is too long.
local ending = redis.call('ZRANGE', K_LEASES, 0, 499, 'WITHSCORES')
-- graced: until when nothing is reaped, if this look decides so. looked: what is noted of it.
local graced, looked = 0, nil
local before = redis.call('HMGET', K_CLOCK, 'reaped', 'outage', 'run', 'spared', 'spared:2', 'spared:3')
local reaped_at, outage = tonumber(before[1] or ''), tonumber(before[2] or '') or 0
-- When the last three graces began, the latest first; 0 for none.
local begun = { tonumber(before[4] or '') or 0, tonumber(before[5] or '') or 0, tonumber(before[6] or '') or 0 }
if #ending > 0 then
  local shortest = lease_ms
  for i = 1, #ending, 2 do
    local length = lease_length(ending[i], lease_ms)
    if length < shortest then shortest = length end
  end
  -- Where an access list forbids INFO a restart shows as a gap all the same.
  local info = redis.pcall('INFO', 'server')
  local run = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or before[3] or ''
  -- A look that comes up to three intervals late is the work of a busy node and no outage.
  local most = math.max(shortest / 3, 3 * between)
  if not reaped_at or now < reaped_at or now - reaped_at > most or run ~= (before[3] or '') then
    graced, outage = now + shortest, now
    if reaped_at and now < reaped_at then
      begun = { now, 0, 0 }
    elseif now >= begun[1] + shortest then
      -- One that begins while the one before lasts prolongs that one.
      begun = { now, begun[1], begun[2] }
    end
    looked = { 'reaped', now, 'grace', graced, 'outage', outage, 'run', run, 'spared', begun[1], 'spared:2', begun[2], 'spared:3', begun[3] }
  else
    looked = { 'reaped', now }
  end
end

-- 2. Which leases are over: those past their expiry, and those whose expiry nobody moved since the clock was set back.
local over = {}
-- Whether the holder of a lease that ended then may still come to extend it.
local function spared(ended, length)
  if now >= outage + length then return false end
  local third = begun[3]
  return third == 0 or ended > third or now < math.min(third + length, ended + 3 * length)
end
for i = 1, #ending, 2 do
  if tonumber(ending[i + 1]) > now then break end
  -- A lease that is longer than the grace gets a grace of its own length.
  if not spared(tonumber(ending[i + 1]), lease_length(ending[i], lease_ms)) then over[#over + 1] = ending[i] end
end
local far = '(' .. int(now + lease_ms + lease_ms / 3)
local many = redis.call('ZCOUNT', K_LEASES, far, '+inf')
if many > 0 then
  local from = many > 100 and now % (many - 99) or 0
  local flat = redis.call('ZRANGE', K_LEASES, far, '+inf', 'BYSCORE', 'LIMIT', from, 100, 'WITHSCORES')
  for i = 1, #flat, 2 do
    local length = lease_length(flat[i], 1e14)
    -- Its end was moved by the clock, and not by its holder: it counts as one that ended before the third grace, for a clock that was set
    -- back begins the graces anew.
    if tonumber(flat[i + 1]) > now + length + length / 3 and not spared(begun[3], length) then over[#over + 1] = flat[i] end
  end
end

-- keys: what else is touched.
local function note(keys)
  keys[#keys + 1], keys[#keys + 2] = K_LEASES, K_CLOCK
  local err = guard(keys)
  if looked and not err then redis.call('HSET', K_CLOCK, unpack(looked)) end
  return err
end
local err
if #over == 0 then
  err = note({})
  return err or { now, 0, 0, 0, ending[2] and tonumber(ending[2]) or -1, 0, graced }
end
--@rest
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/extension.lua
--@include lib/gather.lua
--@include lib/fair.lua
--@include lib/pauses.lua
--@include lib/turns.lua
--@include lib/limits.lua
--@include lib/lent.lua
--@include lib/hint.lua
--@include lib/place.lua
--@include lib/ended.lua
--@include lib/forget.lua
--@include lib/finish.lua
--@include lib/callback.lua
--@include lib/loss.lua
local W, losses_cap, cap, idem_ttl = tonumber(ARGV[1]), tonumber(ARGV[3]), tonumber(ARGV[5]), ARGV[6]
err = note({ K_LEASED, K_BUCKETS, K_DEAD, K_DEAD_AT, K_QUAR, K_QUAR_AT, K_GROUPS, callback_keys(now, W) })
if err then return err end
local c = clock(now)
local reaped, back, dead, dropped = 0, 0, 0, 0
local hold = held(ARGV[8] == '1', now, lease_ms)
for _, lid in ipairs(over) do
  local lease = k_lease(lid)
  if reaped >= 100 or back + dead > 0 and back + dead + redis.call('HLEN', lease) > 500 then break end
  local holds, doer, length = redis.call('HGETALL', lease), lease_doer(lid), lease_length(lid, lease_ms)
  local keys = { lease }
  for i = 1, #holds, 2 do keys[#keys + 1] = k_bucket(math.floor(id_due(holds[i]) / W)) end
  err = guard(keys)
  if err then return err end
  local handled, kept = {}, false
  for i = 1, #holds, 2 do
    local id, rec = holds[i], without_permit(holds[i], holds[i + 1], now)
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
      local more = charge_loss(id, rec, flags, due, at, now, doer, length, losses_cap, hold, cap, idem_ttl, W, c)
      if more then
        dead, dropped = dead + 1, dropped + more
      else
        back = back + 1
      end
    end
  end
  for from = 1, #handled, 1000 do
    redis.call('HDEL', K_LEASED, unpack(handled, from, math.min(from + 999, #handled)))
  end
  if kept then
    -- Records of a newer DelayBox: a node of that version will reap what stays of the lease.
    if #handled > 0 then redis.call('HDEL', lease, unpack(handled)) end
    redis.call('ZADD', K_LEASES, now + length, lid)
  else
    redis.call('DEL', lease)
    redis.call('ZREM', K_LEASES, lid)
  end
  reaped = reaped + 1
end
part()
call_back(now, W, ARGV[4])
wake(c, ARGV[4])
settle_permits(now)
local head = redis.call('ZRANGE', K_LEASES, 0, 0, 'WITHSCORES')
return { now, reaped, back, dead, head[2] and tonumber(head[2]) or -1, dropped, graced }
