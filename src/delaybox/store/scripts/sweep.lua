#!lua flags=allow-oom
-- Deletes heartbeats of dead members. One that changed since the caller read it stays: its member is alive.
-- KEYS  1 nodes hash
-- ARGV  (member id, its heartbeat as read) ...
-- REPLY how many were deleted
-- BOUND what the caller names, at most 500
local gone = 0
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then gone = gone + redis.call('HDEL', KEYS[1], ARGV[i]) end
end
return gone
