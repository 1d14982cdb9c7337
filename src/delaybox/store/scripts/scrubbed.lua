#!lua flags=allow-oom
-- Which server this is, by its run id, and whether all records of the partition were looked through since it became that.
-- KEYS  1 hash tag of the partition
-- ARGV  1 '' to ask; or the run id under which all records were looked through just now, to note it; or '*', to note that of this server
--       where the partition is new: then there is nothing to look through
-- REPLY {run id of the server ('' where an access list hides it), the run id that was noted last ('' for none)}
-- ERRORS TRYAGAIN (nothing written)
-- BOUND one field
--@include lib/keys.lua
--@include lib/guard.lua
--@include lib/run.lua
local err = guard({ K_CLOCK })
if err then return err end
local run = run_id()
-- A server that lost the store gets no clock from here.
local new = ARGV[1] == '*' and redis.call('HLEN', K_CLOCK) == 1 and redis.call('EXISTS', K_BUCKETS) == 0
if run ~= '' and (ARGV[1] == run or new) and redis.call('HEXISTS', K_CLOCK, 'store') == 1 then
  redis.call('HSET', K_CLOCK, 'scrubbed', run)
end
return { run, redis.call('HGET', K_CLOCK, 'scrubbed') or '' }
