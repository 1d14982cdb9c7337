-- Finds the lease that a task lies in. Needs keys. The index names it for tasks that scripts of this version leased. Leases of nodes
-- of an earlier version are missing there until the scrubber adds them; their ids do not have the 20 bytes of lib/lease.lua.
local UNINDEXED_LEASES, UNINDEXED_LOOKS = 1000, 1000
local unindexed, looks = nil, 0

-- The record and its lease id by the index, or nil.
local function leased_by_index(id)
  local lid = redis.call('HGET', K_LEASED, id)
  if not lid then return nil end
  local rec = redis.call('HGET', k_lease(lid), id)
  if rec then return rec, lid end
  return nil
end

-- The same by searching the leases of earlier versions: at most UNINDEXED_LEASES of them, and UNINDEXED_LOOKS looks in one script.
local function leased_unindexed(id)
  if not unindexed then
    unindexed = {}
    for _, lid in ipairs(redis.call('ZRANGE', K_LEASES, 0, UNINDEXED_LEASES - 1)) do
      if #lid ~= 20 then unindexed[#unindexed + 1] = lid end
    end
  end
  for _, lid in ipairs(unindexed) do
    if looks >= UNINDEXED_LOOKS then return nil end
    looks = looks + 1
    local rec = redis.call('HGET', k_lease(lid), id)
    if rec then return rec, lid end
  end
  return nil
end
