#!lua flags=allow-oom
-- Takes, keeps or gives up a role that one node of a store has at a time.
-- KEYS  1 the role's key
-- ARGV  1 node id, 2 for how long ms (0 = give it up)
-- REPLY 1 when the node has the role now, else 0
-- BOUND constant
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
if ARGV[2] ~= '0' then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return 1
end
if holder then redis.call('DEL', KEYS[1]) end
return 0
