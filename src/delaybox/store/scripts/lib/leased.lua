-- Which lease a task lies in. Needs keys. The index says so for what scripts of this version leased; a lease that a node of an
-- earlier version made is not in it, until the scrubber has put it there. Its id then has not the 20 bytes of lib/lease.lua.
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

-- The same by looking: through at most so many leases, and so many times in one script.
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
