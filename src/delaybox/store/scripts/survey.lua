#!lua flags=allow-oom
-- How much waits in one partition for a taker that has fewer slots than work: it decides by this what it claims where.
-- KEYS  1 hash tag of the partition
-- ARGV  1 letters of the task types served by lease, 2 1 = a guest, as in claim.lua, 3 how many due tasks to make ready first, of
--       64 lanes at most, because lanes take turns by weight (0 none), 4 bucket width ms, 5.. lanes, as in claim.lua from 16 on
-- REPLY {now ms, lanes met as in claim.lua, critical lines, other lines, lanes, their lines}. A line: three numbers, the virtual deadline
--        of its first task (ms), by how much that of the next is later (microseconds, as far as was looked), how many wait. Lanes with
--        ready work that is not critical are named where ARGV[3] > 0. Where near holds much, or tasks of others among those served,
--        how many wait there is an estimate by the first of them
-- ERRORS TRYAGAIN (nothing written)
-- BOUND LOOKED entries of each near index, 64 lanes with ready work of each type, 1,000 tasks of 64 lanes made ready
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
--@include lib/waiting.lua
local LOOKED, MOST_LANES = 32, 64
local now = now_ms()
local types, guest, make = ARGV[1], ARGV[2] == '1', tonumber(ARGV[3])
local own, alone = whose.near(types, guest)
local served = whose.filter(5)
fair.W = tonumber(ARGV[4])
local err = guard({ K_CLOCK, K_PARKED, unpack(K_NEAR, 0, 11) })
if err then return err end
local critical_lines, other_lines = {}, {}
local function add(line, first, last, among, count)
  local gap = among > 1 and math.max(math.floor((last - first) * 1000 / (among - 1)), 0) or 0
  local n = #line
  line[n + 1], line[n + 2], line[n + 3] = first, gap, count
end
local function look()
  critical_lines, other_lines = {}, {}
  local function line(critical, ...) add(critical and critical_lines or other_lines, ...) end
  return whose.in_near(own, '-inf', now, types, served, LOOKED, line)
end
local _, of_others = look()
-- Lanes take turns among what is ready. What lies in near for all who keep time is made ready by them.
if make > 0 and of_others > 0 and (alone or not guest) then
  promote(own, now, make, fair.looks)
  look()
end
local names, lines = {}, {}
for _, critical in ipairs({ true, false }) do
  local lanes = ready_lanes(types, served, now, critical)
  table.sort(lanes, function(a, b) return a.start < b.start or (a.start == b.start and a.name < b.name) end)
  for i = 1, math.min(#lanes, MOST_LANES) do
    local lane = lanes[i]
    local count = redis.call('ZCARD', lane.key)
    local among = math.min(count, LOOKED)
    local limits = is_steered() and permits().of(lane.name)
    if limits then count = math.min(count, permits().room(limits, now)) end
    if count > 0 then
      local first = tonumber(redis.call('ZRANGE', lane.key, 0, 0, 'WITHSCORES')[2])
      local last = among > 1 and tonumber(redis.call('ZRANGE', lane.key, among - 1, among - 1, 'WITHSCORES')[2]) or first
      add(critical and critical_lines or other_lines, first, last, among, count)
      if not critical and make > 0 then
        names[#names + 1] = lane.name
        add(lines, first, last, among, count)
      end
    end
  end
end
return { now, whose.met, critical_lines, other_lines, names, lines }
