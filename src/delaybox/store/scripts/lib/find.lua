-- Where a task is now. Needs keys, record, leased.
-- place, value, lease id: place is 'home', 'lease', 'dead', 'quarantine' or nil.
local function find(id, W)
  local rec = redis.call('HGET', k_bucket(math.floor(id_due(id) / W)), id)
  if rec then return 'home', rec end
  local lid
  rec, lid = leased_by_index(id)
  if rec then return 'lease', rec, lid end
  rec = redis.call('HGET', K_DEAD, id)
  if rec then return 'dead', rec end
  rec = redis.call('HGET', K_QUAR, id)
  if rec then return 'quarantine', rec end
  rec, lid = leased_unindexed(id)
  if rec then return 'lease', rec, lid end
  return nil
end
