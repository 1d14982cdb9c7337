-- Tasks whose flags are their priority alone, and whose extension holds nothing but the places of their labels in the index: what they leave
-- there is seen with few calls of functions, and without the files that other extensions need. Needs keys, record.
local labels_left
do
local alone, places, split = {}, {}, struct.unpack
-- What an extension holds, if that is labels alone: their bytes, by how it begins (its length, tag, length of the entry), else false.
local function bytes_alone(begins)
  local high, low, tag, entry_high, entry_low = byte(begins, 1, 5)
  -- 20: labels.TAG of lib/extension.lua.
  if tag ~= 20 or not entry_low or 256 * high + low ~= 256 * entry_high + entry_low + 3 then return false end
  local bytes = 256 * entry_high + entry_low
  return bytes >= 6 and bytes % 6 == 0 and bytes
end
-- The members that tasks leave in a set, by the number as records have it.
local function leaves(number, left)
  local high, low = byte(number, 1, 2)
  local key = T .. ':label:' .. (256 * high + low)
  left[key] = left[key] or {}
  places[number] = left[key]
  return left[key]
end
-- Adds what the task leaves to left, the same table in each call: by key the members. first: the record's first byte. Returns false, and has
-- done nothing, for any other record.
function labels_left(id, rec, first, left)
  local at = first == FULL_EXT and 16 or first == FRESH_EXT and 3
  local size = at and byte(rec, at)
  if not size or #rec < at + size + 11 then return false end
  local from = at + 1 + size
  local begins, number, mark = split('c5c2c4', rec, from)
  local bytes = alone[begins]
  if bytes == nil then
    bytes = bytes_alone(begins)
    alone[begins] = bytes
  end
  if not bytes or #rec < from + 4 + bytes then return false end
  local members = places[number] or leaves(number, left)
  members[#members + 1] = id .. mark
  for i = from + 11, from + 4 + bytes, 6 do
    number, mark = split('c2c4', rec, i)
    members = places[number] or leaves(number, left)
    members[#members + 1] = id .. mark
  end
  return true
end
end
