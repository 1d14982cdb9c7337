#!lua
-- Remembers why attempts failed: best effort. Refused by the server itself when memory is full, so that a full server still drains.
-- KEYS  1 hash tag of the partition
-- ARGV  1 how long they are kept after a task's last failure ms, 2 most bytes of this partition, 3 most failures of a task,
--       4 most bytes of a task, then (id, failure: the delivery that failed (u32) and what Lua does not read) ...
-- REPLY how many tasks' failures the bounds dropped, or kept out
-- ERRORS TRYAGAIN (nothing written)
-- BOUND 100 failures of at most 12 KiB; forgets 300 tasks that are past the bounds and 100 that are old. Where that is not enough, the
--       next failures are not kept: never more than 1 MiB lies beyond the bound
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/guard.lua
--@include lib/failures.lua
local now = now_ms()
local keep, most_bytes, most, most_each = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local err = guard({ failures.KEY, failures.AT, failures.BYTES })
if err then return err end

-- One of the three outlives the others where it was deleted by hand or evicted.
if redis.call('EXISTS', failures.KEY) == 0 then redis.call('DEL', failures.AT, failures.BYTES) end
local bytes = tonumber(redis.call('GET', failures.BYTES) or '0')
local dropped = 0
for i = 5, #ARGV, 2 do
  local id, new = ARGV[i], ARGV[i + 1]
  local value = redis.call('HGET', failures.KEY, id)
  local before = value and #value + failures.OVERHEAD or 0
  value = value or ''
  local starts, at = {}, 1
  while at + 7 <= #value do
    starts[#starts + 1] = at
    at = at + 4 + struct.unpack('>I4', value, at)
  end
  if at ~= #value + 1 then value, starts = '', {} end
  -- The same call sent again adds nothing.
  local fresh = #starts == 0 or struct.unpack('>I4', value, starts[#starts] + 4) < struct.unpack('>I4', new)
  if fresh and bytes + #new + failures.OVERHEAD > most_bytes + 1048576 then
    dropped = dropped + 1
  elseif fresh then
    starts[#starts + 1] = #value + 1
    value = value .. struct.pack('>I4', #new) .. new
    local first = 1
    while first < #starts and (#starts - first + 1 > most or #value - starts[first] + 1 > most_each) do first = first + 1 end
    value = string.sub(value, starts[first])
    redis.call('HSET', failures.KEY, id, value)
    redis.call('ZADD', failures.AT, now, id)
    bytes = redis.call('INCRBY', failures.BYTES, #value + failures.OVERHEAD - before)
  end
end
for _, id in ipairs(redis.call('ZRANGE', failures.AT, '-inf', int(now - keep), 'BYSCORE', 'LIMIT', 0, 100)) do bytes = failures.drop(id) end
for _ = 1, 300 do
  if bytes <= most_bytes then break end
  local oldest = redis.call('ZRANGE', failures.AT, 0, 0)[1]
  if not oldest then break end
  bytes = failures.drop(oldest)
  dropped = dropped + 1
end
-- When nothing fails any more, nobody comes to drop what is old.
for _, key in ipairs({ failures.KEY, failures.AT, failures.BYTES }) do redis.call('PEXPIRE', key, keep + 600000) end
return dropped
