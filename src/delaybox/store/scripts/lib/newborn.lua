-- New tasks. They are collected first, so that a script can look before its first write (rule 2), and then written.
-- Needs time, record, keys, gather, hint.
local floor, read = math.floor, struct.unpack

-- W: bucket width in ms. Of the fields: numbers are those of the buckets, in the order in which they were met; homes has for each what its
-- HSET will be sent; extended, what extend_new looks at.
local function newborn(now, W)
  local c = clock(now)
  return {
    now = now, W = W, clock = c, limit = c.horizon, numbers = {}, homes = {}, near = gather(), listed = {}, bodies = {}, extended = {},
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
-- server's clock is added; effective due = max(due, now), which the id then carries. At most 500 tasks: so a bucket's values fit one HSET.
local function add_new(b, id, rec)
  local now, homes = b.now, b.homes
  local hi, lo = read('>I2I4', id)
  local due = hi * 4294967296 + lo
  if hi >= 32768 then due = due - 140737488355328 + now end
  if due < now then due = now end
  if hi >= 32768 or due == now then
    hi = floor(due / 4294967296)
    id = struct.pack('>I2I4', hi, due - hi * 4294967296) .. sub(id, 7)
  end
  local number = floor(due / b.W)
  local home = homes[number]
  if home then
    local n = #home
    home[n + 1] = id
    home[n + 2] = rec
  else
    -- Made with both values in it, because a table that grows costs the server as much as the rest of this function.
    homes[number] = { id, rec }
    local numbers = b.numbers
    numbers[#numbers + 1] = number
  end
  if due < b.limit then
    local first, flags, len, letter = byte(rec, 1, 4)
    local base, earliest, lane = near_base(letter), b.clock.earliest, sub(rec, 4, 3 + len)
    if first >= FRESH_EXT then
      -- Behind the lane of a task without a key. One entry that is as long as the whole, and no fairness key (9), is not looked at further.
      local high, low, tag, entry_high, entry_low = byte(rec, 4 + len, 8 + len)
      if flags >= 8 or tag == 9 or not entry_low or 256 * high + low ~= 256 * entry_high + entry_low + 3 then
        b.extended[#b.extended + 1] = { rec, flags, lane, due }
      end
    end
    add2(b.near, K_NEAR[base + flags % 4], due, id .. lane)
    if due < earliest[base] then earliest[base] = due end
  end
  return id
end

-- Adds the body of a task that was added, to lie apart.
local function add_body(b, id, body) b.bodies[#b.bodies + 1] = { k_body(id), body } end

-- Writes what was added: bodies, records, the list of buckets, hints last (rule 1). Then wakes those who claim, if needed.
local function write_new(b, channel)
  for _, pair in ipairs(b.bodies) do redis.call('SET', pair[1], pair[2]) end
  if b.listed[1] then redis.call('RPUSH', T .. ':listing', unpack(b.listed)) end
  local numbers, homes, index = b.numbers, b.homes, {}
  for i = 1, #numbers do
    local number = numbers[i]
    redis.call('HSET', k_bucket(number), unpack(homes[number]))
    index[2 * i - 1] = number
    index[2 * i] = number
  end
  if numbers[1] then redis.call('ZADD', K_BUCKETS, unpack(index)) end
  flush(b.near, 'ZADD')
  wake(b.clock, channel)
end
