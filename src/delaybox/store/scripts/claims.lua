#!lua flags=allow-oom
-- Takes what is due in one partition or several, where each has nothing or a few plain tasks: as `claim` for each of them, of which most is made
-- once for all. Of servers whose slots do not move; of several, without a stream.
-- KEYS  1.. hash tags of partitions
-- ARGV  1 their lease ids (20 bytes each), one behind the other, 2.. as of `claim`
-- REPLY by partition the reply of `claim`, the error that came after something was written there, or WHOLE: nothing was, and `claim` answers
-- ERRORS TRYAGAIN (nothing written)
-- BOUND 16 partitions, 8 tasks in each
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/guard.lua
--@include lib/served.lua
--@include lib/claiming.lua
--@include lib/few.lua
local function one()
  ends.read = clock_fields()
  return ends.few()
end
ends.some = not guest
local replies, rest = {}, #T + 1
for i, tag in ipairs(KEYS) do
  K_BUCKETS, K_CLOCK, K_LEASES, K_LEASED = tag .. sub(K_BUCKETS, rest), tag .. sub(K_CLOCK, rest), tag .. sub(K_LEASES, rest), tag .. sub(K_LEASED, rest)
  for _, n in ipairs(own) do K_NEAR[n] = tag .. sub(K_NEAR[n], rest) end
  T, rest, lid = tag, #tag + 1, sub(ARGV[1], 20 * i - 19, 20 * i)
  lease, whose.read, ends.begun = k_lease(lid), {}, nil
  replies[i] = 'WHOLE'
  if redis.call('EXISTS', lease) == 0 then
    -- Where one fails, the others have what is theirs. `claim` comes to the same error, but not where something was written already: it would
    -- find nothing more there, or answer with what was leased, as if nothing had failed.
    local ok, reply = pcall(one)
    if ok and reply then
      replies[i] = reply
    elseif ends.begun then
      replies[i] = type(reply) == 'table' and reply or redis.error_reply('ERR ' .. reply)
    end
  end
end
return replies
