-- Ends of a task's life. Needs record, extension, keys, time, forget.

-- Marks or frees the idempotency key of a task that was cancelled. Marked, its entry has one byte more behind the fingerprint, so
-- that scheduling with the key does not answer as if the task would still run; `cancelled:<id>` then keeps the key, so that
-- it can be freed later. Call it after forget.
local function retire(id, key, idem_ttl, free)
  local entry = k_idem(key)
  if not names(entry, id) then return end
  if free then
    redis.call('UNLINK', entry)
  else
    redis.call('APPEND', entry, 'c')
    redis.call('SET', k_cancelled(id), key, 'PX', idem_ttl)
  end
end

-- Dead letters: value = died:u64 reasonLen:u16 reason record; the reason may hold a NUL byte and a traceback behind it. Past the cap the oldest
-- go: one for each that comes in; where the cap was lowered up to 19 more, in one script 500.
-- Returns how many were dropped by the cap.
ending.lowered = 500
local function bury(id, rec, now, reason, cap, idem_ttl)
  if byte(rec, 1) >= FRESH_EXT then
    local kind, flags, _, at = rec_head(id, rec)
    if kind == 'ok' then
      rec, flags = unlock(id, rec, flags, at)
      local template = ext_get(rec, at, flags, EXT.ON_FAILURE)
      if template then ending.calls[#ending.calls + 1] = { id, rec, flags, at, template, reason } end
    end
  end
  local hi = math.floor(now / 4294967296)
  redis.call('HSET', K_DEAD, id, struct.pack('>I4I4I2', hi, now - hi * 4294967296, #reason) .. reason .. rec)
  redis.call('ZADD', K_DEAD_AT, now, id)
  local over = redis.call('ZCARD', K_DEAD_AT) - cap
  if over <= 0 then return 0 end
  local more = math.min(over - 1, 19, ending.lowered)
  ending.lowered = ending.lowered - more
  local old = redis.call('ZRANGE', K_DEAD_AT, 0, more)
  for _, oid in ipairs(old) do
    local v = redis.call('HGET', K_DEAD, oid)
    if v then
      local orec = string.sub(v, 11 + struct.unpack('>I2', v, 9))
      local kind, flags, _, at = rec_head(oid, orec)
      if kind == 'ok' then forget(oid, orec, flags, at, idem_ttl) end
      redis.call('HDEL', K_DEAD, oid)
    end
    redis.call('ZREM', K_DEAD_AT, oid)
  end
  return #old
end
