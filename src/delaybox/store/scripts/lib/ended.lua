-- What a task that has ended leaves elsewhere: its idempotency key, and a body that lies apart. Needs record, keys.

-- Whether the entry of an idempotency key names this task. One that was freed may name another by now.
local function names(entry, id)
  return redis.call('GETRANGE', entry, 0, 15) == id
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

-- Gives the idempotency key of a record that is deleted for good an expiry, and removes a body that lies apart. lock: the key is one (an
-- entry of the extension), so it is free at once.
function ending.clear(id, rec, flags, at, idem_ttl, lock)
  if is_keyed(flags) then
    local entry = k_idem(rec_key(rec, at))
    if names(entry, id) then
      if lock then redis.call('UNLINK', entry) else redis.call('PEXPIRE', entry, ending.keep(rec, at, idem_ttl)) end
    end
  end
  if is_stub(flags) then redis.call('UNLINK', k_body(id)) end
end
-- The same for tasks that leave nothing else: those of ids and records whose places are given. touched: gets the keys to be asked for first.
-- Returns what does it.
function ending.of_plain(ids, records, places, touched, idem_ttl)
  local found = {}
  for _, i in ipairs(places) do
    local id, rec = ids[i], records[i]
    local kind, flags, _, at = rec_head(id, rec)
    if kind == 'ok' then
      if is_keyed(flags) then touched[#touched + 1] = k_idem(rec_key(rec, at)) end
      found[#found + 1] = { id, rec, flags, at }
    end
  end
  return function()
    for _, one in ipairs(found) do ending.clear(one[1], one[2], one[3], one[4], idem_ttl) end
  end
end
