-- Scripts include this where a new task has an indexed label. Needs newborn.
-- The index of labels. ARGV from `from` on: (number of the set, its entries in one string, each id template and mark, at most 1,000) ...; ids:
-- those of the tasks, by their place among the n; fewer: some of these are not stored; before: index in ARGV of the template before the
-- first. The caller makes the entries, so that none is taken from its record here, which costs several calls of functions for each; in one
-- string, because an argument of a script costs the server as much as half an SADD of it. Only where ids are others than their templates,
-- or fewer, they are made anew.
local function add_labels(b, from, ids, n, fewer, before)
  local known
  if b.renamed or fewer then
    known = {}
    for i = 1, n do known[ARGV[before + 2 * i]] = ids[i] end
  end
  for at = from, #ARGV, 2 do
    local key, sent, members, count = T .. ':label:' .. ARGV[at], ARGV[at + 1], nil, 0
    if known then
      members = {}
      for i = 1, #sent, 20 do
        local id = known[sub(sent, i, i + 15)]
        if id then
          count = count + 1
          members[count] = id .. sub(sent, i + 16, i + 19)
        end
      end
    else
      count = #sent / 20
      members = { struct.unpack(string.rep('c20', count), sent) }
    end
    if count > 0 then b.listed[#b.listed + 1] = { key, members, count } end
  end
end
