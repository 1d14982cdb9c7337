-- Keys of one partition; store/keys.py spells the same. T is the hash tag, {prefix:p}.
local T = KEYS[1]
local K_BUCKETS, K_CLOCK, K_LEASES = T .. ':buckets', T .. ':clock', T .. ':leases'
local K_DEAD, K_DEAD_AT = T .. ':dead', T .. ':dead:at'
local K_RESULTS, K_RESULTS_AT = T .. ':results', T .. ':results:at'
local K_QUAR, K_QUAR_AT = T .. ':quarantine', T .. ':quarantine:at'
local K_KAFKA = T .. ':kafka'
local K_NEAR = { [0] = T .. ':near:0', T .. ':near:1', T .. ':near:2', T .. ':near:3' }
local function k_bucket(n) return T .. ':b:' .. string.format('%.0f', n) end
local function k_lease(lid) return T .. ':lease:' .. lid end
local function k_body(id) return T .. ':body:' .. id end
local function k_idem(key) return T .. ':idem:' .. key end
local function k_ready(lane, critical)
  if critical then return T .. ':ready:' .. lane .. ':critical' end
  return T .. ':ready:' .. lane
end
-- Lanes with ready work, by task type; critical ones in a set of their own.
local function k_active(letter, critical)
  if critical then return T .. ':active:' .. letter .. ':critical' end
  return T .. ':active:' .. letter
end
