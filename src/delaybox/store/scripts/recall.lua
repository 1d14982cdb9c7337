#!lua flags=no-writes,allow-oom
-- Finds how a task ended.
-- KEYS  1 hash tag of the partition
-- ARGV  1 bucket width ms, 2 id
-- REPLY its entry, that of the last end where there are several, or ''
-- BOUND looks through the ends of one bucket: at most 100 hashes of 1,500 ends
--@include lib/time.lua
--@include lib/tag.lua
--@include lib/record.lua
--@include lib/history_keys.lua
local id, found = ARGV[2], ''
for _, family in ipairs({ 's', 'f' }) do
  local bucket = family .. int(math.floor(id_due(id) / tonumber(ARGV[1])))
  -- Hashes before the one that is filled may be there although that one is gone.
  for n = tonumber(redis.call('HGET', K_HISTORY, bucket) or '0'), 0, -1 do
    local mine = ''
    for _, chunk in ipairs(redis.call('HVALS', k_history(bucket .. ':' .. n))) do
      local at = string.find(chunk, id, 1, true)
      while at do
        local size = struct.unpack('>I2', chunk, at + 16)
        local entry = string.sub(chunk, at + 18, at + 17 + size)
        -- The ended moment stands behind version, state, priority, attempt, deliveries, due and fired.
        if string.sub(entry, 22, 27) >= string.sub(mine, 22, 27) then mine = entry end
        at = string.find(chunk, id, at + 16, true)
      end
    end
    if mine ~= '' then
      if found == '' or string.sub(mine, 22, 27) > string.sub(found, 22, 27) then found = mine end
      break
    end
  end
end
return found
