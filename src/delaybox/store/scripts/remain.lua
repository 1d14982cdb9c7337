#!lua flags=no-writes,allow-oom
-- Which tasks are there still: of those that were due by their ids all, or of some that the caller names.
-- KEYS  1 hash tag of the partition
-- ARGV  1 bucket width ms, 2 ids in one string; '' = all that were due
-- REPLY {time ms, their ids in one string}; '-' in place of ids where more than 10,000 might be: then ask for those that you mean. Where ids
--       were given, or a lease of an earlier version lies beside, ids may be named that are not there.
-- BOUND ids of 10,000 tasks, 500 buckets; 500 ids, and for them 1,000 looks into leases that an earlier version made
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/gather.lua
--@include lib/leased.lua
local now, W, asked = now_ms(), tonumber(ARGV[1]), ARGV[2]
if asked == '' then
  local hashes = { K_LEASED, K_DEAD, K_QUAR }
  local past = redis.call('ZRANGEBYSCORE', K_BUCKETS, '-inf', math.floor(now / W), 'LIMIT', 0, 500)
  for i = 1, #past do hashes[i + 3] = k_bucket(tonumber(past[i])) end
  for _, lid in ipairs(redis.call('ZRANGE', K_LEASES, 0, UNINDEXED_LEASES - 1)) do
    if #lid ~= 20 then hashes[#hashes + 1] = k_lease(lid) end
  end
  local many, parts = 0, {}
  for _, hash in ipairs(hashes) do
    local size = redis.call('HLEN', hash)
    many = many + size
    if #past == 500 or many > 10000 then return { now, '-' } end
    if size > 0 then parts[#parts + 1] = table.concat(redis.call('HKEYS', hash)) end
  end
  return { now, table.concat(parts) }
end
local homes, there, gone = gather(), {}, {}
for i = 1, #asked, 16 do
  local id = sub(asked, i, i + 15)
  add1(homes, k_bucket(math.floor(id_due(id) / W)), id)
end
for _, home in ipairs(homes.order) do
  local ids = homes.by[home]
  for i, found in ipairs(redis.call('HMGET', home, unpack(ids))) do
    if found then there[#there + 1] = ids[i] else gone[#gone + 1] = ids[i] end
  end
end
for _, hash in ipairs({ K_LEASED, K_DEAD, K_QUAR }) do
  if #gone > 0 and redis.call('EXISTS', hash) == 1 then
    local left = {}
    for i, found in ipairs(redis.call('HMGET', hash, unpack(gone))) do
      if found then there[#there + 1] = gone[i] else left[#left + 1] = gone[i] end
    end
    gone = left
  end
end
for _, id in ipairs(gone) do
  -- What could not be looked for is taken for there.
  if leased_unindexed(id) or looks >= UNINDEXED_LOOKS then there[#there + 1] = id end
end
return { now, table.concat(there) }
