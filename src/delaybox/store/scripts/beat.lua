#!lua flags=allow-oom
-- Writes a member's heartbeat, and takes members that have not beaten for a while off the list of those that rank. Allowed on a
-- full server too: a member that goes on firing there must not look dead.
-- KEYS  1 members hash
-- ARGV  1 member id, 2 its record, 3 how long without a beat a member still ranks ms, 4 how long the record of one that went silent
--       is kept ms, 5 how long one that was silent beats in time before it ranks again ms, 6 channel for changes of the list,
--       7 '1' = it is ending, so that it ranks no more, 8 '1' = others must read its record anew, '2' = with
--       the next change of the list, '0' = they need not
-- REPLY {now ms, version of the list, 1 = this member ranks}
-- ERRORS TRYAGAIN (nothing written)
-- BOUND 8 members that went silent, 8 that are forgotten, 8 beats from the future
--@include lib/time.lua
--@include lib/guard.lua
--@include lib/members.lua
local err = guard(MEMBER_KEYS)
if err then return err end
local now = now_ms()
local id, record = ARGV[1], ARGV[2]
local silent_after, kept, punctual = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local ending = ARGV[7] == '1'

-- After a time in which no member could beat, none is judged until all have had a chance to beat.
local list = redis.call('HMGET', K_LIST, 'beat', 'calm', 'swept', 'version', 'noted')
local last, calm, swept = tonumber(list[1] or '') or 0, tonumber(list[2] or '') or 0, tonumber(list[3] or '') or 0
if now < last or now - last > OUTAGE then
  calm = now + silent_after
  redis.call('HSET', K_LIST, 'calm', calm)
end

local changed, noted, ranks = ARGV[8] == '1', ARGV[8] ~= '0', true
local from = not ending and tonumber(redis.call('ZSCORE', K_RETURNED, id) or '')
local before = from and tonumber(redis.call('ZSCORE', K_BEATS, id) or '')
redis.call('HSET', K_MEMBERS, id, record)
if redis.call('ZADD', K_BEATS, now, id) == 1 then
  changed, noted = true, true
  if redis.call('ZREM', K_SILENT, id) == 1 then
    redis.call('ZADD', K_RETURNED, now + punctual, id)
    ranks = false
  end
elseif from then
  ranks = now >= from
  -- A moment from further ahead is of before the clock was set back.
  if now - before > silent_after or from > now + punctual and from < NEVER then
    redis.call('ZADD', K_RETURNED, now + punctual, id)
    ranks = false
  elseif ranks then
    redis.call('ZREM', K_RETURNED, id)
    changed = true
  end
end

if ending then
  ranks = false
  if redis.call('ZADD', K_RETURNED, NEVER, id) == 1 then changed, noted = true, true end
end
if noted then note(id, tonumber(list[5] or '') or 0, now) end

-- In a large list somebody has just looked after the others.
local sweeps = now < swept or now - swept >= BETWEEN_SWEEPS
if sweeps then
  -- The clock was set back: beats from ahead of it are as old as this one.
  local full = false
  for n, other in ipairs(redis.call('ZRANGE', K_BEATS, now + silent_after, '+inf', 'BYSCORE', 'LIMIT', 0, 8)) do
    redis.call('ZADD', K_BEATS, now, other)
    full = n == 8
  end
  if now >= calm then
    local flat = redis.call('ZRANGE', K_BEATS, '-inf', now - silent_after, 'BYSCORE', 'LIMIT', 0, 8, 'WITHSCORES')
    full = full or #flat == 16
    for i = 1, #flat, 2 do
      redis.call('ZADD', K_SILENT, flat[i + 1], flat[i])
      redis.call('ZREM', K_BEATS, flat[i])
      redis.call('ZREM', K_RETURNED, flat[i])
      changed = true
    end
  end
  for n, other in ipairs(redis.call('ZRANGE', K_SILENT, '-inf', now - kept, 'BYSCORE', 'LIMIT', 0, 8)) do
    forget_member(other)
    changed = true
    full = full or n == 8
  end
  -- The next beat goes on at once where there may be more.
  redis.call('HSET', K_LIST, 'beat', now, 'swept', full and 0 or now)
end
return { now, changed and list_changed(ARGV[6], now) or tonumber(list[4] or '') or 0, ranks and 1 or 0 }
