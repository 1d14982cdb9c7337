#!lua flags=allow-oom
-- Writes a member's heartbeat, and takes members that have not beaten for a while off the list of those that rank. Allowed on a
-- full server too: a member that goes on firing there must not look dead.
-- KEYS  1 members hash
-- ARGV  1 member id, 2 its record; without one only the moment is written, of a member that ranked when it beat last, 3 '1' = others must
--       read its record anew, '2' = with the next change of the list, '0' or none = they need not, 4 '1' = it is ending, so that it
--       ranks no more
-- REPLY {now ms, version of the list, 1 = this member ranks, 0 = it does not, 2 = the record is needed, and nothing was written}
-- ERRORS TRYAGAIN (nothing written)
-- BOUND 8 members that went silent, 8 that are forgotten, 8 beats from the future
--@include lib/time.lua
--@include lib/guard.lua
local BEATS, LIST = '{' .. KEYS[1] .. '}:beats', '{' .. KEYS[1] .. '}:list'
local err = MOVES and guard({ KEYS[1], BEATS, LIST })
if err then return err end
local now = now_ms()
local id, record = ARGV[1], ARGV[2]
local list = record and redis.call('HMGET', LIST, 'version', 'swept', 'returned') or redis.call('HMGET', LIST, 'version', 'swept')
-- A thousand members beat 2,000 times a second: it is enough when one in a hundred beats looks after the others.
local since = now - (tonumber(list[2] or '') or 0)
local sweeps = since < 0 or since >= 50
-- Nearly every beat of a large list ends here, so what the others need is made below. Of one without a record it is known that it is not
-- among those that came back. CH: a member that is off the list is told from one that is on it.
local plain = not sweeps and not ARGV[3] and (not record or list[3] == '0')
if plain and redis.call('ZADD', BEATS, 'XX', 'CH', now, id) == 1 then
  if record then redis.call('HSET', KEYS[1], id, record) end
  return { now, list[1], 1 }
elseif not record then
  return { now, list[1], 2 }
end
--@include lib/members.lua
err = guard(MEMBER_KEYS)
if err then return err end
local ending = ARGV[4] == '1'
local changed, noted, ranks = ARGV[3] == '1', (ARGV[3] or '0') ~= '0', true
local from = not ending and list[3] ~= '0' and tonumber(redis.call('ZSCORE', K_RETURNED, id) or '')
local before = from and tonumber(redis.call('ZSCORE', K_BEATS, id) or '')
redis.call('HSET', K_MEMBERS, id, record)
if redis.call('ZADD', K_BEATS, now, id) == 1 then
  changed, noted = true, true
  if redis.call('ZREM', K_SILENT, id) == 1 then
    ranks_from(id, now + PUNCTUAL)
    ranks = false
  end
elseif from then
  ranks = now >= from
  -- A moment from further ahead is of before the clock was set back.
  if now - before > SILENT or from > now + PUNCTUAL and from < NEVER then
    ranks_from(id, now + PUNCTUAL)
    ranks = false
  elseif ranks then
    redis.call('ZREM', K_RETURNED, id)
    changed = true
  end
end

if ending then
  ranks = false
  if ranks_from(id, NEVER) then changed, noted = true, true end
end
if noted then note(id, now) end

if sweeps then
  -- After a time in which no member could beat, none is judged until all have had a chance to beat.
  local times = redis.call('HMGET', K_LIST, 'beat', 'calm')
  local last, calm = tonumber(times[1] or '') or 0, tonumber(times[2] or '') or 0
  if now < last or now - last > OUTAGE then
    calm = now + SILENT
    redis.call('HSET', K_LIST, 'calm', calm)
  end
  -- The clock was set back: beats from ahead of it are as old as this one.
  local full = false
  for n, other in ipairs(redis.call('ZRANGE', K_BEATS, now + SILENT, '+inf', 'BYSCORE', 'LIMIT', 0, 8)) do
    redis.call('ZADD', K_BEATS, now, other)
    full = n == 8
  end
  if now >= calm then
    local flat = redis.call('ZRANGE', K_BEATS, '-inf', now - SILENT, 'BYSCORE', 'LIMIT', 0, 8, 'WITHSCORES')
    full = full or #flat == 16
    for i = 1, #flat, 2 do
      redis.call('ZADD', K_SILENT, flat[i + 1], flat[i])
      redis.call('ZREM', K_BEATS, flat[i])
      redis.call('ZREM', K_RETURNED, flat[i])
      changed = true
    end
  end
  for n, other in ipairs(redis.call('ZRANGE', K_SILENT, '-inf', now - KEPT, 'BYSCORE', 'LIMIT', 0, 8)) do
    forget_member(other)
    changed = true
    full = full or n == 8
  end
  -- The next beat goes on at once where there may be more.
  redis.call('HSET', K_LIST, 'beat', now, 'swept', full and 0 or now, 'returned', redis.call('ZCARD', K_RETURNED))
end
return { now, changed and list_changed(now) or list[1], ranks and 1 or 0 }
