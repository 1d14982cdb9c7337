-- Rule 2: a script does not roll back, and aborts half-way where its slot is migrating. So every key that will be
-- touched is asked for first; where that fails nothing was written and the caller tries again.
-- T, where it is the tag of a partition, stands for all keys of that partition: it is the name of none, and where a slot is migrating the
-- server refuses what names a key that it does not have. (The tag of the list of members is the name of its hash.)
-- Returns nil, or the error reply to return. Slots move in a cluster alone, where store/loader.py makes MOVES true: elsewhere
-- nothing is asked.
local MOVES = false
local function guard(keys)
  if not MOVES then return nil end
  for from = 1, #keys, 1000 do
    local r = redis.pcall('EXISTS', unpack(keys, from, math.min(from + 999, #keys)))
    if type(r) == 'table' and r.err then
      return redis.error_reply('TRYAGAIN nothing was written: ' .. r.err)
    end
  end
  return nil
end
