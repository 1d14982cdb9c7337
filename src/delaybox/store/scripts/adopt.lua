#!lua flags=allow-oom
-- Moves tasks of one lease to another: whoever runs them goes on, and another node answers for them. What the old holder sends of
-- them is stale from then on (rule 8). The delivery counter stays, because it is the same delivery; nothing is charged.
-- KEYS  1 hash tag of the partition
-- ARGV  1 old lease id, 2 new lease id, 3 lease ms, for lease ids that do not carry their length, 4 bucket width ms, then ids
-- REPLY {what lies in the new lease now {id, record, ...}, ids of tasks that have ended}
--       Ids in neither were lost: they lie at home or in another lease, so others run them or have run them.
-- ERRORS TRYAGAIN (nothing written)
-- BOUND 500 ids
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/guard.lua
--@include lib/lease.lua
--@include lib/leased.lua
--@include lib/find.lua
local now, lease_ms, W = now_ms(), tonumber(ARGV[3]), tonumber(ARGV[4])
local old_lid, new_lid = ARGV[1], ARGV[2]
local old, new = k_lease(old_lid), k_lease(new_lid)
local ids = { unpack(ARGV, 5) }
local keys = { old, new, K_LEASES, K_LEASED, K_DEAD, K_QUAR }
for _, id in ipairs(ids) do keys[#keys + 1] = k_bucket(math.floor(id_due(id) / W)) end
local err = guard(keys)
if err then return err end
local held, moved = redis.call('HMGET', old, unpack(ids)), redis.call('HMGET', new, unpack(ids))
local there, ended, fields, leaving, index = {}, {}, {}, {}, {}
for i, id in ipairs(ids) do
  local rec = moved[i]
  -- A record of a newer DelayBox stays where it is: a node of that version can adopt it.
  if not rec and held[i] and rec_head(id, held[i]) == 'ok' then
    rec = held[i]
    leaving[#leaving + 1] = id
    fields[2 * #leaving - 1], fields[2 * #leaving] = id, rec
    index[2 * #leaving - 1], index[2 * #leaving] = id, new_lid
  end
  if rec then
    there[#there + 1] = id
    there[#there + 1] = rec
  elseif not held[i] then
    local place = find(id, W)
    if not place or place == 'dead' then ended[#ended + 1] = id end
  end
end
if #fields > 0 then
  redis.call('HSET', new, unpack(fields))
  redis.call('ZADD', K_LEASES, now + lease_length(new_lid, lease_ms), new_lid)
  redis.call('HDEL', old, unpack(leaving))
  if redis.call('EXISTS', old) == 0 then redis.call('ZREM', K_LEASES, old_lid) end
  redis.call('HSET', K_LEASED, unpack(index))
end
return { there, ended }
