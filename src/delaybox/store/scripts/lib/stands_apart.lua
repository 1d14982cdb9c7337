-- Whether a task at home stands apart because of a limit key. Needs record, extension, keys, limit_keys, limits.
local stands_apart, left_apart
do
local MOST_LANES = 1000
-- Whether a record that lies at home stands apart because of a limit key.
function stands_apart(id, rec, at, flags, lane)
  local limits = permits().of(lane)
  for _, name in ipairs(limits and limits.keyed and labels.limit_keys(limits, id, rec, at, flags) or {}) do
    local member = name .. '\0' .. (flags % 4 == 0 and '!' or '-') .. lane
    if redis.call('ZSCORE', permits().k_waits(member), id) and redis.call('ZSCORE', permits().APART, member)
      and redis.call('ZSCORE', permits().HELD_KEYS, name) then return true end
  end
  return false
end

-- Whether a record stands apart because of a rule that is no more: a claim that looks at its key brings it back.
function left_apart(id, flags, lane)
  local queue, suffix = string.match(lane, '^.([^:]*)'), '\0' .. (flags % 4 == 0 and '!' or '-') .. lane
  for _, member in ipairs(redis.call('ZRANGE', permits().APART, '[' .. queue .. '\1', '(' .. queue .. '\2', 'BYLEX', 'LIMIT', 0, MOST_LANES)) do
    if string.sub(member, -#suffix) == suffix and redis.call('ZSCORE', permits().k_waits(member), id)
      and redis.call('ZSCORE', permits().HELD_KEYS, string.match(member, '^[^%z]*')) then return true end
  end
  return false
end
end
