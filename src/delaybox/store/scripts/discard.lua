#!lua flags=allow-oom
-- Deletes dead letters for good: those named, or those that died before a moment.
-- KEYS  1 hash tag of the partition
-- ARGV  1 how long idempotency keys outlive their task ms, 2 died before Unix ms (0 = only those named), then ids
-- REPLY how many were deleted
-- ERRORS TRYAGAIN (nothing written)
-- BOUND 500 ids, or the 500 oldest
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/extension.lua
--@include lib/guard.lua
--@include lib/ended.lua
--@include lib/forget.lua
--@include lib/finish.lua
--@include lib/failures.lua
local err = guard({ K_DEAD, K_DEAD_AT, K_GROUPS, failures.KEY, failures.AT, failures.BYTES })
if err then return err end
local ids = { unpack(ARGV, 3) }
if ARGV[2] ~= '0' then ids = redis.call('ZRANGE', K_DEAD_AT, '-inf', '(' .. ARGV[2], 'BYSCORE', 'LIMIT', 0, 500) end
local deleted, explained = 0, redis.call('EXISTS', failures.KEY) == 1
for _, id in ipairs(ids) do
  local value = redis.call('HGET', K_DEAD, id)
  if value then
    local rec = string.sub(value, 11 + struct.unpack('>I2', value, 9))
    local kind, flags, _, at = rec_head(id, rec)
    if kind == 'ok' then forget(id, rec, flags, at, ARGV[1]) end
    deleted = deleted + redis.call('HDEL', K_DEAD, id)
  end
  redis.call('ZREM', K_DEAD_AT, id)
  if explained then failures.drop(id) end
end
part()
return deleted
