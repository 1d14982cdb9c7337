-- What is remembered of tasks that have ended. Needs time, keys. Python's side is store/history.py.
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

-- entries, bytes, chunks, the moment as it is stored
local function history_measures(size)
  if not size then return 0, 0, 0, nil end
  local entries, bytes, _, _, chunks = struct.unpack('>I4I4I2I4I4', size)
  return entries, bytes, chunks, string.sub(size, 9, 14)
end
local function history_size(name) return history_measures(redis.call('HGET', K_HISTORY_SIZES, name)) end

-- Unlinks one hash with what is known of it.
local function history_drop(name)
  local family = string.sub(name, 1, 1)
  local entries, bytes = history_size(name)
  redis.call('UNLINK', k_history(name))
  redis.call('HDEL', K_HISTORY_SIZES, name)
  redis.call('ZREM', k_history_at(family), name)
  redis.call('HINCRBY', K_HISTORY, 'entries:' .. family, -entries)
  redis.call('HINCRBY', K_HISTORY, 'bytes:' .. family, -bytes)
  local bucket = string.match(name, '^(.%d+):')
  if bucket and redis.call('HGET', K_HISTORY, bucket) == string.match(name, ':(%d+)$') then
    redis.call('HDEL', K_HISTORY, bucket)
  end
end
