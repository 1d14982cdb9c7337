#!lua flags=allow-oom
-- Drops entries of the index of labels that name a task which is gone, or which has another label now.
-- KEYS  1 hash tag of the partition
-- ARGV  1 bucket width ms, 2 number of the set, 3 cursor as last replied ('0' first), 4 count, 5 '1' = drop them, else only count
-- REPLY {cursor ('0' at the end), entries seen, wrong ones}
-- ERRORS TRYAGAIN (nothing written)
-- BOUND one SSCAN reply (about count entries; a small set comes whole); all together look 1,000 times into leases that an earlier
--       version made, then it drops nothing more
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/extension.lua
--@include lib/guard.lua
--@include lib/leased.lua
--@include lib/find.lua
local W, key = tonumber(ARGV[1]), T .. ':label:' .. ARGV[2]
local err = guard({ key })
if err then return err end
local scan = redis.call('SSCAN', key, ARGV[3], 'COUNT', ARGV[4])
local flat, wrong = scan[2], {}
for i = 1, #flat do
  local field = flat[i]
  local id = sub(field, 1, 16)
  local where, rec = find(id, W)
  if where == 'dead' then rec = sub(rec, 11 + struct.unpack('>I2', rec, 9)) end
  if not where then
    if looks < UNINDEXED_LOOKS then wrong[#wrong + 1] = field end
  elseif where ~= 'quarantine' then
    local kind, flags, _, at = rec_head(id, rec)
    if kind == 'ok' then
      local mine = false
      local entries = labels.of(id, rec, at, flags)
      for n = 1, #entries, 2 do mine = mine or entries[n] == key and entries[n + 1] == field end
      if not mine then wrong[#wrong + 1] = field end
    end
  end
end
if ARGV[5] == '1' then
  for from = 1, #wrong, 1000 do redis.call('SREM', key, unpack(wrong, from, math.min(from + 999, #wrong))) end
end
return { scan[1], #flat, #wrong }
