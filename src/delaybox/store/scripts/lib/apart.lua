-- Tasks that stand apart because a limit key of theirs has no room, and go without a claim: cancelled, moved or replaced. An entry that
-- was left would count among what waits, and draw permits that it does not use, until its key has room. Needs record, extension, keys,
-- pauses, turns, limit_keys, permits.
local apart = {}
do
local any
-- Where a task may stand apart by the rules that hold now: a list of {set, member of `apart`, limit key}, nil for nowhere; the keys are
-- added to those that a guard asks for. Ask before its record or its body changes. By rules of before, the claim that looks at its key
-- drops it.
function apart.of(id, rec, at, flags, keys)
  if any == nil then any = is_steered() and redis.call('EXISTS', T .. ':apart') == 1 end
  if not any then return nil end
  local lane = rec_lane(rec, at)
  local limits, sets = permits().of(lane), {}
  if not limits or not limits.keyed then return nil end
  for _, name in ipairs(labels.limit_keys(limits, id, rec, at, flags)) do
    local member = name .. '\0' .. (flags % 4 == 0 and '!' or '-') .. lane
    sets[#sets + 1] = { permits().k_waits(member), member, name }
    keys[#keys + 1] = permits().k_waits(member)
  end
  keys[#keys + 1], keys[#keys + 2] = permits().APART, permits().HELD_KEYS
  return sets
end

-- It stands apart no more. sets: as of() found them.
function apart.leave(id, sets)
  for _, set in ipairs(sets or {}) do
    if redis.call('ZREM', set[1], id) == 1 and redis.call('EXISTS', set[1]) == 0 then
      redis.call('ZREM', permits().APART, set[2])
      local others = redis.call('ZRANGE', permits().APART, '[' .. set[3] .. '\0', '(' .. set[3] .. '\1', 'BYLEX', 'LIMIT', 0, 1)
      if not others[1] then redis.call('ZREM', permits().HELD_KEYS, set[3]) end
    end
  end
end
end
