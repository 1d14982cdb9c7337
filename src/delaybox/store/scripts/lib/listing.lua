-- The index of labels: enters new tasks. Scripts include it where a task has an indexed label. Needs newborn.
-- An element of the list holds the entries of one call: marks of 4 bytes, then as many ids. It is made of what came, so that next to
-- nothing is done for each task: any command, argument or string of its own for each would cost several times as much as the entry may.
-- ARGV from `from` on: (of each task with an entry its place among those of the call, u16, or '' = each task of the call has one, their
-- marks) ...; ids: of the n tasks by their places; one that is not stored has none; fewer: there is such a one.
local function add_labels(b, from, ids, n, fewer)
  local all
  for at = from, #ARGV, 2 do
    local places, marks = ARGV[at], ARGV[at + 1]
    if places == '' and not fewer then
      all = all or table.concat(ids, '', 1, n)
      b.listed[#b.listed + 1] = marks .. all
    else
      local some_marks, some_ids, count = {}, {}, 0
      for i = 1, #marks / 4 do
        local id = ids[places == '' and i or struct.unpack('>I2', places, 2 * i - 1)]
        if id then
          count = count + 1
          some_marks[count], some_ids[count] = sub(marks, 4 * i - 3, 4 * i), id
        end
      end
      if count > 0 then b.listed[#b.listed + 1] = table.concat(some_marks) .. table.concat(some_ids) end
    end
  end
end
