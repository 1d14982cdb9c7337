-- What a claim may take. Needs time, keys, record, gather, turns.
-- Candidates are parallel lists: ids, their near members or lanes, and for those from ready sets the key of the set (near ones
-- are removed by rank). once: no id can be among them twice.

local SLACK = { [0] = 0, 2000, 10000, 60000 }

-- Reads the lanes that ARGV names from a place on. By letter byte: lanes, a set of them; names, the functions and commands served
-- in any queue; count. A letter without an entry is not limited.
local function lane_filter(from)
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

-- Whether a lane of a served type is among those named. Its parts: letter, queue, and behind a colon a function's name.
local function serves(served, lane)
  local of = served[byte(lane)]
  return not of or of.lanes[lane] or of.names[string.match(lane, ':(.*)') or ''] or false
end

-- Lanes that are taken from in one claim: those of the least virtual start times.
local LANES = 32
-- Up to so many lanes with ready work are read whole. Where there are more, those that are served are looked up by name.
local HEADS = 256
-- The served lanes of one type that have ready work: {lane, start, ...}.
local function served_lanes(letter, of, now, critical)
  local active, found, seen = k_active(letter, critical), {}, {}
  local function add(lane, start)
    if seen[lane] then return end
    seen[lane] = true
    found[#found + 1], found[#found + 2] = lane, start
  end
  local function add_served(flat)
    for i = 1, #flat, 2 do
      if of.lanes[flat[i]] or of.names[string.match(flat[i], ':(.*)') or ''] then add(flat[i], flat[i + 1]) end
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
    local flat = redis.call('ZRANGE', k_active_named(letter, name, critical), 0, LANES - 1, 'WITHSCORES')
    for i = 1, #flat, 2 do add(flat[i], flat[i + 1]) end
  end
  if #found == 0 and #of.any > 0 then
    -- What became ready before lanes stood by name as well is found by a window that moves, until the scrubber has been there.
    local first = now % (many - HEADS + 1)
    add_served(redis.call('ZRANGE', active, first, first + HEADS - 1, 'WITHSCORES'))
  end
  return found
end

-- Moves entries of near index n that this claim leaves to others into their ready sets, scored by virtual deadline.
local function make_ready(n, members, dues)
  local slack, critical = SLACK[n % 4], n % 4 == 0
  local ready, key_of = gather(), {}
  for i, member in ipairs(members) do
    local lane = sub(member, 17)
    local key = key_of[lane]
    if not key then
      key = k_ready(lane, critical)
      key_of[lane] = key
    end
    add2(ready, key, dues[i] + slack, sub(member, 1, 16))
  end
  flush(ready, 'ZADD')
  for lane in pairs(key_of) do activate(lane, critical) end
end

-- Members of one near index due between from (as ZRANGE takes it) and now, earliest first: members, dues.
local function due_members(n, from, now, limit)
  local flat = redis.call('ZRANGE', K_NEAR[n], from, now, 'BYSCORE', 'LIMIT', 0, limit, 'WITHSCORES')
  local members, dues = {}, {}
  for i = 1, #flat, 2 do
    members[#members + 1] = flat[i]
    dues[#dues + 1] = tonumber(flat[i + 1])
  end
  return members, dues
end

-- Which near index of those given stands next: the earliest virtual deadline of the critical ones, or of the others. dues: what is
-- due by index; used: how many of these were taken. nil where nothing is left.
local function next_index(own, dues, used, critical)
  local best, when
  for _, n in ipairs(own) do
    local due = (n % 4 == 0) == critical and dues[n][used[n] + 1]
    if due and (not best or due + SLACK[n % 4] < when) then best, when = n, due + SLACK[n % 4] end
  end
  return best
end

-- How many of limit entries may be critical while so many others are due, which keep a twentieth.
local function most_critical(limit, others)
  return math.max(limit - math.min(others, math.ceil(limit / 20)), 1)
end

-- Moves up to limit due entries of the given near indexes to ready: critical first, the others keep a twentieth and go by virtual
-- deadline. (In the order of the indexes, 300 critical tasks a claim left none of the others ready in 300 claims.)
-- Returns how many.
local function promote(own, now, limit)
  local members, dues, used, total, others = {}, {}, {}, 0, 0
  for _, n in ipairs(own) do
    members[n], dues[n] = due_members(n, '-inf', now, limit)
    used[n], total = 0, total + #dues[n]
    if n % 4 > 0 then others = others + #dues[n] end
  end
  if total == 0 then return 0 end
  local left = limit
  local function take(critical, most)
    for _ = 1, most do
      local n = next_index(own, dues, used, critical)
      if not n then return end
      used[n], left = used[n] + 1, left - 1
    end
  end
  take(true, most_critical(limit, others))
  take(false, left)
  for _, n in ipairs(own) do
    local count = used[n]
    if count > 0 then
      for i = #members[n], count + 1, -1 do members[n][i], dues[n][i] = nil, nil end
      make_ready(n, members[n], dues[n])
      redis.call('ZREMRANGEBYRANK', K_NEAR[n], 0, count - 1)
    end
  end
  return limit - left
end

-- The lanes of the given task types that are served and have ready work, critical or other.
local function ready_lanes(types, served, now, critical)
  local lanes = {}
  for letter in string.gmatch(types, '.') do
    local of = served[byte(letter)]
    -- Unlimited types take from the first whatever they are.
    local flat = of and served_lanes(letter, of, now, critical)
      or redis.call('ZRANGE', k_active(letter, critical), 0, LANES - 1, 'WITHSCORES')
    for i = 1, #flat, 2 do
      lanes[#lanes + 1] =
        { name = flat[i], start = tonumber(flat[i + 1]), critical = critical, key = k_ready(flat[i], critical), n = 0 }
    end
  end
  return lanes
end

-- Whether anything served is ready.
local function has_ready(types, served, now)
  for letter in string.gmatch(types, '.') do
    for _, critical in ipairs({ true, false }) do
      if served[byte(letter)] then
        if #ready_lanes(letter, served, now, critical) > 0 then return true end
      elseif redis.call('EXISTS', k_active(letter, critical)) == 1 then
        return true
      end
    end
  end
  return false
end

-- The lanes that a claim takes from, in the order of their turns.
local function open_lanes(out, types, served, now, critical)
  local lanes = ready_lanes(types, served, now, critical)
  table.sort(lanes, function(a, b) return a.start < b.start or (a.start == b.start and a.name < b.name) end)
  for i = #lanes, LANES + 1, -1 do lanes[i] = nil end
  for _, lane in ipairs(lanes) do out.turns[#out.turns + 1] = lane end
  return lanes
end

-- Takes up to limit ids from the ready sets of open lanes, and goes on where it was when called again. Lanes take turns by virtual
-- start time, in equal shares; what short lanes leave goes to those that have more.
local function take_ready(out, lanes, limit)
  local taken, open = 0, 0
  for _, lane in ipairs(lanes) do
    if not lane.dry then open = open + 1 end
  end
  -- Each round fills the limit or finds a lane dry, so there are at most LANES + 1.
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
  return taken
end

-- After a claim: dry lanes leave their active sets, the others move back by what was taken. Not before, for a lane whose
-- ready set is not empty must stay active if the claim stops half-way.
local function take_turns(out)
  local ends = {}
  for _, lane in ipairs(out.turns) do
    local start = lane.start + lane.n
    if lane.n > 0 then ends[lane.critical] = math.max(ends[lane.critical] or virtual_time(lane.critical), start) end
    if lane.dry then
      retire(lane.name, lane.critical)
    elseif lane.n > 0 then
      for _, set in ipairs(active_sets(lane.name, lane.critical)) do redis.call('ZADD', set, start, lane.name) end
    end
  end
  for critical, at in pairs(ends) do
    redis.call('HSET', K_CLOCK, turn_field(critical), at)
    turn_of[critical] = at
  end
end

-- The others' floor: of each 20 tasks leased while others than critical ones wait, one is theirs. What is short of a whole task
-- is remembered in the clock's hash under field, in twentieths.
local function floor_of(field)
  return { field = field, owed = tonumber(redis.call('HGET', K_CLOCK, field) or '') or 0 }
end
-- Slots that critical tasks leave to the others.
local function reserve(floor, slots) return math.min(slots, math.floor((floor.owed + slots) / 20)) end
-- What was leased of both while both waited.
local function settle_floor(floor, critical, others)
  local owed = math.min(math.max(floor.owed + critical - 19 * others, 0), 19)
  if owed ~= floor.owed then redis.call('HSET', K_CLOCK, floor.field, owed) end
end

-- How long guests leave due WORKER tasks that they do not serve where they are; past that they wait as ready, where whoever
-- serves them one day finds them, and no longer lie in the way of what comes behind them. Others' tasks are time keepers' affair.
local GRACE = 1000

-- Takes due entries straight from the given near indexes: critical first (the others keep their floor), the rest by virtual deadline.
-- how[letter byte]: 1 leased, 2 fired in place (needs no slot), nil not served here; served: the lanes of limited types.
-- What cannot be taken becomes ready, but a guest stops when its slots are full, and leaves what it does not serve.
-- Returns what take_away needs and the caller must pass on last, how many entries became ready, when the first that a guest
-- left is to become ready (ms; nil), and whether an index may hold more than was looked at.
local function take_near(out, own, from, now, how, served, slots, limit, guest, floor_field)
  local members, used, left = {}, {}, {}
  local total, only, full = 0, nil, false
  -- Room for others' tasks among its own, and for those whose record is gone.
  if guest then limit = math.min(limit, 2 * slots + 32) end
  for _, n in ipairs(own) do
    local found = redis.call('ZRANGE', K_NEAR[n], from, now, 'BYSCORE', 'LIMIT', 0, limit)
    local count = #found
    members[n], used[n] = found, 0
    if count > 0 then
      total = total + count
      only = total == count and n or nil
      full = full or count == limit
    end
  end
  if total == 0 then return {}, 0, nil, false end

  local ids, names, count, kinds = out.ids, out.members, #out.ids, {}
  local function use(n, member)
    local letter = byte(member, 17)
    local kind = how[letter]
    if kind and served[letter] then
      local lane = sub(member, 17)
      local known = kinds[lane]
      if known == nil then
        known = serves(served, lane)
        kinds[lane] = known
      end
      if not known then kind = nil end
    end
    if kind == 1 then
      if slots > 0 then slots = slots - 1 else kind = nil end
    end
    if kind then
      count = count + 1
      ids[count], names[count] = sub(member, 1, 16), member
    else
      local l = left[n]
      if not l then
        l = {}
        left[n] = l
      end
      l[#l + 1] = member
    end
  end

  if only then
    -- The common case: one priority is due. No scores are asked for.
    local found, i = members[only], 0
    while i < total and not (guest and slots == 0) do
      i = i + 1
      use(only, found[i])
    end
    used[only], out.once = i, true
  else
    local dues, others = {}, 0
    for _, n in ipairs(own) do
      if #members[n] > 0 then members[n], dues[n] = due_members(n, from, now, limit) else dues[n] = {} end
      if n % 4 > 0 then others = others + #members[n] end
    end
    local function take(critical, most)
      for i = 1, most do
        local n = next_index(own, dues, used, critical)
        if not n or guest and slots == 0 then return i - 1 end
        used[n] = used[n] + 1
        use(n, members[n][used[n]])
      end
      return most
    end
    local before = slots
    local floor = others > 0 and others < total and floor_of(floor_field) or nil
    local kept = floor and math.min(reserve(floor, slots), others) or 0
    slots = slots - kept
    local taken = take(true, most_critical(limit, others))
    slots = slots + kept
    local critical = before - slots
    take(false, limit - taken)
    if floor then settle_floor(floor, critical, before - critical - slots) end
  end

  local gone, moved, again = {}, 0, nil
  for n, count_ in pairs(used) do
    local l = left[n]
    local stays, some = {}, false
    if l then
      local ready, dues = {}, {}
      for i, score in ipairs(redis.call('ZMSCORE', K_NEAR[n], unpack(l))) do
        local due = tonumber(score)
        if guest and (n < 4 or due > now - GRACE) then
          stays[l[i]], some = true, true
          if n >= 4 then again = math.min(again or due + GRACE, due + GRACE) end
        else
          ready[#ready + 1], dues[#dues + 1] = l[i], due
        end
      end
      moved = moved + #ready
      if #ready > 0 then make_ready(n, ready, dues) end
    end
    if some then
      local names_ = {}
      for i = 1, count_ do
        local member = members[n][i]
        if not stays[member] then names_[#names_ + 1] = member end
      end
      gone[n] = names_
    elseif count_ > 0 then
      gone[n] = count_
    end
  end
  return gone, moved, again, full
end

-- Removes from near what take_near used up: by rank from the first entry that is due after from, or by name.
local function take_away(gone, now, fresh)
  for n, what in pairs(gone) do
    if type(what) == 'number' then
      local first = fresh > 0 and redis.call('ZCOUNT', K_NEAR[n], '-inf', now - fresh) or 0
      redis.call('ZREMRANGEBYRANK', K_NEAR[n], first, first + what - 1)
    elseif #what > 0 then
      redis.call('ZREM', K_NEAR[n], unpack(what))
    end
  end
end
