#!lua flags=no-writes,allow-oom
-- How many tasks lie in each step of time: the lengths of buckets, which cost nothing to keep.
-- KEYS  1 hash tag of the partition
-- ARGV  1 first bucket, 2 bucket after the last, 3 buckets a step, 4 bucket to go on from
-- REPLY {bucket to go on from (-1: done), step index from 0, tasks, step index, tasks, ...}; steps without tasks are left out.
--       A rescheduled task may count at its old and its new time until its pointer is followed.
-- BOUND 2,000 buckets a call
--@include lib/keys.lua
local first, width = tonumber(ARGV[1]), tonumber(ARGV[3])
local numbers = redis.call('ZRANGE', K_BUCKETS, ARGV[4], '(' .. ARGV[2], 'BYSCORE', 'LIMIT', 0, 2000)
local sums, order = {}, {}
for _, number in ipairs(numbers) do
  local step = math.floor((tonumber(number) - first) / width)
  if not sums[step] then
    sums[step] = 0
    order[#order + 1] = step
  end
  sums[step] = sums[step] + redis.call('HLEN', T .. ':b:' .. number)
end
local reply = { #numbers == 2000 and tonumber(numbers[2000]) + 1 or -1 }
for _, step in ipairs(order) do
  reply[#reply + 1] = step
  reply[#reply + 1] = sums[step]
end
return reply
