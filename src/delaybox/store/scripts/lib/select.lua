-- What a claim may take. Needs time, keys, record, gather.
-- Candidates are parallel lists: ids, their near members or lanes, and for those from ready sets the key of the set (near ones
-- are removed by rank). once: no id can be among them twice.

local SLACK = { [0] = 0, 2000, 10000, 60000 }

-- Reads the lanes that ARGV names from a place on: by letter byte a set of them. A letter without an entry is not limited.
local function lane_filter(from)
  local served = {}
  for i = from, #ARGV do
    local letter = byte(ARGV[i])
    served[letter] = served[letter] or {}
    served[letter][ARGV[i]] = true
  end
  return served
end

-- Whether a lane of a served type is among those named. Its parts: letter, queue, and behind a colon a function's name.
local function serves(served, lane)
  local set = served[byte(lane)]
  if not set or set[lane] then return true end
  return set[sub(lane, 1, 1) .. '*' .. (string.match(lane, ':.*') or '')] == true
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
  local own = k_active(sub(lane, 1, 1), critical)
  local start = redis.call('ZRANGE', own, 0, 0, 'WITHSCORES')[2]
  if not start then
    for letter in string.gmatch('pshw', '.') do
      local head = redis.call('ZRANGE', k_active(letter, critical), 0, 0, 'WITHSCORES')[2]
      if head and (not start or tonumber(head) < tonumber(start)) then start = head end
    end
  end
  redis.call('ZADD', own, 'NX', start or '0', lane)
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

-- Moves up to limit due entries of the given near indexes to ready, in their order. Returns how many.
local function promote(own, now, limit)
  local moved = 0
  for _, n in ipairs(own) do
    if moved < limit then
      local members, dues = due_members(n, '-inf', now, limit - moved)
      if #members > 0 then
        make_ready(n, members, dues)
        redis.call('ZREMRANGEBYRANK', K_NEAR[n], 0, #members - 1)
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
    local filtered = served[byte(letter)] ~= nil
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
        if served[byte(letter)] then
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

-- How long guests leave due WORKER tasks that they do not serve where they are; past that they wait as ready, where whoever
-- serves them one day finds them, and no longer lie in the way of what comes behind them. Others' tasks are time keepers' affair.
local GRACE = 1000

-- Takes due entries straight from the given near indexes: critical first (the others keep 5 %), the rest by virtual deadline.
-- how[letter byte]: 1 leased, 2 fired in place (needs no slot), nil not served here; served: the lanes of limited types.
-- What cannot be taken becomes ready, but a guest stops when its slots are full, and leaves what it does not serve.
-- Returns what take_away needs and the caller must pass on last, how many entries became ready, when the first that a guest
-- left is to become ready (ms; nil), and whether an index may hold more than was looked at.
local function take_near(out, own, from, now, how, served, slots, limit, guest)
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
    -- The earliest virtual deadline of the critical ones, or of the others, up to most times.
    local function take(critical, most)
      for i = 1, most do
        local best, when
        for _, n in ipairs(own) do
          local due = (n % 4 == 0) == critical and dues[n][used[n] + 1]
          if due and (not best or due + SLACK[n % 4] < when) then best, when = n, due + SLACK[n % 4] end
        end
        if not best or guest and slots == 0 then return i - 1 end
        used[best] = used[best] + 1
        use(best, members[best][used[best]])
      end
      return most
    end
    local kept = others > 0 and reserve(slots, now) or 0
    slots = slots - kept
    local taken = take(true, math.max(limit - math.min(others, math.ceil(limit / 20)), 1))
    slots = slots + kept
    take(false, limit - taken)
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
