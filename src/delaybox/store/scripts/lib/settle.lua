-- Leaving a lease without completion. Needs keys.
-- Takes one record out of the lease; the last one takes the lease with it.
local function leave(lease, lid, id)
  redis.call('HDEL', lease, id)
  if redis.call('EXISTS', lease) == 0 then redis.call('ZREM', K_LEASES, lid) end
  redis.call('HDEL', K_LEASED, id)
end
