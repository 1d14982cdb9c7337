#!lua flags=no-writes,allow-oom
-- Since when the first in line of each lane is due. Where many lanes have ready work, those are looked at that are next in turn, and
-- of the others a different part in each call.
-- KEYS  1 hash tag of the partition
-- ARGV  1 bucket width (ms), 2 a number that the caller counts up: it decides which of the others are looked at
-- REPLY {now ms, calls that it takes to look at every lane (1: all were looked at), lane, due ms, lane, due ms, ...}
-- BOUND 100 lanes of each set of lanes that are next in turn, 100 others, 600 in all; 4 entries of each; 50 due entries of each near
--       index
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/record.lua
local NEXT, OTHERS, MOST, ENTRIES, NEAR = 100, 100, 600, 4, 50
local now, width, turn = now_ms(), tonumber(ARGV[1]), tonumber(ARGV[2])
local oldest, left, calls = {}, MOST, 1
local function waits(lane, due)
  if not oldest[lane] or due < oldest[lane] then oldest[lane] = due end
end
-- A set of ready tasks is in the order of virtual deadlines. What was taken or moved meanwhile is passed over: the record decides.
local function look(key, lane)
  left = left - 1
  for _, id in ipairs(redis.call('ZRANGE', key, 0, ENTRIES - 1)) do
    local rec = redis.call('HGET', k_bucket(math.floor(id_due(id) / width)), id)
    if rec then
      local kind, _, due = rec_head(id, rec)
      if kind == 'ok' and due <= now then return waits(lane, due) end
    end
  end
end
local function held_back(prefix)
  return function(member)
    local mark, lane = string.match(member, '^[^%z]*%z(.)(.*)$')
    if lane then look(prefix and prefix .. member or k_ready(lane, mark == '!'), lane) end
  end
end
local sets = { { K_PARKED, held_back() }, { K_LIMITED, held_back() }, { T .. ':apart', held_back(T .. ':waits:') } }
for _, letter in ipairs({ 'p', 's', 'h', 'w' }) do
  for _, critical in ipairs({ true, false }) do
    sets[#sets + 1] = { k_active(letter, critical), function(lane) look(k_ready(lane, critical), lane) end }
  end
end
for n = 0, 11 do
  local due = redis.call('ZRANGE', K_NEAR[n], '-inf', now, 'BYSCORE', 'LIMIT', 0, NEAR, 'WITHSCORES')
  for i = 1, #due, 2 do waits(string.sub(due[i], 17), tonumber(due[i + 1])) end
end
local function some(key, from, most, visit)
  for _, member in ipairs(redis.call('ZRANGE', key, from, from + math.min(most, left) - 1)) do visit(member) end
end
-- No set is always the last one, for which nothing may be left of what a call looks at.
for i = 1, #sets do
  local key, visit = unpack(sets[(turn + i) % #sets + 1])
  local many = redis.call('ZCARD', key)
  if many > left then calls = math.max(calls, #sets) end
  if many > 0 and left > 0 then some(key, 0, NEXT, visit) end
  if many > NEXT then
    local parts = math.ceil((many - NEXT) / OTHERS)
    calls = math.max(calls, parts)
    if left > 0 then some(key, NEXT + turn % parts * OTHERS, OTHERS, visit) end
  end
end
local reply = { now, calls }
for lane, due in pairs(oldest) do
  reply[#reply + 1] = lane
  reply[#reply + 1] = due
end
return reply
