-- Pauses of queues, and their other rules that scripts must know: looked up here; lanes of paused queues stand apart. Needs keys.

-- The field `steered` of the clock's hash exists while a queue has a rule that scripts must know, or a lane is parked;
-- without it nothing is looked up, so that a store without such rules pays nothing for them.
local steered
local function set_steered(value) steered = value end
local function is_steered()
  if steered == nil then steered = redis.call('HEXISTS', K_CLOCK, 'steered') == 1 end
  return steered
end
local paused, rule_of, through_ready
do
local paused_of, ruled_of = {}, {}
-- Reads what scripts must know of the rules of a lane's queue: once for each queue. Returns the queue.
local function look_up(lane)
  local queue = string.match(lane, '^.([^:]*)')
  if paused_of[queue] == nil then
    paused_of[queue], ruled_of[queue] = steered_rules(queue)
  end
  return queue
end
function paused(lane)
  return is_steered() and paused_of[look_up(lane)]
end
-- The value of a rule other than the pause, as text; nil: the queue has none. Where a queue has such rules of its own, all that
-- hold for it stand there, those of all others included.
function rule_of(lane, name)
  if not is_steered() then return nil end
  local text = ruled_of[look_up(lane)]
  return text and string.match(' ' .. text, ' ' .. name .. '=(%S+)')
end
-- Whether tasks of this lane are taken from its ready set alone, never straight from near: its queue is steered.
local slow_lanes = {}
function through_ready(lane)
  local known = slow_lanes[lane]
  if known == nil then
    known = paused(lane) or rule_of(lane, 'limited') and true or false
    slow_lanes[lane] = known
  end
  return known
end
end

-- The member of the parked set: queue, a NUL byte, '!' or '-', lane. Members of one queue stand side by side.
local function parked_name(lane, critical)
  return string.match(lane, '^.([^:]*)') .. '\0' .. (critical and '!' or '-') .. lane
end
local function parked_parts(member)
  local mark, lane = string.match(member, '^[^%z]*%z(.)(.*)$')
  return lane, mark == '!'
end

-- A lane with ready work whose queue is paused: it stands apart, so that no claim finds it. Where it stands comes first, so
-- that it is in one of the two whenever a script stops half-way. active: the sets that it leaves.
local function park(lane, critical, active)
  redis.call('ZADD', K_PARKED, 0, parked_name(lane, critical))
  for _, set in ipairs(active) do redis.call('ZREM', set, lane) end
end
