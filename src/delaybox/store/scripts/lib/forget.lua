-- What is left to do for the record of a task that has ended. Needs record, extension, keys.

-- Whether the entry of an idempotency key names this task. One that was freed may name another by now.
local function names(entry, id)
  return redis.call('GETRANGE', entry, 0, 15) == id
end

-- Ends the lock of a record whose idempotency key is one: the record names the key no more. when: 'p' where the task begins to
-- run, nil where it ends. Returns the record and its flags.
local function unlock(id, rec, flags, at, when)
  local lock = ext_get(rec, at, flags, EXT_LOCK)
  if not lock or when and lock ~= when or not is_keyed(flags) then return rec, flags end
  local entry = k_idem(rec_key(rec, at))
  if names(entry, id) then redis.call('UNLINK', entry) end
  return without_key(rec, at, flags)
end

-- What is left to do for tasks that have ended (one local, for a script may have 200).
--   groups: entries of groups whose records the script deletes. part() removes them, and those of labels, as the last step: a task leaves its group when
--   it is gone.
--   calls: tasks that call back, {id, record, flags, lane_at, template, reason or nil}; call_back() of callback.lua stores these.
local ending = { groups = {}, calls = {}, keeps = {} }
-- How long (ms) the idempotency key of this record outlives its task: a rule of its queue, or what holds for the store.
function ending.keep(rec, at, idem_ttl)
  if ending.steered == nil then ending.steered = redis.call('HEXISTS', K_CLOCK, 'steered') == 1 end
  if not ending.steered then return idem_ttl end
  local queue = string.match(rec_lane(rec, at), '^.([^:]*)')
  local known = ending.keeps[queue]
  if known == nil then
    local _, text = steered_rules(queue)
    known = string.match(' ' .. (text or ''), ' key_keep=(%d+)') or false
    ending.keeps[queue] = known
  end
  return known or idem_ttl
end
local function part()
  local left = ending.groups
  for from = 1, #left, 1000 do redis.call('ZREM', K_GROUPS, unpack(left, from, math.min(from + 999, #left))) end
  for key, members in pairs(labels.left) do
    for from = 1, #members, 1000 do redis.call('SREM', key, unpack(members, from, math.min(from + 999, #members))) end
  end
end

-- Removes what belongs to a record that is deleted for good: a body that lies apart. Its idempotency key gets an expiry; one
-- that is a lock is free at once. Its group is left in part(), which each script that includes this file calls at its end.
-- entries: of the index of labels, where the caller has them.
local function forget(id, rec, flags, at, idem_ttl, entries)
  if is_keyed(flags) then
    local entry = k_idem(rec_key(rec, at))
    if names(entry, id) then
      if ext_get(rec, at, flags, EXT_LOCK) then redis.call('UNLINK', entry) else redis.call('PEXPIRE', entry, ending.keep(rec, at, idem_ttl)) end
    end
  end
  if is_stub(flags) then redis.call('UNLINK', k_body(id)) end
  if byte(rec, 1) >= FRESH_EXT then
    ending.groups[#ending.groups + 1] = grouped(id, rec, at, flags)
    labels.forget(entries or labels.of(id, rec, at, flags))
  end
end
