-- A lease id of 20 bytes starts with the lease's length in ms (u32), so that the length belongs to the lease and not to whoever looks
-- at it (store/leases.py makes them). Ids of 16 bytes come from older versions: their length is the caller's guess.
local function lease_length(lid, guess)
  if #lid ~= 20 then return guess end
  return (struct.unpack('>I4', lid))
end

-- Who is lost when the lease expires: a worker that claimed for itself ends its ids so, all others are nodes.
local function lease_doer(lid)
  return #lid == 20 and string.sub(lid, 17) == 'wrkr' and 'worker' or 'node'
end
