#!lua
-- Indexes tasks by labels that were named after they were stored: compare and set, wherever the record lies.
-- KEYS  1 hash tag of the partition
-- ARGV  1 bucket width ms, then (id, the record as it was read, value of the extension's entry) ...
-- REPLY how many were changed; one that is not as it was read is left for the next time
-- ERRORS TRYAGAIN (nothing of this task and those after it was written)
-- BOUND 100 tasks; all together look 1,000 times into leases that an earlier version made
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/extension.lua
--@include lib/guard.lua
--@include lib/leased.lua
--@include lib/find.lua
local W, changed = tonumber(ARGV[1]), 0
for i = 2, #ARGV, 3 do
  local id, old, value = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local where, there, lid = find(id, W)
  local from = where == 'dead' and 11 + struct.unpack('>I2', there, 9) or 1
  local key = where == 'home' and k_bucket(math.floor(id_due(id) / W)) or where == 'lease' and k_lease(lid)
    or where == 'dead' and K_DEAD
  if key and sub(there, from) == old then
    local kind, flags, _, at = rec_head(id, old)
    if kind == 'ok' then
      local new = ext_set(old, at, flags, labels.TAG, value)
      local entries = labels.of(id, new, at, flags)
      local keys = { key }
      labels.touch(entries, keys)
      local err = guard(keys)
      if err then return err end
      labels.enter(entries)
      redis.call('HSET', key, id, sub(there, 1, from - 1) .. new)
      changed = changed + 1
    end
  end
end
return changed
