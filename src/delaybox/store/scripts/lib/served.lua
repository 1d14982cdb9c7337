-- Which lanes a taker serves, and which of these have ready work. Needs keys, record.
-- Behind the function a lane may name what its tasks need of a worker (core/needs.py): wmail:send!!gpu. A lane with needs is served only
-- where it is listed; one whose function is served and that is not listed was *met*: the taker learns of it, and lists it from then on
-- where its workers have what is needed.
-- One table, because a script may have 200 local names at once. LANES: one claim takes from at most this many lanes, those with the
-- lowest virtual start times. met: {lane, ...}, at most MOST_MET.
local whose = { LANES = 32, MOST_MET = 32, met = {} }
do
-- The near indexes that a taker of these types claims from, critical ones first; and where those of a guest start whose tasks have near
-- indexes of their own. What such a guest finds ready lay in others before.
function whose.near(types, guest)
  local alone = guest and (types == 'w' and 4 or types == 'h' and 8)
  local bases = alone and { alone } or { 0 }
  if not alone and string.find(types, 'w', 1, true) then bases[#bases + 1] = 4 end
  if not guest and string.find(types, 'h', 1, true) then bases[#bases + 1] = 8 end
  local own = {}
  for priority = 0, 3 do
    for _, base in ipairs(bases) do own[#own + 1] = base + priority end
  end
  return own, alone
end

-- The first two entries of near index n from `from` on (as ZRANGE takes it): {member, due ms, member, due ms}. They are read once: most
-- claims find nothing due or one task, and need no more.
whose.read = {}
function whose.first_two(n, from)
  local two = whose.read[n]
  if not two then
    two = redis.call('ZRANGE', K_NEAR[n], from, '+inf', 'BYSCORE', 'LIMIT', 0, 2, 'WITHSCORES')
    two[2], two[4] = tonumber(two[2] or ''), tonumber(two[4] or '')
    whose.read[n] = two
  end
  return two
end

-- Reads the lanes that ARGV lists, from index `from` on. Returns by letter byte: lanes, the set of them (list: in order); names, the
-- set of functions and commands that are served in any queue (any: in order). A letter without an entry is not limited.
function whose.filter(from)
  local served = {}
  for i = from, #ARGV do
    local lane = ARGV[i]
    local letter = byte(lane)
    local of = served[letter]
    if not of then
      of = { lanes = {}, list = {}, names = {}, any = {} }
      served[letter] = of
    end
    if byte(lane, 2) == 42 then
      local name = string.match(lane, ':(.*)') or ''
      of.any[#of.any + 1], of.names[name] = name, true
    else
      of.list[#of.list + 1], of.lanes[lane] = lane, true
    end
  end
  return served
end

-- Notes a lane that is not served, if only its needs are in the way. Returns false.
local noted = {}
local function meet(of, lane)
  local mark = string.find(lane, '!', 1, true)
  -- Commands are served in any queue, so one lane stands for those of all queues.
  local as = mark and (byte(lane) == 119 and lane or string.match(lane, ':(.*)'))
  if mark and not noted[as] and #whose.met < whose.MOST_MET then
    local plain = sub(lane, 1, mark - 1)
    if of.lanes[plain] or of.names[string.match(plain, ':(.*)') or ''] then
      noted[as] = true
      whose.met[#whose.met + 1] = lane
    end
  end
  return false
end

-- Whether a lane of a served type is among those named. Its parts: letter, queue, and behind a colon a function's name.
function whose.serves(served, lane)
  local of = served[byte(lane)]
  return not of or of.lanes[lane] or of.names[string.match(lane, ':(.*)') or ''] or meet(of, lane)
end

-- Up to this many lanes with ready work are all read. Where there are more, the served ones are looked up by name.
local HEADS = 256
-- Up to FUNCTIONS of the functions that a taker serves; where there are more, others each time.
local FUNCTIONS = 16
local function functions_of(of, now)
  local names, seen, first = {}, {}, #of.list > 0 and now % #of.list or 0
  for i = 1, math.min(#of.list, 64) do
    local name = string.match(of.list[(first + i) % #of.list + 1], ':([^!]*)') or ''
    if not seen[name] and #names < FUNCTIONS then
      seen[name], names[#names + 1] = true, name
    end
  end
  return names
end

-- The served lanes of one type that have ready work: {lane, start, ...}.
function whose.ready(letter, of, now, critical)
  local active, found, seen = k_active(letter, critical), {}, {}
  local function add(lane, start)
    if seen[lane] then return end
    seen[lane] = true
    found[#found + 1], found[#found + 2] = lane, start
  end
  local function add_served(flat)
    for i = 1, #flat, 2 do
      if of.lanes[flat[i]] or of.names[string.match(flat[i], ':(.*)') or ''] then add(flat[i], flat[i + 1]) else meet(of, flat[i]) end
    end
  end
  local many = redis.call('ZCARD', active)
  if many == 0 then return found end
  if many <= HEADS then
    add_served(redis.call('ZRANGE', active, 0, -1, 'WITHSCORES'))
    return found
  end
  for from = 1, #of.list, 1000 do
    local upto = math.min(from + 999, #of.list)
    for i, start in ipairs(redis.call('ZMSCORE', active, unpack(of.list, from, upto))) do
      if start then add(of.list[from + i - 1], start) end
    end
  end
  for _, name in ipairs(of.any) do
    if not string.find(name, '!', 1, true) then
      local flat = redis.call('ZRANGE', k_active_named(letter, name, critical), 0, whose.LANES - 1, 'WITHSCORES')
      for i = 1, #flat, 2 do add(flat[i], flat[i + 1]) end
      -- Those of commands that cost several places: some are served, others met.
      if letter == 's' then add_served(redis.call('ZRANGE', k_active_named(letter, name .. '!', critical), 0, HEADS - 1, 'WITHSCORES')) end
    end
  end
  -- Lanes with needs stand in one more set for each function.
  if letter == 'w' then
    for _, name in ipairs(functions_of(of, now)) do
      local flat = redis.call('ZRANGE', k_active_named(letter, name .. '!', critical), 0, whose.MOST_MET - 1)
      for _, lane in ipairs(flat) do if not of.lanes[lane] then meet(of, lane) end end
    end
  end
  if #found == 0 and #of.any > 0 then
    -- Lanes that an earlier version made active are not listed by name until the scrubber comes by. A window that moves with
    -- the clock finds them.
    local first = now % (many - HEADS + 1)
    add_served(redis.call('ZRANGE', active, first, first + HEADS - 1, 'WITHSCORES'))
  end
  return found
end
end
