-- Reads the records of `ids`, tasks of `lease` that failed, were put off or are handed back: each goes home or becomes a dead letter. Lines
-- of the script itself, not a function, so they may return. Needs keys, guard, hint; `now`, `W`, `lease`, `ids`. Leaves `read` and `records`.
if MOVES then
  local keys = { lease, K_LEASES, K_LEASED, K_BUCKETS, K_CLOCK, K_DEAD, K_DEAD_AT, K_RESULTS, K_RESULTS_AT, K_GROUPS }
  -- Calls of webhooks are stored as due now.
  for _, key in ipairs({ k_bucket(math.floor(now / W)), unpack(K_NEAR, 0, 11) }) do keys[#keys + 1] = key end
  for _, id in ipairs(ids) do keys[#keys + 1] = k_bucket(math.floor(id_due(id) / W)) end
  local err = guard(keys)
  if err then return err end
end
local read = clock_fields()
local records = redis.call('HMGET', lease, unpack(ids))
