-- The stored record. Python's side is store/record.py; change both or neither.
--   fresh  0x10 flags                                                       laneLen lane [keyLen key] body
--   full   0x11 flags attempt:u16 losses:u8 deliveries:u32 due:u48           laneLen lane [keyLen key] body
--   0x20, 0x21: the same two with an extension, extLen:u16 and that many bytes, before the body (lib/extension.lua)
-- losses: of WORKER tasks in two parts (lib/loss.lua).
-- fresh is a record that was never delivered, failed or moved: its due time is the one in its id, its counters are 0.
-- flags: bits 0-1 priority (0 critical .. 3 low), bit 2 stub (body lies apart), bit 3 keyed (keyLen:u16 key follow the lane),
--   bit 4 look (the body, which Lua cannot read, decides whether it is still delivered, so it is never fired in place).
-- High nibble of the first byte = format version (1, or 2 with an extension). A higher one was written by a newer DelayBox and is
-- left alone; so does a version that knows format 1 alone with records that have an extension.
local FRESH, FULL = 0x10, 0x11
local FRESH_EXT, FULL_EXT = 0x20, 0x21
-- Lua finds locals faster than fields of `string`, and scripts that handle many tasks call these often.
local byte, sub = string.byte, string.sub

-- The last due time there is (core/ids.py). 48 bits hold it; a larger sum would wrap and fire at once.
local MAX_DUE = 1e14

-- Due time of an id (Unix ms).
local function id_due(id)
  local hi, lo = struct.unpack('>I2I4', id)
  return hi * 4294967296 + lo
end

-- kind, flags, due, lane_at: kind 'ok', 'newer' or 'bad'; lane_at is the place of laneLen.
local function rec_head(id, rec)
  local b, flags = byte(rec, 1, 2)
  local at, due
  if b == FRESH or b == FRESH_EXT then
    at, due = 3, id_due(id)
  elseif b == FULL or b == FULL_EXT then
    if #rec < 16 then return 'bad' end
    local hi, lo = struct.unpack('>I2I4', rec, 10)
    at, due = 16, hi * 4294967296 + lo
  elseif b and b >= 0x30 then
    return 'newer'
  else
    return 'bad'
  end
  local n = byte(rec, at)
  if not n or n < 1 or #rec < at + n then return 'bad' end
  local from = at + n + 1
  if flags % 16 >= 8 then
    if #rec < from + 1 or #rec < from + 1 + struct.unpack('>I2', rec, from) then return 'bad' end
    from = from + 2 + struct.unpack('>I2', rec, from)
  end
  if b >= FRESH_EXT and (#rec < from + 1 or #rec < from + 1 + struct.unpack('>I2', rec, from)) then return 'bad' end
  return 'ok', flags, due, at
end

local function rec_lane(rec, at)
  return sub(rec, at + 1, at + byte(rec, at))
end

-- attempt, losses, deliveries
local function rec_counters(rec)
  if byte(rec, 1) % 16 == 0 then return 0, 0, 0 end
  return struct.unpack('>I2BI4', rec, 3)
end

-- The same record with other counters and due time; everything from laneLen on is kept byte for byte.
local function rec_build(rec, at, flags, attempt, losses, deliveries, due)
  local hi = math.floor(due / 4294967296)
  local kind = byte(rec, 1) >= FRESH_EXT and FULL_EXT or FULL
  return struct.pack('>BBI2BI4I2I4', kind, flags, attempt, losses, deliveries, hi, due - hi * 4294967296)
    .. sub(rec, at)
end

local function is_stub(flags) return flags % 8 >= 4 end
local function is_keyed(flags) return flags % 16 >= 8 end
-- Bits that this version does not know count as "look".
local function may_fire_in_place(flags) return flags < 16 and flags % 8 < 4 end

-- The idempotency key inside a keyed record.
local function rec_key(rec, at)
  local from = at + 1 + byte(rec, at)
  local n = struct.unpack('>I2', rec, from)
  return sub(rec, from + 2, from + 1 + n)
end

-- What stands behind lane and key: the length of the extension where there is one, else the body.
local function behind_key(rec, at, flags)
  local from = at + 1 + byte(rec, at)
  if is_keyed(flags) then from = from + 2 + struct.unpack('>I2', rec, from) end
  return from
end

-- First byte of the body (the protobuf Task without what the id says).
local function body_at(rec, at, flags)
  local from = behind_key(rec, at, flags)
  if byte(rec, 1) >= FRESH_EXT then from = from + 2 + struct.unpack('>I2', rec, from) end
  return from
end
