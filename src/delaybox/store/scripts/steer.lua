#!lua flags=allow-oom
-- Brings into one partition what scripts must know of the rules of queues, a part at a time. With the last part, lanes whose queue is
-- not paused any more become active again, and those who claim are woken.
-- KEYS  1 hash tag of the partition
-- ARGV  1 mark that must stand here ('' none), 2 mark to set now, 3 mark to set at the end ('' = more parts follow),
--       4 member of the parked set to go on behind ('' from the start), 5 the version that is copied, then (field of `steered`, its value
--       or '' for none) ...
-- REPLY {mark that stands here now, member to go on behind ('' = done)}; where another mark stands, nothing was written
-- ERRORS TRYAGAIN (nothing written)
-- BOUND 500 queues, 200 parked lanes
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/guard.lua
--@include lib/turns.lua
local WALK = 200
local err = guard({ K_CLOCK, K_STEERED, K_PARKED })
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
local from = ARGV[4] == '' and '-' or '(' .. ARGV[4]
local members = redis.call('ZRANGE', K_PARKED, from, '+', 'BYLEX', 'LIMIT', 0, WALK)
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
  local now = int(now_ms())
  redis.call(NOTIFY, T .. ':wake', now)
  redis.call(NOTIFY, T .. ':ready', T)
  redis.call(NOTIFY, T .. ':wake:w', now)
  redis.call(NOTIFY, T .. ':ready:w', now .. ' ' .. woken)
end
if #members == WALK then return { ARGV[2], members[WALK] } end
-- A node of an earlier version copies pauses alone, and does not set `ruled`.
redis.call('HSET', K_CLOCK, 'rules', ARGV[3], 'ruled', ARGV[5])
if redis.call('EXISTS', K_STEERED, K_PARKED) == 0 then redis.call('HDEL', K_CLOCK, 'steered') end
return { ARGV[3], '' }
