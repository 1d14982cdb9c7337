-- What a claim may take. Needs time, keys, record, gather.
-- Candidates are parallel lists: ids, their near members or lanes, and for those from ready sets the key of the set (near ones
-- are removed by rank).

local SLACK = { [0] = 0, 2000, 10000, 60000 }

-- Reads the lanes that ARGV names from a place on: by letter byte a set of them. A letter without an entry is not limited.
local function lane_filter(from)
  local served = {}
  for i = from, #ARGV do
    local letter = string.byte(ARGV[i])
    served[letter] = served[letter] or {}
    served[letter][ARGV[i]] = true
  end
  return served
end

-- Whether a lane of a served type is among those named. Its parts: letter, queue, and behind a colon a function's name.
local function serves(served, lane)
  local set = served[string.byte(lane)]
  if not set or set[lane] then return true end
  return set[string.sub(lane, 1, 1) .. '*' .. (string.match(lane, ':.*') or '')] == true
end

-- Lane heads of one type that are looked at: beyond this many lanes with ready work, a window that moves with time.
local HEADS = 256
local function heads(active, now)
  local first, many = 0, redis.call('ZCARD', active)
  if many > HEADS then first = now % (many - HEADS + 1) end
  return redis.call('ZRANGE', active, first, first + HEADS - 1, 'WITHSCORES')
end

-- A lane that wakes starts where the others stand, so that it neither waits nor overtakes for its absence: those of its
-- own type, else of any (a claim takes from the lanes of several types together).
local function activate(lane, critical)
  local own = k_active(string.sub(lane, 1, 1), critical)
  local start = redis.call('ZRANGE', own, 0, 0, 'WITHSCORES')[2]
  if not start then
    for letter in string.gmatch('pshw', '.') do
      local head = redis.call('ZRANGE', k_active(letter, critical), 0, 0, 'WITHSCORES')[2]
      if head and (not start or tonumber(head) < tonumber(start)) then start = head end
    end
  end
  redis.call('ZADD', own, 'NX', start or '0', lane)
end

-- Moves due entries that this claim leaves to others into their ready sets, scored by virtual deadline.
local function make_ready(priority, members, dues)
  local critical = priority == 0
  local ready, lanes = gather(), {}
  for i, member in ipairs(members) do
    local lane = string.sub(member, 17)
    lanes[lane] = true
    add2(ready, k_ready(lane, critical), int(dues[i] + SLACK[priority]), string.sub(member, 1, 16))
  end
  flush(ready, 'ZADD')
  for lane in pairs(lanes) do activate(lane, critical) end
end

