#!lua flags=allow-oom
-- Deletes quarantined records for good: those named, or those that were put there before a moment.
-- KEYS  1 hash tag of the partition
-- ARGV  1 how long idempotency keys outlive their task ms, 2 put there before Unix ms (0 = only those named), 3 bucket
--       width ms, then ids
-- REPLY how many were deleted
-- ERRORS TRYAGAIN (nothing written)
-- BOUND 500 ids, or the 500 oldest; all together look 1,000 times into leases that an earlier version made
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/extension.lua
--@include lib/guard.lua
--@include lib/ended.lua
--@include lib/forget.lua
--@include lib/finish.lua
--@include lib/leased.lua
--@include lib/find.lua
local err = guard({ K_QUAR, K_QUAR_AT, K_GROUPS })
if err then return err end
local W, ids = tonumber(ARGV[3]), { unpack(ARGV, 4) }
if ARGV[2] ~= '0' then ids = redis.call('ZRANGE', K_QUAR_AT, '-inf', '(' .. ARGV[2], 'BYSCORE', 'LIMIT', 0, 500) end
local deleted = 0
for _, id in ipairs(ids) do
  local rec = redis.call('HGET', K_QUAR, id)
  if rec then
    -- Body and key are removed with the task, unless the task lies somewhere else as well.
    if find(id, W) == 'quarantine' then
      local kind, flags, _, at = rec_head(id, rec)
      -- The idempotency key of an unreadable record is not known; `fsck --repair` gives the key's entry an expiry.
      if kind == 'ok' then forget(id, rec, flags, at, ARGV[1]) else redis.call('UNLINK', k_body(id)) end
    end
    deleted = deleted + redis.call('HDEL', K_QUAR, id)
  end
  redis.call('ZREM', K_QUAR_AT, id)
end
part()
return deleted
