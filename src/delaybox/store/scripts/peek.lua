#!lua flags=no-writes,allow-oom
-- Reads many pending tasks without a result at once: the common case, without the search that `get` makes.
-- KEYS  1 hash tag of the partition
-- ARGV  1 bucket width ms, then ids
-- REPLY now ms, then for each id its record, or '' where `get` has to look; a record whose body lies apart comes without it
-- BOUND two reads for each of at most 128 ids, records of at most 1 KiB
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/record.lua
local W = tonumber(ARGV[1])
local out = { now_ms() }
for i = 2, #ARGV do
  local id = ARGV[i]
  local rec = redis.call('HGET', k_bucket(math.floor(id_due(id) / W)), id)
  if rec and not redis.call('HGET', K_RESULTS, id) then
    out[i] = rec
  else
    out[i] = ''
  end
end
return out
