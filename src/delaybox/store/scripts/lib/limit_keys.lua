-- Which limit keys a task has (core/limit_keys.py). Needs record, extension, keys. It stands in the table of labels, for a script may have 200 locals.

-- The labels of a task, read from its body (protobuf: field 9, a map). Of one whose body lies apart only what is needed is fetched.
function labels.of_body(id, rec, at, flags)
  local text, off, pos, key = rec, 0, body_at(rec, at, flags), nil
  if is_stub(flags) then text, off, pos, key = '', 0, 1, k_body(id) end
  local function need(n)
    if pos + n - 1 <= off + #text then return true end
    if not key then return false end
    off = pos - 1
    text = redis.call('GETRANGE', key, off, off + math.max(n, 1024) - 1)
    return #text >= n
  end
  local function varint()
    local value, factor = 0, 1
    while factor < 1e19 and need(1) do
      local b = byte(text, pos - off)
      pos, value, factor = pos + 1, value + b % 128 * factor, factor * 128
      if b < 128 then return value end
    end
  end
  local found = {}
  while true do
    local tag = varint()
    local wire = tag and tag % 8
    if wire == 0 then
      varint()
    elseif wire == 1 or wire == 5 then
      pos = pos + (wire == 1 and 8 or 4)
    elseif wire == 2 then
      local size = varint()
      if not size or tag == 74 and not need(size) then return found end
      local stop, name, value = pos + size, '', ''
      while tag == 74 and pos < stop do
        local part, length = varint(), varint()
        if not part or not length or pos + length > stop then return found end
        local content = sub(text, pos - off, pos - off + length - 1)
        if part == 10 then name = content elseif part == 18 then value = content end
        pos = pos + length
      end
      if tag == 74 then found[name] = value end
      pos = stop
    else
      return found
    end
  end
end

-- The limit keys of a task of a queue with these limits, in the order of the rules.
function labels.limit_keys(limits, id, rec, at, flags)
  local names, of_body = {}, nil
  for _, by in ipairs(limits.keyed) do
    local value
    if by == 'fairness_key' then
      value = ext_get(rec, at, flags, EXT_FAIR_KEY)
    elseif by == 'group' then
      value = ext_get(rec, at, flags, EXT.GROUP)
    else
      of_body = of_body or labels.of_body(id, rec, at, flags)
      value = of_body[sub(by, 7)]
    end
    if value then
      if #value > 64 or string.find(value, '[%z\1-\31]') then
        value = string.gsub(sub(value, 1, 24), '[%z\1-\31]', '') .. '~' .. redis.sha1hex(value)
      end
      names[#names + 1] = limits.queue .. '\1' .. by .. '\1' .. value
    end
  end
  return names
end
