#!lua flags=allow-oom
-- Brings grants of permits into one partition, takes back what it does not use where others wait, and reports what it has and needs.
-- KEYS  1 hash tag of the partition
-- ARGV  1 '' or where a sweep goes on ('0' from the start): a sweep also reports pools that nobody asked for, takes back what nobody
--       waits for, and forgets permits whose task left its lease unnoticed,
--       2 how many lanes follow, as in claim.lua from 16 on: those that living members serve, of types that are not served in all lanes;
--       of such a type its letter with '!' as well. What waits in other lanes does not count, because nobody would use a permit for it.
--       Lanes with needs are served where those without are; but for those that follow with '-' before them, which nobody can run,
--       then (pool, grant's number or 0, budget by that grant, until when it is good ms, cap or -1: report only, -2: take back
--       what cannot be used) ...
-- REPLY {now ms, where the sweep goes on ('' = it is done), lanes with needs in which tasks wait that counted as served, then for
--       each pool {pool, budget, number of the last grant, how many it could use, by when the first that waits is ordered ms,
--       1 = permits were given back here, when the next comes free by time ms (-1 none), 1 = tasks wait that nobody serves} ...}
-- ERRORS TRYAGAIN (nothing written)
-- BOUND 200 pools asked for, 1,000 lanes; a sweep takes 300 a call; 1,000 lanes of a queue; names 64 lanes; stamps 1,000 permits anew
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/guard.lua
--@include lib/pauses.lua
--@include lib/turns.lua
--@include lib/limits.lua
-- How long a cap counts. Whoever waits asks again earlier.
local CAP_MS = 1000
-- Critical tasks are ordered as if they had been due this much (ms) earlier.
local AHEAD = 3600000
local PART, STRAYS, NAMED = 100, 50, 64
-- For how long it counts that nobody serves a lane, whose keys a sweep sees once a second; and of how many.
local UNSERVED_MS, MOST_UNSERVED = 5000, 500
local now = now_ms()
local asked, order = {}, {}
local function ask(pool)
  if not asked[pool] then
    asked[pool] = {}
    order[#order + 1] = pool
  end
  return asked[pool]
end
local keys = { K_CLOCK, permits().K, K_LIMITED, permits().HELD, permits().APART, permits().HELD_KEYS, permits().UNSERVED }
local lanes_end = 2 + tonumber(ARGV[2])
for i = lanes_end + 1, #ARGV, 5 do
  local one = ask(ARGV[i])
  one.seq, one.budget, one.good, one.cap =
    tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4])
  keys[#keys + 1] = permits().k_used(ARGV[i])
end
local err = guard(keys)
if err then return err end

-- A sweep walks the pools that have an entry here, and the queues that are held. Its place: cursor, colon, rank.
local next_place = ''
if ARGV[1] ~= '' then
  local cursor, rank = string.match(ARGV[1], '^(%d*):?(%d*)$')
  rank = tonumber(rank) or 0
  local more = false
  if cursor ~= '' then
    local page = redis.call('HSCAN', permits().K, cursor, 'COUNT', PART)
    for i = 1, #page[2], 2 do ask(page[2][i]).sweep = true end
    cursor = page[1] == '0' and '' or page[1]
  end
  local held = redis.call('ZRANGE', permits().HELD, rank, rank + PART - 1)
  for _, queue in ipairs(held) do
    local limits = permits().of('w' .. queue)
    if not limits then permits().look_again(queue, now, true) end
    for _, limit in ipairs(limits or {}) do ask(limit.pool).sweep = true end
  end
  -- Limit keys that had no place among those that are known.
  local free = permits().MOST_KNOWN - redis.call('HLEN', permits().K)
  local late = redis.call('ZRANGE', permits().HELD_KEYS, permits().WITHOUT_PLACE, '+inf', 'BYSCORE', 'LIMIT', 0, math.min(PART, math.max(free, 0)))
  for _, name in ipairs(late) do
    local limits = permits().named(name)
    if not limits or permits().has_place(limits) then redis.call('ZADD', permits().HELD_KEYS, permits().FOREVER, name) end
    for _, limit in ipairs(limits or {}) do ask(limit.pool).sweep = true end
  end
  if cursor ~= '' or #held == PART then next_place = cursor .. ':' .. int(rank + #held) end
end

-- Whether anybody serves a lane, as far as is known.
local served, unable
local function is_served(lane)
  if not served then
    served, unable = {}, {}
    for i = 3, lanes_end do
      local of = served[byte(ARGV[i])] or {}
      if byte(ARGV[i]) == 45 then
        unable[sub(ARGV[i], 2)] = true
      else
        served[byte(ARGV[i])] = of
        of[byte(ARGV[i], 2) == 42 and '*' .. (string.match(ARGV[i], ':(.*)') or '') or ARGV[i]] = true
      end
    end
  end
  if unable[lane] then return false end
  local of, plain = served[byte(lane)], string.match(lane, '^(.-):?!') or lane
  return not of or of[plain] or of['*' .. (string.match(plain, ':(.*)') or '')] or false
end

-- What waits of a queue, or of a limit key: how many tasks, and by when the first is ordered; whether some are served by nobody.
local waits_of, named, with_needs = {}, {}, {}
-- Lanes with tasks that stand apart: whether anybody serves them.
local apart = {}
local function waiting(queue)
  local known = waits_of[queue]
  if not known then
    known = { count = 0, deadline = 0, others = 0 }
    local function look(set, lane, critical)
      local head = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')[2]
      if head and not is_served(lane) then
        known.others = 1
      elseif head then
        local deadline = tonumber(head) - (critical and AHEAD or 0)
        if known.count == 0 or deadline < known.deadline then known.deadline = deadline end
        known.count = known.count + redis.call('ZCARD', set)
        if not named[lane] and string.find(lane, '!', 1, true) then named[lane], with_needs[#with_needs + 1] = true, lane end
      end
    end
    if string.find(queue, '\1', 1, true) then
      for _, set in ipairs(permits().sets(queue)) do
        apart[set.lane] = is_served(set.lane)
        look(set.key, set.lane, set.critical)
      end
    else
      for _, member in ipairs(permits().lanes(queue)) do
        local lane, critical = parked_parts(member)
        look(k_ready(lane, critical), lane, critical)
      end
    end
    waits_of[queue] = known
  end
  return known
end

-- Permits of tasks that are in no lease any more: a node of an earlier version took them out, or a script was stopped half-way.
local function forget_strays(key)
  local ids = redis.call('ZRANGE', key, '+inf', '+inf', 'BYSCORE', 'LIMIT', 0, STRAYS)
  if #ids == 0 then return end
  local leases, gone = redis.call('HMGET', K_LEASED, unpack(ids)), {}
  for i, id in ipairs(ids) do
    if not leases[i] then gone[#gone + 1] = id end
  end
  if #gone > 0 then redis.call('ZREM', key, unpack(gone)) end
end

-- A permit of a rate is in use for the rule's time at most, and that of a task that was acked first for as long as its holder asks for.
-- What is stamped with a later moment was used while a slower rate held, or before the clock was set back: its queue would stand still for
-- as long as that interval was, or that step.
local unstamped = 1000
local function stamp_anew(key, latest)
  local ids = redis.call('ZRANGE', key, '(' .. int(latest), '(+inf', 'BYSCORE', 'LIMIT', 0, unstamped)
  unstamped = unstamped - #ids
  for _, id in ipairs(ids) do redis.call('ZADD', key, 'XX', latest, id) end
end

local touched, reports, kept = {}, {}, nil
for _, pool in ipairs(order) do
  local one, queue = asked[pool], sub(pool, 2)
  local limit
  for _, l in ipairs(paused('w' .. string.match(queue, '^[^\1]*')) and {} or is_steered() and permits().named(queue) or {}) do
    if l.pool == pool then limit = l end
  end
  local key, b = permits().k_used(pool), permits().budget(pool)
  local before = b.budget
  if one.seq and one.seq > b.seq and now <= one.good then b.budget, b.seq, b.upto = one.budget, one.seq, 0 end
  if one.cap and one.cap >= 0 then b.cap, b.upto = one.cap, now + CAP_MS end
  if one.sweep and byte(pool) == 99 then
    forget_strays(key)
    kept = kept or permits().kept_ms()
    stamp_anew(key, now + kept)
  end
  redis.call('ZREMRANGEBYSCORE', key, '-inf', '(' .. int(now))
  if limit and limit.hold > 0 then stamp_anew(key, now + limit.hold) end
  local used = redis.call('ZCARD', key)
  local waits = limit and waiting(queue) or { count = 0, deadline = 0, others = 0 }
  local want = math.min(used + waits.count, limit and limit.most or used)
  local had = b.budget
  if now < b.upto then b.budget = math.min(b.budget, math.max(b.cap, used)) end
  if one.sweep or one.cap == -2 or not limit then b.budget = math.min(b.budget, math.max(want, used)) end
  if limit then b.budget = math.min(b.budget, math.max(limit.most, used)) end
  if b.budget == 0 and want == 0 and used == 0 then
    redis.call('HDEL', permits().K, pool)
  elseif before ~= b.budget or one.seq then
    redis.call('HSET', permits().K, pool, string.format('%.0f %.0f %.0f %.0f', b.budget, b.seq, b.cap, b.upto))
  end
  local free_at = -1
  if now < b.upto and b.budget > b.cap and limit and limit.hold > 0 then
    local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]
    if first then free_at = tonumber(first) + 1 end
  end
  touched[queue] = true
  reports[#reports + 1] = { pool, b.budget, b.seq, want, int(waits.deadline), b.budget < had and 1 or 0, free_at, waits.others }
end
if next(apart) then
  local known = redis.call('ZCARD', permits().UNSERVED)
  for lane, is in pairs(apart) do
    if is and known > 0 then
      redis.call('ZREM', permits().UNSERVED, lane)
    elseif not is and known < MOST_UNSERVED then
      known = known + redis.call('ZADD', permits().UNSERVED, now + UNSERVED_MS, lane)
    elseif not is then
      redis.call('ZADD', permits().UNSERVED, 'XX', now + UNSERVED_MS, lane)
    end
  end
  if known > 0 then
    redis.call('PEXPIRE', permits().UNSERVED, UNSERVED_MS)
    redis.call('ZREMRANGEBYSCORE', permits().UNSERVED, '-inf', now)
  end
end
for queue in pairs(touched) do permits().look_again(queue, now, true) end
-- Of many of them others each time.
local some = {}
for i = 1, math.min(#with_needs, NAMED) do some[i] = with_needs[(now + i) % #with_needs + 1] end
return { now, next_place, some, unpack(reports) }