-- Members of one near index due between from (as ZRANGE takes it) and now, earliest first: members, dues.
local function due_members(priority, from, now, limit)
  local flat = redis.call('ZRANGE', K_NEAR[priority], from, int(now), 'BYSCORE', 'LIMIT', 0, limit, 'WITHSCORES')
  local members, dues = {}, {}
  for i = 1, #flat, 2 do
    members[#members + 1] = flat[i]
    dues[#dues + 1] = tonumber(flat[i + 1])
  end
  return members, dues
end

-- Moves up to limit due entries from near to ready, critical first. Returns how many.
local function promote(now, limit)
  local moved = 0
  for priority = 0, 3 do
    if moved < limit then
      local members, dues = due_members(priority, '-inf', now, limit - moved)
      if #members > 0 then
        make_ready(priority, members, dues)
        redis.call('ZREMRANGEBYRANK', K_NEAR[priority], 0, #members - 1)
        moved = moved + #members
      end
    end
  end
  return moved
end

-- The lanes of the given task types that are served and have ready work, critical or other.
local function ready_lanes(types, served, now, critical)
  local lanes = {}
  for letter in string.gmatch(types, '.') do
    local active = k_active(letter, critical)
    local filtered = served[string.byte(letter)] ~= nil
    -- Unlimited types take from the first 32 whatever they are.
    local flat = filtered and heads(active, now) or redis.call('ZRANGE', active, 0, 31, 'WITHSCORES')
    for i = 1, #flat, 2 do
      if not filtered or serves(served, flat[i]) then
        lanes[#lanes + 1] =
          { name = flat[i], start = tonumber(flat[i + 1]), active = active, key = k_ready(flat[i], critical), n = 0 }
      end
    end
  end
  return lanes
end

-- Whether anything served is ready; critical: true only such, false only others, nil any.
local function has_ready(types, served, now, critical)
  for letter in string.gmatch(types, '.') do
    for _, c in ipairs({ true, false }) do
      if critical == nil or critical == c then
        if served[string.byte(letter)] then
          if #ready_lanes(letter, served, now, c) > 0 then return true end
        elseif redis.call('EXISTS', k_active(letter, c)) == 1 then
          return true
        end
      end
    end
  end
  return false
end

-- Takes up to limit ids from the ready sets of the given task types' lanes; at most 32 lanes are taken from.
-- Lanes take turns by virtual start time, in equal shares; what short lanes leave goes to those that have more.
local function take_ready(out, types, served, now, critical, limit)
  if limit <= 0 then return 0 end
  local lanes = ready_lanes(types, served, now, critical)
  table.sort(lanes, function(a, b) return a.start < b.start or (a.start == b.start and a.name < b.name) end)
  for i = #lanes, 33, -1 do lanes[i] = nil end
  local taken, open = 0, #lanes
  -- Each round fills the limit or finds a lane dry, so there are at most 33.
  while taken < limit and open > 0 do
    local turns = open
    for _, lane in ipairs(lanes) do
      if taken < limit and not lane.dry then
        local share = math.ceil((limit - taken) / turns)
        turns = turns - 1
        local ids = redis.call('ZRANGE', lane.key, lane.n, lane.n + share - 1)
        for _, id in ipairs(ids) do
          out.ids[#out.ids + 1] = id
          out.keys[#out.ids] = lane.key
          out.lanes[#out.ids] = lane.name
        end
        taken = taken + #ids
        lane.n = lane.n + #ids
        if #ids < share then
          lane.dry = true
          open = open - 1
        end
      end
    end
  end
  for _, lane in ipairs(lanes) do
    if lane.dry or lane.n > 0 then out.turns[#out.turns + 1] = lane end
  end
  return taken
end

-- After a claim: dry lanes leave their active set, the others move back by what was taken. Not before, for a lane whose
-- ready set is not empty must stay active if the claim stops half-way.
local function take_turns(out)
  for _, lane in ipairs(out.turns) do
    if lane.dry then
      redis.call('ZREM', lane.active, lane.name)
    else
      redis.call('ZINCRBY', lane.active, lane.n, lane.name)
    end
  end
end

-- Slots that critical tasks leave to the others when these are due: 5 %, and of a single slot one turn in twenty.
local function reserve(slots, now)
  if slots > 1 then return math.ceil(slots / 20) end
  return now % 20 == 7 and slots or 0
end

-- Takes due entries straight from near: critical first (the others keep 5 %), the rest by virtual deadline.
-- how[letter byte]: 1 leased, 2 fired in place (needs no slot), nil not served here; served: the lanes of limited types.
-- What cannot be taken becomes ready.
-- Returns how many entries of each near index, counted from the first that is due after from, are used up (the caller removes
-- them last), and how many of them were made ready.
local function take_near(out, from, now, how, served, slots, limit)
  local members, dues, used, left = {}, {}, { [0] = 0, 0, 0, 0 }, {}
  local total, only = 0, nil
  for p = 0, 3 do
    members[p] = redis.call('ZRANGE', K_NEAR[p], from, int(now), 'BYSCORE', 'LIMIT', 0, limit)
    if #members[p] > 0 then
      total = total + #members[p]
      only = total == #members[p] and p or nil
    end
  end
  local ids, byte, sub = out.ids, string.byte, string.sub
  local function use(p, member)
    local letter = byte(member, 17)
    local kind = how[letter]
    if kind and served[letter] and not serves(served, sub(member, 17)) then kind = nil end
    if kind == 1 then
      if slots > 0 then slots = slots - 1 else kind = nil end
    end
    if kind then
      ids[#ids + 1] = sub(member, 1, 16)
      out.members[#ids] = member
    else
      left[p] = left[p] or {}
      left[p][#left[p] + 1] = member
    end
  end
  if only then
    -- The common case: one priority is due. No scores are asked for.
    for _, member in ipairs(members[only]) do use(only, member) end
    used[only] = total
  elseif total > 0 then
    for p = 0, 3 do
      if #members[p] > 0 then members[p], dues[p] = due_members(p, from, now, limit) else dues[p] = {} end
    end
    local others = #members[1] + #members[2] + #members[3]
    local for_critical = math.max(limit - math.min(others, math.ceil(limit / 20)), 1)
    local kept = others > 0 and reserve(slots, now) or 0
    slots = slots - kept
    for i = 1, math.min(#members[0], for_critical) do
      use(0, members[0][i])
      used[0] = i
    end
    slots = slots + kept
    for _ = 1, math.min(others, limit - used[0]) do
      local best, when
      for p = 1, 3 do
        local due = dues[p][used[p] + 1]
        if due and (not best or due + SLACK[p] < when) then best, when = p, due + SLACK[p] end
      end
      used[best] = used[best] + 1
      use(best, members[best][used[best]])
    end
  end
  local moved = 0
  for p, l in pairs(left) do
    local scores = {}
    moved = moved + #l
    for i, score in ipairs(redis.call('ZMSCORE', K_NEAR[p], unpack(l))) do scores[i] = tonumber(score) end
    make_ready(p, l, scores)
  end
  return used, moved
end

-- For a guest: due entries of near that it serves, critical first, up to slots in all with what was taken already; what it
-- does not serve stays. Looks at limit entries of each priority; returns whether there were more.
local function take_served(out, from, now, how, served, slots, limit)
  local byte, sub, unseen = string.byte, string.sub, false
  for p = 0, 3 do
    if #out.ids < slots then
      local members = redis.call('ZRANGE', K_NEAR[p], from, int(now), 'BYSCORE', 'LIMIT', 0, limit)
      unseen = unseen or #members == limit
      for _, member in ipairs(members) do
        local letter = byte(member, 17)
        if #out.ids < slots and how[letter] == 1 and (not served[letter] or serves(served, sub(member, 17))) then
          out.ids[#out.ids + 1] = sub(member, 1, 16)
          out.members[#out.ids] = member
          out.near[#out.ids] = p
        end
      end
    end
  end
  return unseen
end
