#!lua flags=allow-oom
-- Brings into one partition what scripts must know of the rules of queues, a part at a time. With the last part, lanes whose queue is
-- not paused or limited any more become active again, and those who claim are woken.
-- KEYS  1 hash tag of the partition
-- ARGV  1 mark that must stand here ('' none), 2 mark to set now, 3 mark to set at the end ('' = more parts follow),
--       4 where to go on ('' from the start), 5 the version that is copied, then (field of `steered`, its value
--       or '' for none) ...
-- REPLY {mark that stands here now, where to go on ('' = done)}; where another mark stands, nothing was written
-- ERRORS TRYAGAIN (nothing written)
-- BOUND 500 fields, 256 KiB or one field, 200 lanes
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/guard.lua
--@include lib/pauses.lua
--@include lib/turns.lua
--@include lib/limits.lua
local K_STEERED = T .. ':steered:groups'
-- The copy of nodes of the previous version, which do not read ours: they keep it, and note in `ruled` how far.
local FORMER = T .. ':steered'
local WALK = 200
-- Before the place in the second walk, which goes over lanes of limited queues, and with '=' in the third, over what stands apart by limit
-- keys. Alone: nothing is walked.
local SECOND = '\255'
local err = guard({ K_CLOCK, K_STEERED, FORMER, K_PARKED, K_LIMITED, permits().HELD, permits().APART, permits().HELD_KEYS })
if err then return err end
local mark = redis.call('HGET', K_CLOCK, 'rules') or ''
if mark ~= ARGV[1] then return { mark, '' } end
-- The flag comes first and goes last: a script that sees it looks the rules up, and finds none where there are none.
redis.call('HSET', K_CLOCK, 'rules', ARGV[2], 'steered', 1)
for i = 6, #ARGV, 2 do
  if ARGV[i + 1] == '' then redis.call('HDEL', K_STEERED, ARGV[i]) else redis.call('HSET', K_STEERED, ARGV[i], ARGV[i + 1]) end
end
if ARGV[3] == '' then return { ARGV[2], '' } end

set_steered(true)
local now, second = now_ms(), string.sub(ARGV[4], 1, 1) == SECOND
local from = ARGV[4] == '' and '-' or '(' .. ARGV[4]
local members = second and {} or redis.call('ZRANGE', K_PARKED, from, '+', 'BYLEX', 'LIMIT', 0, WALK)
local woken = 0
for _, member in ipairs(members) do
  local lane, critical = parked_parts(member)
  if not paused(lane) then
    local waiting = redis.call('ZCARD', k_ready(lane, critical))
    if waiting > 0 then
      activate(lane, critical)
      woken = woken + waiting
    else
      retire(lane, critical)
    end
    redis.call('ZREM', K_PARKED, member)
  end
end
if woken > 0 then
  permits().call_for({ w = woken, other = woken }, now)
end
if #members == WALK then return { ARGV[2], members[WALK] } end
if not second and redis.call('EXISTS', K_LIMITED) == 1 then return { ARGV[2], SECOND .. '+' } end
if second and string.sub(ARGV[4], 2, 2) == '=' then
  -- Claims look at all keys again: their limits may be others now.
  local place, woken = string.sub(ARGV[4], 3), { w = 0, other = 0 }
  local apart = redis.call('ZRANGE', permits().APART, place == '' and '-' or '(' .. place, '+', 'BYLEX', 'LIMIT', 0, WALK)
  for _, member in ipairs(apart) do
    redis.call('ZADD', permits().HELD_KEYS, now, string.match(member, '^[^%z]*'))
    local kind = string.byte((parked_parts(member))) == 119 and 'w' or 'other'
    woken[kind] = woken[kind] + redis.call('ZCARD', permits().k_waits(member))
  end
  permits().call_for(woken, now)
  if #apart == WALK then return { ARGV[2], SECOND .. '=' .. apart[WALK] } end
elseif second and ARGV[4] ~= SECOND then
  -- Lanes whose queue has no limits any more are found again, and those with other limits wait by these.
  local place = string.sub(ARGV[4], 3)
  local lanes = redis.call('ZRANGE', K_LIMITED, place == '' and '-' or '(' .. place, '+', 'BYLEX', 'LIMIT', 0, WALK)
  for _, member in ipairs(lanes) do
    local lane, critical = parked_parts(member)
    permits().look_again(string.match(lane, '^.([^:]*)'), now, true)
    if not permits().of(lane) then
      if redis.call('EXISTS', k_ready(lane, critical)) == 1 then activate(lane, critical, true) end
      redis.call('ZREM', K_LIMITED, member)
    end
  end
  if #lanes == WALK then return { ARGV[2], SECOND .. '+' .. lanes[WALK] } end
end
if ARGV[4] ~= SECOND and string.sub(ARGV[4], 2, 2) ~= '=' and redis.call('EXISTS', permits().APART) == 1 then
  return { ARGV[2], SECOND .. '=' }
end
-- A queue that is held without a lane that waits has no limits to be let go by any more. What lies behind these is found by sweeps.
for _, queue in ipairs(redis.call('ZRANGE', permits().HELD, 0, WALK - 1)) do
  if not permits().of('w' .. queue) then permits().look_again(queue, now, true) end
end
-- A node of the previous version, which copies in another form, does not set `grouped`.
local before = tonumber(redis.call('HGET', K_CLOCK, 'grouped') or '') or 0
redis.call('HSET', K_CLOCK, 'rules', ARGV[3], 'grouped', ARGV[5])
-- Theirs goes when they have not copied the version before this one either: none is left, or it copies anew.
local ruled = tonumber(redis.call('HGET', K_CLOCK, 'ruled') or '')
if ruled and ruled < before then
  redis.call('UNLINK', FORMER)
  redis.call('HDEL', K_CLOCK, 'ruled')
end
if redis.call('EXISTS', K_STEERED, K_PARKED, K_LIMITED, permits().HELD, permits().APART) == 0 then redis.call('HDEL', K_CLOCK, 'steered') end
return { ARGV[3], '' }
