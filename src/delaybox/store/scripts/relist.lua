#!lua flags=allow-oom
-- Takes elements from the front of one list of the index of labels, and puts what is left of them behind the others, in one step: so an
-- entry is in one place at each moment, whichever process dies, and when.
-- KEYS  1 hash tag of the partition
-- ARGV  1 the server's run id, 2 how often elements were taken, both from before the caller read these; 3 'listing' or 'listed:' .. number,
--       4 how many to take, 5 how many of their entries are new in `listed`, then (number of a list `listed`, element) ...
-- REPLY 1, or 0 where somebody took elements meanwhile, or the server is another one, which may have lost what the caller read: nothing was
--       done
-- ERRORS TRYAGAIN (nothing written)
-- BOUND 256 elements of 10,000 entries together
--@include lib/keys.lua
--@include lib/guard.lua
--@include lib/run.lua
local list = T .. ':' .. ARGV[3]
local err = guard({ T })
if err then return err end
if (redis.call('HGET', K_CLOCK, 'relists') or '0') ~= ARGV[2] or run_id() ~= ARGV[1] then return 0 end
redis.call('HINCRBY', K_CLOCK, 'relists', 1)
redis.call('HINCRBY', K_CLOCK, 'relisted', ARGV[5])
for i = 6, #ARGV, 2 do redis.call('RPUSH', T .. ':listed:' .. ARGV[i], ARGV[i + 1]) end
redis.call('LTRIM', list, ARGV[4], -1)
return 1
