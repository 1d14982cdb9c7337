-- Chooses what a claim takes, in which order: critical tasks first, then by virtual deadline; lanes take turns; the others keep a floor.
-- Needs time, keys, record, gather, pauses, turns, served; permits where it takes from ready sets.
-- Candidates are parallel lists: ids, their near members or lanes, and the key of the ready set for those that come from one (those
-- from near are removed by rank). once: no id can be among them twice.

-- A script may have 200 local names at once, so only what others use is visible behind this file.
local slack_of, promote, ready_lanes, has_ready, open_lanes, take_ready
local take_critical, take_turns, floor_of, reserve, settle_floor, take_leased, take_near, take_away, n_parked
do

local SLACK, LEVELS = { [0] = 0, 2000, 10000, 60000 }, { 'high', 'normal', 'low' }
-- What is added to a due time for the virtual deadline (ms): the queue's own slack, or the one of the priority.
function slack_of(lane, priority)
  return priority > 0 and tonumber(rule_of(lane, LEVELS[priority]) or '') or SLACK[priority]
end

-- Moves entries of near index n that this claim does not take into their ready sets, scored by virtual deadline.
local function make_ready(n, members, dues)
  local critical = n % 4 == 0
  local ready, lanes, keyed, lane, of = gather(), {}, {}, nil, nil
  for i = 1, #members do
    local member = members[i]
    local its = sub(member, 17)
    if its ~= lane then
      -- Mostly many of one lane follow one another.
      lane, of = its, lanes[its]
      if not of then
        local key = k_ready(lane, critical)
        of = { slack = slack_of(lane, n % 4), has = fair.has(lane), list = {}, n = 0 }
        lanes[lane], ready.by[key], ready.order[#ready.order + 1] = of, of.list, key
      end
    end
    local id, deadline, list, count = sub(member, 1, 16), dues[i] + of.slack, of.list, of.n
    list[count + 1], list[count + 2], of.n = deadline, id, count + 2
    if of.has then keyed[#keyed + 1] = { id, lane, critical, deadline } end
  end
  flush(ready, 'ZADD')
  if #keyed > 0 then fair.enlist(keyed, fair.W) end
  for name in pairs(lanes) do activate(name, critical) end
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

-- Which of the given near indexes is next: the one with the earliest virtual deadline, among the critical ones or among the others.
-- members, dues: by index; used: how many of them were taken. nil where nothing is left.
local function next_index(own, members, dues, used, critical)
  local best, when
  for _, n in ipairs(own) do
    local i = used[n] + 1
    local due = (n % 4 == 0) == critical and dues[n][i]
    if due then
      local at = due + (steered and slack_of(sub(members[n][i], 17), n % 4) or SLACK[n % 4])
      if not best or at < when then best, when = n, at end
    end
  end
  return best
end

-- How many of `limit` entries may be critical. While `others` are due, these keep a twentieth.
local function most_critical(limit, others)
  return math.max(limit - math.min(others, math.ceil(limit / 20)), 1)
end

-- Moves up to limit due entries of the given near indexes to ready: critical ones first, then the others, which keep a twentieth (of lanes too), by
-- virtual deadline. (Taken index by index, with 300 critical tasks a claim, none of the others became ready in 300 claims.)
-- lanes: of at most so many lanes, where it is given, because a lane costs as much as five tasks; so does each task with a fairness key,
-- which counts as a lane. Returns how many, and whether more are due than it may.
-- So much of an index is read at once: most of what was read of each one up to the limit was of lanes that were too many.
local PAGE = 100
function promote(own, now, limit, lanes)
  local members, dues, used, more, total, others = {}, {}, {}, {}, 0, 0
  local page, text, due = math.min(limit, PAGE), nil, nil
  local function read(n)
    local to, at, known = members[n], dues[n], #members[n]
    local flat = redis.call('ZRANGE', K_NEAR[n], '-inf', now, 'BYSCORE', 'LIMIT', known, page, 'WITHSCORES')
    for i = 1, #flat, 2 do
      -- Many are due at the same moment.
      if flat[i + 1] ~= text then text, due = flat[i + 1], tonumber(flat[i + 1]) end
      known = known + 1
      to[known], at[known] = flat[i], due
    end
    more[n] = #flat == 2 * page
  end
  for _, n in ipairs(own) do
    members[n], dues[n], used[n] = {}, {}, 0
    read(n)
    total = total + #dues[n]
    if n % 4 > 0 then others = others + #dues[n] end
  end
  if total == 0 then return 0 end
  local left, met = limit, {}
  local function take(critical, most)
    local some = {}
    for _, n in ipairs(own) do
      if (n % 4 == 0) == critical and #dues[n] > 0 then some[#some + 1] = n end
    end
    -- Mostly all that is due is of one priority.
    local only = #some == 1 and some[1]
    for _ = 1, #some > 0 and most or 0 do
      local n = only or next_index(some, members, dues, used, critical)
      local i = n and used[n] + 1
      if not n or not dues[n][i] or lanes == 0 then return end
      if lanes then
        local lane = sub(members[n][i], 17)
        if not met[lane] then met[lane], lanes = not fair.has(lane), lanes - 1 end
      end
      used[n], left = i, left - 1
      if more[n] and i == #dues[n] then read(n) end
    end
  end
  local kept = lanes and others > 0 and math.min(math.ceil(lanes / 20), lanes - 1) or 0
  if lanes then lanes = lanes - kept end
  take(true, most_critical(limit, others))
  if lanes then lanes = lanes + kept end
  take(false, left)
  local deeper = next_index(own, members, dues, used, true) or next_index(own, members, dues, used, false)
  for _, n in ipairs(own) do
    local count = used[n]
    if count > 0 then
      for i = #members[n], count + 1, -1 do members[n][i], dues[n][i] = nil, nil end
      make_ready(n, members[n], dues[n])
      redis.call('ZREMRANGEBYRANK', K_NEAR[n], 0, count - 1)
    end
  end
  return limit - left, deeper ~= nil
end

-- How many lanes this script found active and put apart: those of paused queues, and those without permits.
n_parked = 0

-- The lanes of the given task types that are served and have ready work, critical or other.
function ready_lanes(types, served, now, critical)
  local lanes = {}
  for letter in string.gmatch(types, '.') do
    local of = served[byte(letter)]
    -- A type without a lane filter takes from the first lanes, whichever they are.
    local flat = of and whose.ready(letter, of, now, critical)
      or redis.call('ZRANGE', k_active(letter, critical), 0, whose.LANES - 1, 'WITHSCORES')
    for i = 1, #flat, 2 do
      -- A lane that was active when its queue was paused leaves here; those behind it are looked at by the next claim.
      if is_steered() and paused(flat[i]) then
        park(flat[i], critical, active_sets(flat[i], critical))
        n_parked = n_parked + 1
      elseif is_steered() and permits().hold_back(flat[i], critical, now) then
        n_parked = n_parked + 1
      else
        lanes[#lanes + 1] =
          { name = flat[i], start = tonumber(flat[i + 1]), critical = critical, key = k_ready(flat[i], critical), n = 0 }
      end
    end
  end
  return lanes
end

-- Whether anything served is ready.
function has_ready(types, served, now)
  for letter in string.gmatch(types, '.') do
    if redis.call('EXISTS', k_active(letter, true), k_active(letter, false)) > 0 then
      if not served[byte(letter)] then return true end
      if #ready_lanes(letter, served, now, true) > 0 or #ready_lanes(letter, served, now, false) > 0 then return true end
    end
  end
  return false
end

-- The lanes that a claim takes from, in the order of their turns.
function open_lanes(out, types, served, now, critical)
  local lanes = ready_lanes(types, served, now, critical)
  table.sort(lanes, function(a, b) return a.start < b.start or (a.start == b.start and a.name < b.name) end)
  for i = #lanes, whose.LANES + 1, -1 do lanes[i] = nil end
  for _, lane in ipairs(lanes) do out.turns[#out.turns + 1] = lane end
  return lanes
end

-- The lanes that a taker planned to take from in this partition: a flat list of lane, how many, and by how much each task moves the
-- lane back. They are looked up by name.
local function planned_lanes(out, plan)
  local lanes = {}
  for i = 1, #plan, 3 do
    local name = plan[i]
    local start = redis.call('ZSCORE', k_active(sub(name, 1, 1), false), name)
    if start and not paused(name) then
      local lane = { name = name, start = tonumber(start), critical = false, key = k_ready(name, false), n = 0,
        most = plan[i + 1], charge = plan[i + 2] }
      lanes[#lanes + 1] = lane
      out.turns[#out.turns + 1] = lane
    end
  end
  return lanes
end

-- Takes up to `count` ids from the ready set of a lane, from where it stopped. Returns how many.
local function take_lane(out, lane, count)
  if count <= 0 then return 0 end
  local limits = is_steered() and permits().of(lane.name)
  if limits then
    -- What is taken counts for all lanes of the queue.
    limits.room = limits.room or permits().room(limits, permits().now)
    if limits.room < count then count, lane.short = limits.room, true end
  end
  if count > 0 and fair.has(lane.name) then
    local took = fair.take(out, lane, count)
    if limits then limits.room = limits.room - took end
    if took < count then lane.short = false elseif lane.short then lane.dry = true end
    return took
  end
  local ids = count > 0 and redis.call('ZRANGE', lane.key, lane.n, lane.n + count - 1) or {}
  local ids_, keys, lanes, n = out.ids, out.keys, out.lanes, #out.ids
  for i, id in ipairs(ids) do
    ids_[n + i], keys[n + i], lanes[n + i] = id, lane.key, lane.name
  end
  lane.n = lane.n + #ids
  if limits then limits.room = limits.room - #ids end
  if #ids < count then lane.short = false end
  if #ids < count or lane.short then lane.dry = true end
  return #ids
end

-- Takes up to limit ids from the ready sets of open lanes; called again, it goes on where it stopped. Lanes take turns by virtual
-- start time, in equal shares. What a lane with little work leaves of its share goes to lanes that have more.
function take_ready(out, lanes, limit)
  local taken, open = 0, 0
  for _, lane in ipairs(lanes) do
    if not lane.dry and not lane.stopped then open = open + 1 end
  end
  -- Each round fills the limit or is the last one of a lane, so there are at most whose.LANES + 1.
  while taken < limit and open > 0 do
    local turns = open
    for _, lane in ipairs(lanes) do
      if taken < limit and not lane.dry and not lane.stopped then
        local share = math.ceil((limit - taken) / turns)
        turns = turns - 1
        taken = taken + take_lane(out, lane, share)
        if lane.dry or lane.stopped then open = open - 1 end
      end
    end
  end
  return taken
end

-- The same for critical lanes, which leave `kept` tasks to others: with these a twentieth of the looks at fairness keys, or there were
-- none left for them.
function take_critical(out, lanes, limit, kept)
  local looks = kept > 0 and math.ceil(fair.looks / 20) or 0
  fair.looks = fair.looks - looks
  local taken = take_ready(out, lanes, limit)
  fair.looks = fair.looks + looks
  return taken
end

-- After a claim: dry lanes leave their active sets, the others move back by what was taken from them. This comes last, because
-- a lane whose ready set is not empty must stay active if the claim stops half-way.
function take_turns(out)
  local ends = {}
  for _, lane in ipairs(out.turns) do
    local start = lane.start + lane.n * (lane.charge or 1)
    if lane.n > 0 then ends[lane.critical] = math.max(ends[lane.critical] or virtual_time(lane.critical), start) end
    if lane.dry and not (lane.short and redis.call('EXISTS', lane.key) == 1) then
      retire(lane.name, lane.critical)
    elseif lane.short and permits().hold_back(lane.name, lane.critical, permits().now) then
      -- It stands apart until there is room again.
    elseif lane.n > 0 then
      for _, set in ipairs(active_sets(lane.name, lane.critical)) do redis.call('ZADD', set, start, lane.name) end
    end
  end
  for critical, at in pairs(ends) do
    redis.call('HSET', K_CLOCK, turn_field(critical), at)
    turn_of[critical] = at
  end
end

-- The floor of tasks that are not critical: while some wait, one of every 20 tasks that are taken is theirs. What is owed to them and
-- less than a whole task is kept in the clock's hash under field, in twentieths.
function floor_of(field)
  return { field = field, owed = tonumber(redis.call('HGET', K_CLOCK, field) or '') or 0 }
end
-- How many of so many tasks critical ones leave to the others.
function reserve(floor, count) return math.min(count, math.floor((floor.owed + count) / 20)) end
-- Notes how many of both kinds were taken while both waited.
function settle_floor(floor, critical, others)
  local owed = math.min(math.max(floor.owed + critical - 19 * others, 0), 19)
  if owed ~= floor.owed then redis.call('HSET', K_CLOCK, floor.field, owed) end
end

-- Takes up to `slots` from ready sets, to be leased: critical first, the others keep their floor. plan: what the taker decided for this
-- partition, or nil. Returns how many.
function take_leased(out, letters, served, now, slots, floor_field, plan)
  local critical = open_lanes(out, letters, served, now, true)
  local of_critical, of_others = 0, 0
  if plan and plan.lanes then
    of_critical = take_critical(out, critical, math.min(plan.critical, slots), plan.others)
    for _, lane in ipairs(planned_lanes(out, plan.lanes)) do
      of_others = of_others + take_lane(out, lane, math.min(lane.most, slots - of_critical - of_others))
    end
    return of_critical + of_others
  end
  local others = open_lanes(out, letters, served, now, false)
  local floor = not plan and #critical > 0 and #others > 0 and floor_of(floor_field) or nil
  local kept = plan and math.min(plan.others, slots) or floor and reserve(floor, slots) or 0
  of_critical = take_critical(out, critical, slots - kept, kept)
  of_others = take_ready(out, others, slots - of_critical)
  -- the slots that were kept for the floor and not used
  of_critical = of_critical + take_ready(out, critical, slots - of_critical - of_others)
  if floor then settle_floor(floor, of_critical, of_others) end
  return of_critical + of_others
end

-- How long (ms) a guest leaves due WORKER tasks that it does not serve in near. Then it makes them ready: whoever comes to serve
-- them finds them there, and they no longer stand before what lies behind them. Tasks of other types are left to time keepers.
local GRACE = 1000

-- Takes due entries straight from the given near indexes: critical first (the others keep their floor), the rest by virtual deadline.
-- how[letter byte]: 1 leased, 2 fired in place (needs no slot), nil not served here; served: the lanes of limited types.
-- What cannot be taken becomes ready, and so does what is due of steered queues; but a guest stops when its slots are full, and leaves what it does not serve.
-- plan: what the taker decided for this partition, or nil.
-- Returns nil, and has written nothing, if something could be taken now that is taken from ready sets alone: then all that is due goes
-- that way. (While the rest was taken from near, a critical task of a queue with limits waited one claim behind tasks that are not.)
-- Returns: what the caller must pass to take_away at the end; how many entries became ready; when the first entry that a guest
-- left must become ready (ms, or nil); whether an index may hold more than was looked at; by index the first due time behind what it
-- took (ms; false where there is nothing), as far as it saw it.
function take_near(out, own, from, now, how, served, slots, limit, guest, floor_field, plan)
  local members, used, left, heads = {}, {}, {}, {}
  local total, only, full = 0, nil, false
  -- A guest reads more entries than it has slots, because some are tasks of others and some have lost their record.
  if guest then limit = math.min(limit, 2 * slots + 32) end
  for _, n in ipairs(own) do
    -- Most often nothing or one task is due: the first two show that, and what is due next.
    local two, found = whose.first_two(n, from), nil
    if two[4] and two[4] <= now then
      found = redis.call('ZRANGE', K_NEAR[n], from, now, 'BYSCORE', 'LIMIT', 0, limit)
    elseif two[2] and two[2] <= now then
      found, heads[n] = { two[1] }, two[4] or false
    else
      found, heads[n] = {}, two[2] or false
    end
    local count = #found
    members[n], used[n] = found, 0
    if count > 0 then
      total = total + count
      only = total == count and n or nil
      full = full or count == limit
    end
  end
  if total == 0 then return {}, 0, nil, false, heads end
  fair.crowded = full or total > slots
  local crowded = fair.crowded and fair.any()

  local ids, names, count, kinds = out.ids, out.members, #out.ids, {}
  local began = count
  -- So many tasks with a fairness key become ready here at most; a guest leaves most of them where they lie.
  local keyed = fair.looks
  -- Where a backlog waits in ready sets (from is not -inf), what is taken from these alone waits with it.
  local turns, in_turns = from == '-inf', false
  local function use(n, member)
    local letter = byte(member, 17)
    local kind = how[letter]
    local lane = kind and (steered or crowded or served[letter]) and sub(member, 17)
    if lane then
      -- Once for each lane: false where it is not served, 'slow' where it is taken from its ready set alone.
      local known = kinds[lane]
      if known == nil then
        known = (not served[letter] or whose.serves(served, lane) or false) and (steered and through_ready(lane) and 'slow' or true)
        kinds[lane] = known
      end
      if known == 'slow' and turns and not in_turns and (kind == 2 or slots > 0) then
        local limits = permits().of(lane)
        if limits and not paused(lane) then
          limits.room = limits.room or permits().room(limits, permits().now)
          in_turns = limits.room > 0
        end
      end
      if known ~= true then kind = nil end
    end
    if kind and crowded and fair.has(lane) then
      -- More is due than is taken: keys take turns among what is ready.
      in_turns = in_turns or turns and (kind == 2 or slots > 0)
      kind, fair.moved = nil, true
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
      if crowded and not guest and fair.has(lane or sub(member, 17)) then keyed = keyed - 1 end
    end
  end

  -- Forgets what was chosen, if all must be taken from ready sets.
  local function gives_up()
    if not in_turns then return false end
    for i = count, began + 1, -1 do ids[i], names[i] = nil, nil end
    out.once, fair.crowded, fair.moved = nil, false, false
    return true
  end

  if only then
    -- The common case: one priority is due. No scores are asked for.
    local found, i = members[only], 0
    while i < total and keyed > 0 and not in_turns and not (guest and slots == 0) do
      i = i + 1
      use(only, found[i])
    end
    if gives_up() then return nil end
    used[only], out.once = i, true
  else
    local dues, others = {}, 0
    for _, n in ipairs(own) do
      if #members[n] > 0 then members[n], dues[n] = due_members(n, from, now, limit) else dues[n] = {} end
      if n % 4 > 0 then others = others + #members[n] end
    end
    local function take(critical, most)
      for i = 1, most do
        local n = next_index(own, members, dues, used, critical)
        if not n or keyed == 0 or in_turns or guest and slots == 0 then return i - 1 end
        used[n] = used[n] + 1
        use(n, members[n][used[n]])
      end
      return most
    end
    local floor = not plan and others > 0 and others < total and floor_of(floor_field) or nil
    local kept = plan and math.min(plan.others, slots, others) or floor and math.min(reserve(floor, slots), others) or 0
    local kept_keyed = others > 0 and math.ceil(keyed / 20) or 0
    slots, keyed = slots - kept, keyed - kept_keyed
    local taken = take(true, floor and limit - math.min(reserve(floor, limit), others) or limit - kept)
    slots, keyed = slots + kept, keyed + kept_keyed
    local critical = count - began
    take(false, limit - taken)
    if gives_up() then return nil end
    if floor then settle_floor(floor, critical, count - began - critical) end
  end

  local gone, moved, again = {}, 0, nil
  for n, count_ in pairs(used) do
    if count_ < #members[n] then heads[n] = nil end
    local l = left[n]
    local stays, some = {}, false
    if l then
      local ready, dues = {}, {}
      for i, score in ipairs(redis.call('ZMSCORE', K_NEAR[n], unpack(l))) do
        local due = tonumber(score)
        if guest and (n < 4 or due > now - GRACE) and not (steered and through_ready(sub(l[i], 17)))
          and not (crowded and fair.has(sub(l[i], 17))) then
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
  return gone, moved, again, full or fair.moved or keyed == 0, heads
end

-- Removes from near what take_near used up: by rank from the first entry that is due after from, or by name.
function take_away(gone, now, fresh)
  for n, what in pairs(gone) do
    if type(what) == 'number' then
      local first = fresh > 0 and redis.call('ZCOUNT', K_NEAR[n], '-inf', now - fresh) or 0
      redis.call('ZREMRANGEBYRANK', K_NEAR[n], first, first + what - 1)
    elseif #what > 0 then
      redis.call('ZREM', K_NEAR[n], unpack(what))
    end
  end
end

end
