-- Which lane's turn it is: lanes with ready work, each with its virtual start time. Needs keys.
-- All lanes of a task type are members of one set. Lanes that name a function or a command are members of a second set as well,
-- one for each name: a taker that serves a name in any queue finds its lanes there, however many other lanes there are.

local NAMED = { s = true, w = true }

-- Every set that a lane stands in while it has ready work.
local function active_sets(lane, critical)
  local letter = string.sub(lane, 1, 1)
  if not NAMED[letter] then return { k_active(letter, critical) } end
  return { k_active(letter, critical), k_active_named(letter, string.match(lane, ':(.*)') or '', critical) }
end

-- The virtual time: the largest start at which a turn ended. It never falls, so a lane that comes and goes cannot stay ahead
-- of one that waits (while lanes became active at the lowest start, such a lane took 1,000 of 1,000 turns).
local function turn_field(critical) return critical and 'turn:critical' or 'turn' end
local turn_of = {}
local function virtual_time(critical)
  local known = turn_of[critical]
  if not known then
    known = tonumber(redis.call('HGET', K_CLOCK, turn_field(critical)) or '')
    -- the field does not exist yet: the largest start among the lanes that are active
    for letter in string.gmatch(known and '' or 'pshw', '.') do
      local last = redis.call('ZRANGE', k_active(letter, critical), -1, -1, 'WITHSCORES')[2]
      if last then known = math.max(known or 0, tonumber(last)) end
    end
    known = known or 0
    turn_of[critical] = known
  end
  return known
end

-- A lane with ready work. One that stands there already keeps its start.
local function activate(lane, critical)
  local start = virtual_time(critical)
  for _, set in ipairs(active_sets(lane, critical)) do redis.call('ZADD', set, 'NX', start, lane) end
end

-- A lane without ready work.
local function retire(lane, critical)
  for _, set in ipairs(active_sets(lane, critical)) do redis.call('ZREM', set, lane) end
end
