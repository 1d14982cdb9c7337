#!lua flags=allow-oom
-- How much waits in one partition for a taker that has fewer slots than work: it decides by this what it claims where.
-- KEYS  1 hash tag of the partition
-- ARGV  1 letters of the task types served by lease, 2 1 = a guest, as in claim.lua, 3 how many due tasks to make ready first, because
--       lanes take turns by weight (0 none), 4 bucket width ms, 5.. lanes, as in claim.lua from 16 on
-- REPLY {now ms, critical tasks, other tasks, lanes met as in claim.lua[, lane, ready tasks that are not critical, ...]}; lanes where ARGV[3] > 0. Where near holds
--       much, or tasks of others among those served, how many wait there is an estimate by the first of them
-- ERRORS TRYAGAIN (nothing written)
-- BOUND LOOKED entries of each near index, 64 lanes with ready work of each type, 250 tasks made ready
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/extension.lua
--@include lib/guard.lua
--@include lib/gather.lua
--@include lib/fair.lua
--@include lib/pauses.lua
--@include lib/turns.lua
--@include lib/permits.lua
--@include lib/served.lua
--@include lib/select.lua
local LOOKED, MOST_LANES = 32, 64
local now = now_ms()
local types, guest, make = ARGV[1], ARGV[2] == '1', tonumber(ARGV[3])
local own, alone = whose.near(types, guest)
local served = whose.filter(5)
fair.W = tonumber(ARGV[4])
local err = guard({ K_CLOCK, K_PARKED, unpack(K_NEAR, 0, 11) })
if err then return err end
local of_critical, of_others = served_in_near(own, '-inf', now, types, served, LOOKED)
-- Lanes take turns among what is ready. What lies in near for all who keep time is made ready by them.
if make > 0 and of_others > 0 and (alone or not guest) then
  promote(own, now, make)
  of_critical, of_others = served_in_near(own, '-inf', now, types, served, LOOKED)
end
local sums = { [true] = of_critical, [false] = of_others }
local reply = { now, 0, 0, whose.met }
for _, critical in ipairs({ true, false }) do
  local lanes = ready_lanes(types, served, now, critical)
  table.sort(lanes, function(a, b) return a.start < b.start or (a.start == b.start and a.name < b.name) end)
  for i = 1, math.min(#lanes, MOST_LANES) do
    local count = redis.call('ZCARD', lanes[i].key)
    local limits = is_steered() and permits().of(lanes[i].name)
    if limits then count = math.min(count, permits().room(limits, now)) end
    sums[critical] = sums[critical] + count
    if not critical and make > 0 then
      reply[#reply + 1] = lanes[i].name
      reply[#reply + 1] = count
    end
  end
end
reply[2], reply[3] = sums[true], sums[false]
return reply
