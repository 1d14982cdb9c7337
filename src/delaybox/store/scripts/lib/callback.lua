-- Calls that webhooks make when they end: each is an http task, stored by the script that ends the first. Needs time, record,
-- extension, keys, gather, turns, place, finish.

-- A task with a body over this many bytes has it in a key of its own (store/record.py).
local APART = 1024

local function uuid(id)
  local a, b, c, d = struct.unpack('>I4I4I4I4', id)
  b, c = bit.tohex(b), bit.tohex(c)
  return bit.tohex(a) .. '-' .. sub(b, 1, 4) .. '-' .. sub(b, 5) .. '-' .. sub(c, 1, 4) .. '-' .. sub(c, 5) .. bit.tohex(d)
end

-- A number as protobuf writes it.
local function varint(n)
  local out = ''
  while n > 127 do
    out = out .. string.char(n % 128 + 128)
    n = math.floor(n / 128)
  end
  return out .. string.char(n)
end

-- What call_back will touch, for guard.
local function callback_keys(now, W) return K_BUCKETS, K_CLOCK, k_bucket(math.floor(now / W)), unpack(K_NEAR, 0, 11) end

-- Notes the call of a task that has ended well. Those of dead letters are noted by bury.
local function succeeded(id, rec, flags, at)
  local template = byte(rec, 1) >= FRESH_EXT and ext_get(rec, at, flags, EXT.ON_SUCCESS)
  if template then ending.calls[#ending.calls + 1] = { id, rec, flags, at, template } end
end

-- Stores the calls: due now, in the lane and with the priority of the task that ended. Their ids are made from its id, so that the
-- script needs no randomness.
local function call_back(now, W, channel)
  if #ending.calls == 0 then return end
  local c = clock(now)
  local hi = math.floor(now / 4294967296)
  local due = struct.pack('>I2I4', hi, now - hi * 4294967296)
  for _, call in ipairs(ending.calls) do
    local id, rec, flags, at, template, reason = unpack(call, 1, 6)
    local attempt = rec_counters(rec)
    local state = reason and 'failed' or 'succeeded'
    local payload = '{"type":"webhook.' .. state .. '","task_id":"' .. uuid(id) .. '","state":"' .. state .. '","attempts":'
      .. (reason and attempt or attempt + 1) .. ',"reason":' .. cjson.encode(reason and string.match(reason, '^[^%z]*') or '') .. '}'
    local body = template .. '\26' .. varint(#payload) .. payload
    local mine = due .. sub(id, 7, 15) .. string.char(bit.bxor(byte(id, 16), 90))
    local mine_flags, lane = flags % 4, rec_lane(rec, at)
    if #body > APART then
      mine_flags = mine_flags + 4
      redis.call('SET', k_body(mine), body)
      body = ''
    end
    place(mine, string.char(FRESH, mine_flags, #lane) .. lane .. body, mine_flags, lane, now, W, c)
  end
  wake(c, channel)
end
