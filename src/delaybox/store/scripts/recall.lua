#!lua flags=no-writes,allow-oom
-- Finds how tasks ended.
-- KEYS  1 hash tag of the partition
-- ARGV  1 bucket width ms, then ids
-- REPLY for each id its entry, that of the later end where there are two, or ''
-- BOUND 20 ids, each looked for in 100 hashes at most
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/history.lua
local W, reply = tonumber(ARGV[1]), {}
for i = 2, #ARGV do
  local id, found = ARGV[i], ''
  for _, family in ipairs({ 's', 'f' }) do
    local bucket = family .. int(math.floor(id_due(id) / W))
    -- Hashes before the one that is filled may be there although that one is gone.
    local number = tonumber(redis.call('HGET', K_HISTORY, bucket) or '0')
    for n = number, 0, -1 do
      local entry = redis.call('HGET', k_history(bucket .. ':' .. n), id)
      if entry then
        -- The ended moment stands behind version, state, flags, attempt, deliveries, due and fired.
        if found == '' or string.sub(entry, 22, 27) > string.sub(found, 22, 27) then found = entry end
        break
      end
    end
  end
  reply[i - 1] = found
end
return reply
