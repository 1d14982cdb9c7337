-- New tasks. They are collected first, so that a script can look at every key before its first write (rule 2), and then written.
-- Needs time, record, extension, keys, gather, place.
-- W: bucket width in ms. Of the fields: keys is what write_new will touch, for guard.
local function newborn(now, W)
  local c = clock(now)
  return {
    now = now, W = W, clock = c, limit = c.horizon, fields = gather(), near = gather(), listed = {}, numbers = {}, bodies = {},
    keys = { K_CLOCK, K_BUCKETS, unpack(K_NEAR, 0, 11) },
  }
end

-- New tasks go only into the store that the caller works for: a server that lost its data must not be filled again unnoticed.
-- Returns nil, or the error reply to return.
local function stranger(b, store)
  if b.clock.store == store then return nil end
  return redis.error_reply('STORELOST nothing was written: here lies store ' .. (b.clock.store == '' and 'none' or b.clock.store))
end

-- The id with that due time (ms).
local function id_with(id, due)
  local hi = math.floor(due / 4294967296)
  return struct.pack('>I2I4', hi, due - hi * 4294967296) .. sub(id, 7)
end

-- The id and the due time (ms) of a template, as add_new describes them.
local function born(template, now)
  local hi, lo = struct.unpack('>I2I4', template)
  local due = hi * 4294967296 + lo
  if hi >= 32768 then due = due - 140737488355328 + now end
  due = math.max(due, now)
  return id_with(template, due), due
end

-- Adds one task and returns its id. A template's 48 bits are a due time, or, with the top bit set, a delay to which this
-- server's clock is added; effective due = max(due, now), which the id then carries.
local function add_new(b, id, rec)
  local now = b.now
  local hi, lo = struct.unpack('>I2I4', id)
  local due = hi * 4294967296 + lo
  if hi >= 32768 then due = due - 140737488355328 + now end
  if due < now then due = now end
  if hi >= 32768 or due == now then
    hi = math.floor(due / 4294967296)
    id = struct.pack('>I2I4', hi, due - hi * 4294967296) .. sub(id, 7)
    b.renamed = true
  end
  local number = math.floor(due / b.W)
  local key = b.numbers[number]
  if not key then
    key = k_bucket(number)
    b.numbers[number] = key
    b.keys[#b.keys + 1] = key
  end
  add2(b.fields, key, id, rec)
  if due < b.limit then
    local first, flags, len, letter = byte(rec, 1, 4)
    if first >= FRESH_EXT then fair.note(rec, flags, sub(rec, 4, 3 + len), due) end
    local base, earliest = near_base(letter), b.clock.earliest
    add2(b.near, K_NEAR[base + flags % 4], due, id .. sub(rec, 4, 3 + len))
    if due < earliest[base] then earliest[base] = due end
  end
  return id
end

-- The body of a task that was added, to lie apart.
local function add_body(b, id, body)
  local key = k_body(id)
  b.keys[#b.keys + 1] = key
  b.bodies[#b.bodies + 1] = { key, body }
end

-- The index of labels. ARGV from `from` on: (number of the set, its entries in one string, each id template and mark, at most 1,000) ...; ids:
-- those of the tasks, by their place among the n; fewer: some of these are not stored; before: index in ARGV of the template before the
-- first. The caller makes the entries, so that none is taken from its record here, which costs several calls of functions for each; in one
-- string, because an argument of a script costs the server as much as half an SADD of it. Only where ids are others than their templates,
-- or fewer, they are made anew.
local function add_labels(b, from, ids, n, fewer, before)
  if not ARGV[from] then return end
  local known
  if b.renamed or fewer then
    known = {}
    for i = 1, n do known[ARGV[before + 2 * i]] = ids[i] end
  end
  for at = from, #ARGV, 2 do
    local key, sent, members, count = labels.key(ARGV[at]), ARGV[at + 1], nil, 0
    b.keys[#b.keys + 1] = key
    if known then
      members = {}
      for i = 1, #sent, 20 do
        local id = known[sub(sent, i, i + 15)]
        if id then
          count = count + 1
          members[count] = id .. sub(sent, i + 16, i + 19)
        end
      end
    else
      count = #sent / 20
      members = { struct.unpack(string.rep('c20', count), sent) }
    end
    if count > 0 then b.listed[#b.listed + 1] = { key, members, count } end
  end
end

-- Writes what was added: bodies, records, the list of buckets, hints last (rule 1). Then wakes those who claim, if needed.
local function write_new(b, channel)
  for _, pair in ipairs(b.bodies) do redis.call('SET', pair[1], pair[2]) end
  for _, set in ipairs(b.listed) do redis.call('SADD', set[1], unpack(set[2], 1, set[3])) end
  flush(b.fields, 'HSET')
  local index = {}
  for number in pairs(b.numbers) do
    index[#index + 1] = number
    index[#index + 1] = number
  end
  for from = 1, #index, 1000 do
    redis.call('ZADD', K_BUCKETS, unpack(index, from, math.min(from + 999, #index)))
  end
  flush(b.near, 'ZADD')
  wake(b.clock, channel)
end
