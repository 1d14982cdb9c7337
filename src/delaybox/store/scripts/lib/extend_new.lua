-- What new tasks with an extension need beside their record and their hint. Scripts include it where there are such tasks: most calls store
-- none, and would pay more for making these functions than for storing a lone task. Needs newborn, extension, fair.

-- Notes lanes that will have tasks with a fairness key.
local function note_keys(b)
  for _, new in ipairs(b.extended) do fair.note(new[1], new[2], new[3], new[4]) end
end
