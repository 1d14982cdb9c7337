-- The extension of a record: what scripts must know of few tasks. A task that uses none of this has none. Needs record.
-- Entries, each tag:u8 length:u16 value. A tag that this version does not know is kept.
--   1 since when (u48 ms) the task's own code puts it off
--   2 since when (u48 ms) requests with its idempotency key put it off, where they say for how long at most
--   3 the id of the task that took its place while it ran: it is never tried again, and its record names no key any more
--   5 empty: it is handed out at most once, acked before (engine/dispatcher.py); scripts need not know
--   15 the group that the task belongs to (lib/keys.lua, K_GROUPS): entered before its record is written, left after it is gone
--   16, 17 of a webhook: the task that is stored when it has ended well, or is a dead letter: its body without the payload
--   6 empty: it lies in a lease and has a permit of its queue's concurrency (lib/limits.lua)
--   7 the limit keys, with NUL bytes between them, of whose concurrency it has a permit while it lies in a lease
--   4 'p' or 'r': its idempotency key is a lock, which ends when the task is pending, or running, no more
--   9 its fairness key; 10 that key's weight (text), where it is not 1; 11 how many places the task takes (u16), where it is not 1
--   12 of a task that may expire: when (u48 ms) it was due before it was put off without a charge
local EXT_FAIR_KEY, EXT_FAIR_WEIGHT, EXT_COST = 9, 10, 11
--   20 for each of its labels that sets of the index have, its function among them, the number of the set (u16) and the mark (4 bytes) of its entry
--      there (labels)
local EXT_SNOOZED, EXT_WAITING, EXT_SUPERSEDED, EXT_LOCK = 1, 2, 3, 4
-- In one local: a script may have 200.
local EXT = { PERMIT = 6, LIMIT_KEYS = 7, FIRST_DUE = 12, GROUP = 15, ON_SUCCESS = 16, ON_FAILURE = 17 }

-- The record and its flags without the idempotency key that it names.
local function without_key(rec, at, flags)
  if not is_keyed(flags) then return rec, flags end
  local lane_stop = at + byte(rec, at)
  return sub(rec, 1, 1) .. string.char(flags - 8) .. sub(rec, 3, lane_stop) .. sub(rec, behind_key(rec, at, flags)), flags - 8
end

-- Milliseconds as they stand in entries.
local function u48(ms)
  local hi = math.floor(ms / 4294967296)
  return struct.pack('>I2I4', hi, ms - hi * 4294967296)
end
local function of_u48(value)
  local hi, lo = struct.unpack('>I2I4', value)
  return hi * 4294967296 + lo
end

-- The entry's value, or nil; and where the entry stands: first byte, first byte behind it.
local ext_get
do
-- The entries of the record that was asked for last, by tag: scripts ask for several of one record, one after the other.
local of, values, firsts, behinds
function ext_get(rec, at, flags, tag)
  if rec ~= of then
    if byte(rec, 1) < FRESH_EXT then return nil end
    of, values, firsts, behinds = rec, {}, {}, {}
    local from = behind_key(rec, at, flags)
    local stop = from + 2 + struct.unpack('>I2', rec, from)
    from = from + 2
    while from + 2 < stop do
      local behind = from + 3 + struct.unpack('>I2', rec, from + 1)
      if behind > stop then break end
      local known = byte(rec, from)
      if not values[known] then
        values[known], firsts[known], behinds[known] = sub(rec, from + 3, behind - 1), from, behind
      end
      from = behind
    end
  end
  return values[tag], firsts[tag], behinds[tag]
end
end

-- The record with this entry; value nil: without it. A record whose last entry goes has no extension any more.
local function ext_set(rec, at, flags, tag, value)
  local old, from, behind = ext_get(rec, at, flags, tag)
  if old == value then return rec end
  local head, ext, body = behind_key(rec, at, flags), '', body_at(rec, at, flags)
  if byte(rec, 1) >= FRESH_EXT then
    if old then
      ext = sub(rec, head + 2, from - 1) .. sub(rec, behind, body - 1)
    else
      ext = sub(rec, head + 2, body - 1)
    end
  end
  if value then ext = ext .. struct.pack('>BI2', tag, #value) .. value end
  local shape = byte(rec, 1) % 16
  if ext == '' then return string.char(FRESH + shape) .. sub(rec, 2, head - 1) .. sub(rec, body) end
  return string.char(FRESH_EXT + shape) .. sub(rec, 2, head - 1) .. struct.pack('>I2', #ext) .. ext .. sub(rec, body)
end

-- The record of a task that gets another due time for another reason than a hand-back: from that time on it counts how late it is.
function EXT.due_anew(rec, at, flags) return ext_set(rec, at, flags, EXT.FIRST_DUE, nil) end

-- Whether another task took this one's place while it ran.
local function is_superseded(rec, at, flags) return ext_get(rec, at, flags, EXT_SUPERSEDED) ~= nil end

-- The entry of a task in the index of groups, or nil where it belongs to none.
local function grouped(id, rec, at, flags)
  local group = ext_get(rec, at, flags, EXT.GROUP)
  return group and group .. '\0' .. id
end

-- The index of labels. New tasks are entered in lists (lib/listing.lua), of which their records say nothing, and stay there when they
-- end. Tasks that were changed, and those of earlier versions, are entered in sets, as id .. mark (4 bytes), spread by label and value
-- (store/label_entries.py), which they leave when they end. One table, because a script has at most 200 local names.
-- Its functions are made when one is used first: most scripts use none.
local labels = { TAG = 20, left = {}, names = {}, touched = {} }
setmetatable(labels, { __index = function(_, name)
setmetatable(labels, nil)
function labels.key(number)
  local key = labels.names[number]
  if not key then
    key = T .. ':label:' .. number
    labels.names[number] = key
  end
  return key
end
-- The entries that the sets have of a task: key, member, key, member ...
function labels.of(id, rec, at, flags)
  local value, entries = ext_get(rec, at, flags, labels.TAG), {}
  for from = 1, value and #value - 5 or 0, 6 do
    entries[#entries + 1] = labels.key(struct.unpack('>I2', value, from))
    entries[#entries + 1] = id .. sub(value, from + 2, from + 5)
  end
  return entries
end
function labels.enter(entries)
  for i = 1, #entries, 2 do redis.call('SADD', entries[i], entries[i + 1]) end
end
function labels.leave(entries)
  for i = 1, #entries, 2 do redis.call('SREM', entries[i], entries[i + 1]) end
end
-- Notes entries that part() of finish.lua removes.
function labels.forget(entries)
  for i = 1, #entries, 2 do
    local left = labels.left[entries[i]] or {}
    left[#left + 1], labels.left[entries[i]] = entries[i + 1], left
  end
end
-- Adds their keys to those that a guard asks for, each once.
function labels.touch(entries, keys)
  for i = 1, #entries, 2 do
    if labels.touched[entries[i]] ~= keys then
      labels.touched[entries[i]] = keys
      keys[#keys + 1] = entries[i]
    end
  end
end
return labels[name]
end })
