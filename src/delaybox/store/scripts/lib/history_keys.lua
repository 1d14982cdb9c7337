-- Where it lies what is remembered of tasks that have ended. Needs tag. Python's side is store/history.py.
-- Entries lie by the id's home bucket in hashes of chunks, because one field for many ends costs a fiftieth of a field for each: number
-- of the chunk -> id (16 bytes), length (u16) and entry, one after another. A hash takes chunks until it has FULL entries, and a bucket has
-- MOST hashes; what is more is only counted. Two families, for failures are kept longer: 'f' failed, 's' everything else. A hash is
-- named <family><bucket>:<number>.
local FULL, MOST = 1000, 50
-- Hash: <family><bucket> -> number of the hash that is filled; entries:<family>, bytes:<family> of all; beyond:<state letter> counts.
local K_HISTORY = T .. ':history'
-- Hash: name -> entries and bytes (u32 each), the moment of its first entry (u48 ms), chunks (u32).
local K_HISTORY_SIZES = T .. ':history:sizes'
local function k_history(name) return T .. ':history:' .. name end
-- Zset: name -> ms of its last entry.
local function k_history_at(family) return T .. ':history:at:' .. family end
