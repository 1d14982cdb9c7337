#!lua flags=allow-oom
-- Makes WORKER or HTTP tasks ready that nobody claimed in time, and publishes a message for members that may serve them.
-- KEYS  1 hash tag of the partition
-- ARGV  1 how late ms, 2 most tasks (<= 500), 3 bucket width ms, 4 the type's letter: w or h
-- REPLY {now ms, tasks made ready, due ms of the first that is left in the near indexes (-1 none), 1 = there is ready work}
-- ERRORS TRYAGAIN (nothing written)
-- BOUND 500 tasks of 64 lanes, where each with a fairness key counts as a lane
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/extension.lua
--@include lib/guard.lua
--@include lib/gather.lua
--@include lib/fair.lua
--@include lib/pauses.lua
--@include lib/turns.lua
--@include lib/limits.lua
--@include lib/served.lua
--@include lib/claim_order.lua
local now = now_ms()
local late, most = tonumber(ARGV[1]), tonumber(ARGV[2])
fair.W = tonumber(ARGV[3])
local own = whose.near(ARGV[4], true)
local err = guard({ K_CLOCK, unpack(K_NEAR, own[1], own[4]) })
if err then return err end
held_back = function(lane, critical) return permits().hold_back(lane, critical, now) end
local moved = promote(own, now - late, most, fair.looks)
local first = -1
for _, n in ipairs(own) do
  local head = redis.call('ZRANGE', K_NEAR[n], 0, 0, 'WITHSCORES')
  if head[2] then
    local due = tonumber(head[2])
    if first < 0 or due < first then first = due end
  end
end
local stands = redis.call('EXISTS', k_active(ARGV[4], true), k_active(ARGV[4], false)) > 0
if stands and ARGV[4] == 'w' then redis.call(NOTIFY, T .. ':ready:w', int(now) .. ' ' .. moved)
elseif stands then redis.call(NOTIFY, T .. ':ready', T) end
return { now, moved, first, stands and 1 or 0 }
