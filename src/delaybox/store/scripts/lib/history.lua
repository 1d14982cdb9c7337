-- What is remembered of tasks that have ended: measured, and dropped. Needs history_keys.
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
