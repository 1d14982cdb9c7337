#!lua flags=allow-oom
-- Drops entries of the index of groups that name a task which is gone, or which belongs to another group now.
-- KEYS  1 hash tag of the partition
-- ARGV  1 bucket width ms, 2 the entry after which to go on ('' first), 3 count
-- REPLY {the last entry looked at ('' at the end), entries seen, entries dropped}
-- ERRORS TRYAGAIN (nothing written)
-- BOUND count entries (<= 500); all together look 1,000 times into leases that an earlier version made, then it drops nothing more
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/extension.lua
--@include lib/guard.lua
--@include lib/leased.lua
--@include lib/find.lua
local W, count = tonumber(ARGV[1]), tonumber(ARGV[3])
local err = guard({ K_GROUPS })
if err then return err end
local seen = redis.call('ZRANGE', K_GROUPS, ARGV[2] == '' and '-' or '(' .. ARGV[2], '+', 'BYLEX', 'LIMIT', 0, count)
local wrong = {}
for _, member in ipairs(seen) do
  local id = sub(member, -16)
  local where, rec = find(id, W)
  if where == 'dead' then rec = sub(rec, 11 + struct.unpack('>I2', rec, 9)) end
  if not where then
    -- Not found everywhere: it may lie in a lease of an earlier version.
    if looks < UNINDEXED_LOOKS then wrong[#wrong + 1] = member end
  elseif where ~= 'quarantine' then
    local kind, flags, _, at = rec_head(id, rec)
    if kind == 'ok' and grouped(id, rec, at, flags) ~= member then wrong[#wrong + 1] = member end
  end
end
for from = 1, #wrong, 1000 do redis.call('ZREM', K_GROUPS, unpack(wrong, from, math.min(from + 999, #wrong))) end
return { #seen < count and '' or seen[#seen], #seen, #wrong }
