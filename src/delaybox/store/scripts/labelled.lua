#!lua flags=no-writes,allow-oom
-- Lists the tasks that seem to have a label.
-- KEYS  1 hash tag of the partition
-- ARGV  1 number of the set, 2 mark (4 bytes), 3 number of the list
-- REPLY ids, in order
-- BOUND one set and two lists, 100 elements at a time; the caller looks at the sizes first, and goes on only with 1,000,000 entries of
--       sets, elements of lists and entries that these have of the label, as samples tell, in all partitions together at most
--@include lib/keys.lua
local mark, found, seen, sub, search = ARGV[2], {}, {}, string.sub, string.find
local function add(id)
  if not seen[id] then
    seen[id] = true
    found[#found + 1] = id
  end
end
for _, member in ipairs(redis.call('SMEMBERS', T .. ':label:' .. ARGV[1])) do
  if sub(member, 17) == mark then add(sub(member, 1, 16)) end
end
for _, list in ipairs({ T .. ':listing', T .. ':listed:' .. ARGV[3] }) do
  for from = 0, redis.call('LLEN', list) - 1, 100 do
    for _, element in ipairs(redis.call('LRANGE', list, from, from + 99)) do
      -- A fifth of it are marks. Searched apart from the ids, which all begin alike.
      local marks = sub(element, 1, #element / 5)
      local at = search(marks, mark, 1, true)
      while at do
        if at % 4 == 1 then
          local first = #marks + 4 * at - 3
          add(sub(element, first, first + 15))
        end
        at = search(marks, mark, at + 1, true)
      end
    end
  end
end
table.sort(found)
return found
