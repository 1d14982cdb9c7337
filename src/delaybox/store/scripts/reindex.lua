#!lua flags=allow-oom
-- Mends the index of leased tasks: drops entries whose lease does not hold the task, adds missing entries for the named leases.
-- KEYS  1 hash tag of the partition
-- ARGV  1 cursor as last replied ('0' first; '' to leave the index as it is), 2 count, then lease ids
-- REPLY {cursor ('0' at the end), entries dropped, entries added, leases looked at; go on with those that follow}
--       A cursor carries this server's run id: after a restart the scan starts again at 0 (rule 4).
-- ERRORS TRYAGAIN (nothing written)
-- BOUND one HSCAN reply (about count entries; a small hash comes whole, at most 512 or so); whole leases until 2,000 tasks
--@include lib/keys.lua
--@include lib/guard.lua
--@include lib/run.lua
local keys = { K_LEASED, K_LEASES }
for i = 3, #ARGV do keys[#keys + 1] = k_lease(ARGV[i]) end
local err = guard(keys)
if err then return err end
local next_cursor, dropped = '0', {}
if ARGV[1] ~= '' then
  local run = run_id()
  local cursor, of_run = string.match(ARGV[1], '^(%d+)@?(.*)$')
  if of_run ~= run then cursor = '0' end
  local scan = redis.call('HSCAN', K_LEASED, cursor, 'COUNT', ARGV[2])
  if scan[1] ~= '0' then next_cursor = scan[1] .. '@' .. run end
  for i = 1, #scan[2], 2 do
    local id, lid = scan[2][i], scan[2][i + 1]
    if redis.call('HEXISTS', k_lease(lid), id) == 0 then dropped[#dropped + 1] = id end
  end
  for from = 1, #dropped, 1000 do redis.call('HDEL', K_LEASED, unpack(dropped, from, math.min(from + 999, #dropped))) end
end
local added, looked, tasks = 0, 0, 0
for i = 3, #ARGV do
  local lid = ARGV[i]
  local ids = redis.call('HKEYS', k_lease(lid))
  if looked > 0 and tasks + #ids > 2000 then break end
  tasks, looked = tasks + #ids, looked + 1
  for from = 1, #ids, 1000 do
    local some = { unpack(ids, from, math.min(from + 999, #ids)) }
    local named = redis.call('HMGET', K_LEASED, unpack(some))
    for j, id in ipairs(some) do
      if named[j] ~= lid then
        redis.call('HSET', K_LEASED, id, lid)
        added = added + 1
      end
    end
  end
end
return { next_cursor, #dropped, added, looked }
