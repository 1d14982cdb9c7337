-- What is remembered of tasks that have ended. Needs time, keys. Python's side is store/history.py.
-- Entries lie in hashes id -> entry by the id's home bucket, FULL entries in each and MOST of them for a bucket; what is more is only
-- counted. Two families, for failures are kept longer: 'f' failed, 's' everything else. A hash is named <family><bucket>:<number>.
local FULL, MOST = 1000, 50
-- Hash: <family><bucket> -> number of the hash that is filled; entries:<family>, bytes:<family> of all; beyond:<state letter> counts.
local K_HISTORY = T .. ':history'
-- Hash: name -> entries and bytes (u32 each) and the moment (u48 ms) of its first entry.
local K_HISTORY_SIZES = T .. ':history:sizes'
local function k_history(name) return T .. ':history:' .. name end
-- Zset: name -> ms of its last entry.
local function k_history_at(family) return T .. ':history:at:' .. family end

local function history_size(name)
  local size = redis.call('HGET', K_HISTORY_SIZES, name)
  if not size then return 0, 0 end
  return struct.unpack('>I4I4', size)
end

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
