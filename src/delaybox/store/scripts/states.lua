#!lua flags=no-writes,allow-oom
-- Reports where each of many tasks stands, without bodies: for callers that wait for tasks to end.
-- KEYS  1 hash tag of the partition
-- ARGV  1 bucket width ms, 2 '1' = tasks that the index of leases does not name are searched for in leases of earlier versions, then ids
-- REPLY now ms, then for each id one of
--       'h' + head of its record (16 bytes at most): pending        'l' + head: leased
--       'd' + resultLen:u32 result + start of its dead letter (died, reason, head)
--       'f' + resultLen:u32 result + head: finished, its result is kept
--       'q' in quarantine    '' nothing of it is kept    '?' not found, and not looked for everywhere
-- BOUND 128 ids; all together look 1,000 times into leases that an earlier version made
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/gather.lua
--@include lib/leased.lua
local HEAD = 16
local W, deep = tonumber(ARGV[1]), ARGV[2] == '1'
local ids = { unpack(ARGV, 3) }
local out = { now_ms() }
if #ids == 0 then return out end

local kept = redis.call('HMGET', K_RESULTS, unpack(ids))
local places, at = gather(), {}
for i, id in ipairs(ids) do
  local value, n = kept[i]
  if value then n = struct.unpack('>I4', value) end
  if value and #value > 4 + n then
    out[i + 1] = 'f' .. string.sub(value, 1, 4 + n + HEAD)
  else
    local key = k_bucket(math.floor(id_due(id) / W))
    add1(places, key, id)
    if not at[key] then at[key] = {} end
    table.insert(at[key], i)
  end
end
local missing, who = {}, {}
for _, key in ipairs(places.order) do
  local records = redis.call('HMGET', key, unpack(places.by[key]))
  for j, i in ipairs(at[key]) do
    -- An empty field would be a pointer. In the id's own home bucket it names no record, so it counts as nothing.
    if records[j] and records[j] ~= '' then
      out[i + 1] = 'h' .. string.sub(records[j], 1, HEAD)
    else
      missing[#missing + 1] = ids[i]
      who[#who + 1] = i
    end
  end
end
if #missing == 0 then return out end

local dead = redis.call('HMGET', K_DEAD, unpack(missing))
local gone, gone_who = {}, {}
for j, i in ipairs(who) do
  if dead[j] then
    local reason = struct.unpack('>I2', dead[j], 9)
    -- The traceback behind the reason's words is left out; `get` replies it.
    local words = (string.find(string.sub(dead[j], 11, 10 + reason), '\0', 1, true) or reason + 1) - 1
    local n = kept[i] and struct.unpack('>I4', kept[i]) or 0
    local result = kept[i] and string.sub(kept[i], 1, 4 + n) or struct.pack('>I4', 0)
    out[i + 1] = 'd' .. result .. string.sub(dead[j], 1, 8) .. struct.pack('>I2', words)
      .. string.sub(dead[j], 11, 10 + words) .. string.sub(dead[j], 11 + reason, 10 + reason + HEAD)
  else
    gone[#gone + 1] = missing[j]
    gone_who[#gone_who + 1] = i
  end
end
if #gone == 0 then return out end

local quarantined = redis.call('HMGET', K_QUAR, unpack(gone))
for j, i in ipairs(gone_who) do
  local rec = leased_by_index(gone[j])
  if not rec and not quarantined[j] and deep then rec = leased_unindexed(gone[j]) end
  if rec then
    out[i + 1] = 'l' .. string.sub(rec, 1, HEAD)
  elseif quarantined[j] then
    out[i + 1] = 'q'
  else
    out[i + 1] = deep and looks < UNINDEXED_LOOKS and '' or '?'
  end
end
return out
