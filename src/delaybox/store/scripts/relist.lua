#!lua flags=allow-oom
-- Takes elements from the front of one list of the index of labels. What is to be left of them the caller has put elsewhere.
-- KEYS  1 hash tag of the partition
-- ARGV  1 how often elements were taken when the caller had not yet read these, 2 'listing' or 'listed:' .. number, 3 how many to take,
--       4 how many of their entries are new in `listed`
-- REPLY 1, or 0 where somebody took elements meanwhile: nothing was done
-- ERRORS TRYAGAIN (nothing written)
-- BOUND 256 elements
--@include lib/keys.lua
--@include lib/guard.lua
local list = T .. ':' .. ARGV[2]
local err = guard({ list, K_CLOCK })
if err then return err end
if (redis.call('HGET', K_CLOCK, 'relists') or '0') ~= ARGV[1] then return 0 end
redis.call('HINCRBY', K_CLOCK, 'relists', 1)
redis.call('HINCRBY', K_CLOCK, 'relisted', ARGV[4])
redis.call('LTRIM', list, ARGV[3], -1)
return 1
