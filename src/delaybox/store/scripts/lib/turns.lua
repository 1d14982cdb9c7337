-- Which lane's turn it is: lanes with ready work, each with its virtual start time. Needs keys, pauses.
-- All lanes of a task type are members of one set. Lanes that name a function or a command are members of a second set as well,
-- one for each name: a taker that serves a name in any queue finds its lanes there, however many other lanes there are. Lanes with needs
-- (lib/served.lua) have one for each function, whatever the needs: its name ends with a mark.

local active_sets
do
local NAMED = { s = true, w = true }
-- Every set that a lane stands in while it has ready work.
function active_sets(lane, critical)
  local letter = string.sub(lane, 1, 1)
  if not NAMED[letter] then return { k_active(letter, critical) } end
  return { k_active(letter, critical), k_active_named(letter, string.match(lane, ':([^!]*!?)') or '', critical) }
end
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

-- Where no lane has tasks with a fairness key any more, claims need not look for these. The field without a name says how many keys are known.
local function end_fair()
  local left = redis.call('HLEN', K_FAIR)
  if left == 0 or left == 1 and redis.call('HEXISTS', K_FAIR, '') == 1 then
    redis.call('DEL', K_FAIR)
    redis.call('HDEL', K_CLOCK, 'fair')
  end
end

local retire
do
-- Forgets the fairness keys of a lane that has no ready work: they start anew when it has some again (lib/fair.lua).
local function forget_keys(lane, critical)
  local s = critical and lane .. ':critical' or lane
  local keys, idle = T .. ':fair:' .. s, T .. ':fairidle:' .. s
  local known = redis.call('ZCARD', keys) + redis.call('ZCARD', idle)
  redis.call('UNLINK', keys, idle, T .. ':fairq:' .. s)
  redis.call('HDEL', K_FAIR, '=' .. s)
  if known > 0 then redis.call('HINCRBY', K_FAIR, '', -known) end
  local last = tonumber(redis.call('HGET', K_FAIR, '.' .. lane) or '')
  if not last or last <= now_ms() and redis.call('EXISTS', k_ready(lane, not critical)) == 0 then
    redis.call('HDEL', K_FAIR, '.' .. lane)
    end_fair()
  end
end

-- A lane without ready work.
function retire(lane, critical)
  if redis.call('HEXISTS', K_CLOCK, 'fair') == 1 then forget_keys(lane, critical) end
  for _, set in ipairs(active_sets(lane, critical)) do redis.call('ZREM', set, lane) end
  if is_steered() then
    redis.call('ZREM', K_PARKED, parked_name(lane, critical))
    redis.call('ZREM', K_LIMITED, parked_name(lane, critical))
  end
end
end

-- A lane with ready work. One that stands there already keeps its start. Unless at_once, `held_back` (lane, critical) may answer that
-- the lane must wait for permits. Scripts that take none set no such function: the next claim that meets the lane holds it back.
local held_back
local function activate(lane, critical, at_once)
  if paused(lane) then return park(lane, critical, active_sets(lane, critical)) end
  if held_back and not at_once and held_back(lane, critical) then return end
  local start = virtual_time(critical)
  for _, set in ipairs(active_sets(lane, critical)) do redis.call('ZADD', set, 'NX', start, lane) end
end
