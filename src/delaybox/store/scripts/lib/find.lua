-- Where a task is now. Needs keys, record.
-- place, value, lease id: place is 'home', 'lease', 'dead', 'quarantine' or nil.
local function find(id, W)
  local rec = redis.call('HGET', k_bucket(math.floor(id_due(id) / W)), id)
  if rec then return 'home', rec end
  for _, lid in ipairs(redis.call('ZRANGE', K_LEASES, 0, 4999)) do
    rec = redis.call('HGET', k_lease(lid), id)
    if rec then return 'lease', rec, lid end
  end
  rec = redis.call('HGET', K_DEAD, id)
  if rec then return 'dead', rec end
  rec = redis.call('HGET', K_QUAR, id)
  if rec then return 'quarantine', rec end
  return nil
end
