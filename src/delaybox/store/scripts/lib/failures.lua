-- Why attempts failed: of each task its last failures. Needs keys. Python's side is store/failures.py.
-- A value holds one failure after another: its length (u32), the delivery that failed (u32), and what Lua does not read.
local failures = {
  -- Hash: id -> its failures.
  KEY = T .. ':failures',
  -- Zset: id -> ms of its last failure.
  AT = T .. ':failures:at',
  -- String: bytes of all values, and OVERHEAD for each.
  BYTES = T .. ':failures:bytes',
  OVERHEAD = 100,
}
-- Forgets those of one task. Returns the bytes that are left.
function failures.drop(id)
  local size = redis.call('HSTRLEN', failures.KEY, id)
  redis.call('ZREM', failures.AT, id)
  if size == 0 then return tonumber(redis.call('GET', failures.BYTES) or '0') end
  redis.call('HDEL', failures.KEY, id)
  return redis.call('DECRBY', failures.BYTES, size + failures.OVERHEAD)
end
