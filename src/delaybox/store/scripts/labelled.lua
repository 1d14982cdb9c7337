#!lua flags=no-writes,allow-oom
-- Lists the tasks that seem to have a label.
-- KEYS  1 hash tag of the partition
-- ARGV  1 number of the set, 2 mark (4 bytes)
-- REPLY ids, in order
-- BOUND one set; the caller looks at the sizes first, and goes on only with 1,000,000 entries of all partitions together at most
--@include lib/keys.lua
local found = {}
for _, member in ipairs(redis.call('SMEMBERS', T .. ':label:' .. ARGV[1])) do
  if string.sub(member, 17) == ARGV[2] then found[#found + 1] = string.sub(member, 1, 16) end
end
table.sort(found)
return found
