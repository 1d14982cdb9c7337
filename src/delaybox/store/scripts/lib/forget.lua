-- What is left to do for the record of a task that has ended. Needs record, extension, keys, ended.

-- Ends the lock of a record whose idempotency key is one: the record names the key no more. when: 'p' where the task begins to
-- run, nil where it ends. Returns the record and its flags.
local function unlock(id, rec, flags, at, when)
  local lock = ext_get(rec, at, flags, EXT_LOCK)
  if not lock or when and lock ~= when or not is_keyed(flags) then return rec, flags end
  local entry = k_idem(rec_key(rec, at))
  if names(entry, id) then redis.call('UNLINK', entry) end
  return without_key(rec, at, flags)
end

local function part()
  local left = ending.groups
  for from = 1, #left, 1000 do redis.call('ZREM', K_GROUPS, unpack(left, from, math.min(from + 999, #left))) end
  for key, members in pairs(labels.left) do
    for from = 1, #members, 1000 do redis.call('SREM', key, unpack(members, from, math.min(from + 999, #members))) end
  end
end


-- Removes what belongs to a record that is deleted for good. Its group is left in part(), which each script that includes this file calls
-- at its end. entries: of the index of labels, where the caller has them.
local function forget(id, rec, flags, at, idem_ttl, entries)
  local extended = byte(rec, 1) >= FRESH_EXT
  ending.clear(id, rec, flags, at, idem_ttl, extended and (ext_get(rec, at, flags, EXT_LOCK)))
  if extended then
    ending.groups[#ending.groups + 1] = grouped(id, rec, at, flags)
    labels.forget(entries or labels.of(id, rec, at, flags))
  end
end
