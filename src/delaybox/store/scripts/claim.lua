#!lua flags=allow-oom
-- Takes what is due in one partition: leases it to the caller, or fires it in place (PUB_SUB on this very server).
-- KEYS  1 hash tag of the partition
-- ARGV  1 lease id (16 bytes; the same id again gets the same content), 2 bucket width ms, 3 lease ms, 4 free slots,
--       5 most items (<= 500), 6 most bytes of leased records, 7 letters of the task types served by lease,
--       8 channel for firing in place ('' = lease PUB_SUB as well, if its letter is in 7), 9 length of the stream (0 = none),
--       10 poll ms, 11 how long idempotency keys outlive their task ms,
--       12 0, or: take only what is late by less than this (ms) and not ready yet, so that a backlog can wait,
--       13 1 = a guest (not a time keeper): it takes what it serves and leaves everything else where it lies,
--       14 the member that looks, where it keeps time, 15 what the taker decided for this partition: '' nothing; 's' = queues have
--       weights, so where more is due than there are slots nothing is leased and the reply says so; or (msgpack) {critical tasks,
--       other tasks[, lane, how many of these, by how much each moves the lane back, ...]}, 16 the reply names what was fired in
--       place: 'h' with the heads of records, 'r' with whole ones, '' not at all, 17.. lanes: of a type letter that is named
--       here only these lanes are served; '*' for the queue stands for any queue
-- REPLY {now ms, when to look next at near (-1 nothing there), leased {id, record, ...}, lateness ms of each fired in place,
--        {fired without a listener, hints dropped, quarantined, stream entries trimmed, made ready, 1 = more may be due, 1 = more
--        waits than there are slots, so nothing was leased ('s')[, of a guest that takes WORKER tasks: 1 = none is due here any more]},
--        lanes of what was fired in place {lane, how many, ...},
--        queues and limit keys that have no permits left for what is ready {name, 1 = this partition has none at all, 2 = it has some, and a
--        critical task waits, ...},
--        what was fired in place {id, record or head, ...},
--        lanes with needs that are not named here, while their functions are (lib/served.lua)}
-- ERRORS TRYAGAIN (nothing written but hints)
-- BOUND 500 items, 256 KiB of records; it makes 64 tasks with a fairness key ready, and beside ready work tasks of 64 lanes, where each
--       with such a key counts as a lane; it looks 64 times for what a key has
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/guard.lua
--@include lib/served.lua
--@include lib/claiming.lua
--@include lib/few.lua
if redis.call('EXISTS', lease) == 1 then
  return { now, ends.next_due(from, {}), redis.call('HGETALL', lease), {}, { 0, 0, 0, 0, 0, 1, 0 }, {}, {}, {} }
end
local err = MOVES and guard({ lease, K_BUCKETS, K_CLOCK, K_LEASES, K_LEASED, K_QUAR, K_QUAR_AT, unpack(K_NEAR, 0, 11) })
if err then return err end
ends.read = clock_fields()
do
  local reply = ends.few()
  if reply then return reply end
end

--@include lib/pauses.lua
--@include lib/turns.lua
--@include lib/limits.lua
--@include lib/one_lane.lua
--@include lib/extension.lua
--@include lib/gather.lua
--@include lib/fair.lua
--@include lib/hint.lua
--@include lib/place.lua
--@include lib/ended.lua
--@include lib/forget.lua
--@include lib/limit_keys.lua
--@include lib/permits.lua
--@include lib/claim_order.lua
--@include lib/waiting.lua
fair.W = W
local c = clock(now, ends.read)
set_steered(c.steered)
if c.steered then
  -- What permits needs is not made before something is held, or a queue has a limit: most claims meet neither.
  permits.now, permits.W, permits.fires = now, W, how[112] == 2 and 112
  held_back = function(lane, critical) return rule_of(lane, 'limited') and permits().hold_back(lane, critical, now) end
  if redis.call('EXISTS', T .. ':held', T .. ':held:keys') > 0 then
    -- Queues that have room again, because what they used of a rate was used long enough ago.
    for _, queue in ipairs(redis.call('ZRANGE', permits().HELD, '-inf', now, 'BYSCORE', 'LIMIT', 0, 32)) do permits().look_again(queue, now, false) end
    for _, name in ipairs(redis.call('ZRANGE', permits().HELD_KEYS, '-inf', now, 'BYSCORE', 'LIMIT', 0, 32)) do permits().look_again(name, now, true) end
  end
end

-- 1. Candidates: straight from near while nothing that this taker serves is ready, else through ready.
local free = channel ~= '' and 'p' or ''
local letters = slots > 0 and string.gsub(types, free ~= '' and 'p' or '%z', '') or ''
local candidates = { ids = {}, keys = {}, members = {}, lanes = {}, turns = {} }
local gone, promoted, again_at, full, heads = nil, 0, nil, false, {}
local plan, pressed = nil, false
if ARGV[15] ~= '' then
  if ARGV[15] ~= 's' then
    local parts = cmsgpack.unpack(ARGV[15])
    plan = { critical = parts[1], others = parts[2], lanes = parts[3] and { unpack(parts, 3) } }
  elseif letters ~= '' then
    -- So many of each near index are looked at to see whether more of them are served than there are slots.
    local of_critical, of_others = whose.in_near(own, from, now, letters, served, math.min(slots + 1, 64))
    pressed = of_critical + of_others > slots or fresh == 0 and has_ready(letters, served, now)
    if pressed then slots, letters = 0, '' end
  end
end
local backlog = has_ready(fresh > 0 and '' or free .. letters, served, now)
if not backlog then
  gone, promoted, again_at, full, heads = take_near(candidates, own, from, now, how, served, slots, most, guest, floor_field, plan)
  backlog = not gone
end
if backlog then
  heads = {}
  -- With a slot or two, the twentieth that is kept for tasks which are not critical would be rounded up to a half.
  promoted, ends.deeper = promote(own, now, math.max(most, 100), fair.looks)
  if free ~= '' then
    local critical = open_lanes(candidates, free, served, now, true)
    local others = open_lanes(candidates, free, served, now, false)
    local floor = #critical > 0 and #others > 0 and floor_of('floor:p') or nil
    local kept = floor and reserve(floor, most) or 0
    local of_critical = take_critical(candidates, critical, most - kept, kept)
    if slots > 0 then take_leased(candidates, letters, served, now, math.min(slots, most - of_critical), floor_field, plan) end
    local of_others = take_ready(candidates, others, most - #candidates.ids)
    if floor then settle_floor(floor, of_critical, of_others) end
  elseif slots > 0 then
    take_leased(candidates, letters, served, now, math.min(slots, most), floor_field, plan)
  end
end

-- 2. Their records, in the order of the candidates.
local ids = candidates.ids
local n_ids = #ids
local groups, births, records, home = {}, {}, {}, {}
do
local group_of, last, group, birth = {}, nil, nil, nil
for i = 1, n_ids do
  local prefix = sub(ids[i], 1, 6)
  if prefix ~= last then
    last, birth = prefix, id_due(prefix)
    local number = math.floor(birth / W)
    group = group_of[number]
    if not group then
      group = { number = number, key = k_bucket(number), ids = {}, at = {}, gone = {} }
      group_of[number] = group
      groups[#groups + 1] = group
    end
  end
  births[i], home[i] = birth, group
end
if #groups == 1 then
  -- As of most claims.
  records = redis.call('HMGET', groups[1].key, unpack(ids))
else
  for i = 1, n_ids do
    local to = home[i]
    to.ids[#to.ids + 1], to.at[#to.at + 1] = ids[i], i
  end
  for _, g in ipairs(groups) do
    local got = redis.call('HMGET', g.key, unpack(g.ids))
    for j, i in ipairs(g.at) do records[i] = got[j] end
  end
end
end

-- 3. What becomes of each: leased, fired, indexed again, put back, quarantined, or a hint without a record.
local leased, fired, again = {}, {}, gather()
local lateness, by_lane = {}, {}
-- Those with an idempotency key; what the reply names.
fired.keyed, fired.named = {}, {}
local sour, pointers, put_back, touched, locks = {}, {}, {}, {}, {}
local dropped, n_leased = 0, 0
do
local bytes, horizon, fresh_head, seen, names = 0, c.horizon, {}, not candidates.once and {} or nil, ARGV[16] ~= ''
for i = 1, n_ids do
  local id, rec = ids[i], records[i]
  if not rec or rec == '' or seen and seen[id] then
    -- nothing there, or the second of two hints (another priority's, left by a script that stopped half-way)
    dropped = dropped + 1
    fair.no_turn(candidates, i)
  else
    if seen then seen[id] = true end
    local first, flags, size = byte(rec, 1, 3)
    local kind, due, at, keyless
    if (first == FRESH or first == FRESH_EXT) and size and size > 0 and flags < 8 and #rec >= 3 + size then
      -- the same as rec_head returns, without the call
      kind, due, at = 'ok', births[i], 3
      if first == FRESH_EXT then
        local high, low, tag, entry_high, entry_low = byte(rec, 4 + size, 8 + size)
        if not low or #rec < 5 + size + 256 * high + low then kind = 'bad' end
        -- Whether its extension has but one entry, which is no fairness key, as of most.
        keyless = entry_low and tag ~= EXT_FAIR_KEY and 256 * high + low == 256 * entry_high + entry_low + 3
      end
    else
      kind, flags, due, at = rec_head(id, rec)
    end
    if kind == 'ok' and due <= now then
      local does = how[byte(rec, at + 1)]
      -- the same as rec_lane compared, without the call
      local lane = candidates.lanes[i]
      local stale = lane and (byte(rec, at) ~= #lane or sub(rec, at + 1, at + #lane) ~= lane)
      if does == 2 and (first >= FRESH_EXT or not may_fire_in_place(flags)) then does = 1 end
      if stale then
        -- It was replaced by a task of another lane, and an entry of the former one names it still: that of a fairness key, or one beside
        -- a hint in near, as they stand together once the clock went back. It has its hint in its own lane.
        dropped, seen[id] = dropped + 1, nil
        fair.no_turn(candidates, i)
      elseif c.steered and candidates.lanes[i] and (does == 1 and n_leased < slots or does == 2)
        and permits().blocks(candidates, i, id, rec, at, flags, due + slack_of(rec_lane(rec, at), flags % 4)) then
        -- A limit key of it has no room: it stands apart, and no other waits for it.
      elseif does == 1 and n_leased < slots and bytes + #rec <= max_bytes then
        bytes = bytes + #rec
        n_leased = n_leased + 1
        local from_home = home[i].gone
        from_home[#from_home + 1] = id
        leased[2 * n_leased - 1] = id
        if c.steered and candidates.lanes[i] then rec, first, at = permits().lend(id, rec, at, flags, due, now) end
        -- Its lane was not known to have keys any more.
        if fair.crowded and first >= FRESH_EXT and not keyless then fair.note(rec, flags, rec_lane(rec, at), due) end
        if first == FRESH or first == FRESH_EXT and flags < 8 then
          -- the same as rec_build returns for a fresh record's first delivery
          local start = fresh_head[256 * first + flags]
          if not start then
            start = string.char(first + FULL - FRESH, flags, 0, 0, 0, 0, 0, 0, 1)
            fresh_head[256 * first + flags] = start
          end
          leased[2 * n_leased] = start .. sub(id, 1, 6) .. sub(rec, 3)
        else
          local attempt, losses, deliveries = rec_counters(rec)
          leased[2 * n_leased] = rec_build(rec, at, flags, attempt, losses, deliveries + 1, due)
          if first >= FRESH_EXT and is_keyed(flags) and ext_get(rec, at, flags, EXT_LOCK) == 'p' then
            locks[#locks + 1] = 2 * n_leased
            touched[#touched + 1] = k_idem(rec_key(rec, at))
          end
        end
      elseif does == 2 then
        local from_home = home[i].gone
        from_home[#from_home + 1] = id
        -- Nothing that is fired in place has an extension, or a body apart. Without a key its body stands behind the lane.
        local lane_stop, keyed = at + byte(rec, at), is_keyed(flags)
        local body = keyed and body_at(rec, at, flags) or lane_stop + 1
        local n = #fired + 1
        fired[n], lateness[n] = ends.message(id, rec, body), now - due
        local its_lane = sub(rec, at + 1, lane_stop)
        by_lane[its_lane] = (by_lane[its_lane] or 0) + 1
        if names then
          n = #fired.named
          fired.named[n + 1], fired.named[n + 2] = id, ends.named(rec, body)
        end
        if c.steered and candidates.lanes[i] then permits().fire(id, rec, at, now) end
        if keyed then
          touched[#touched + 1] = k_idem(rec_key(rec, at))
          fired.keyed[#fired.keyed + 1] = { id, rec, flags, at }
        end
      else
        fair.no_turn(candidates, i)
        put_back[#put_back + 1] = { id, rec_lane(rec, at), flags % 4, due, rec, flags }
      end
    elseif kind == 'ok' then
      local lane = rec_lane(rec, at)
      fair.no_turn(candidates, i)
      if due < horizon then add2(again, K_NEAR[near_of(flags, lane)], due, id .. lane)
      else pointers[#pointers + 1] = { id, flags, lane, due } end
    elseif kind == 'bad' then
      sour[#sour + 1] = { id, rec }
      local from_home = home[i].gone
      from_home[#from_home + 1] = id
    else
      -- a newer node will serve it; looked at again in a minute
      local member = candidates.members[i] or id .. candidates.lanes[i]
      add2(again, K_NEAR[2 + near_base(byte(member, 17))], now + 60000, member)
    end
  end
end
end

for _, g in ipairs(groups) do touched[#touched + 1] = g.key end
for _, key in ipairs(permits.using and permits.touches() or {}) do touched[#touched + 1] = key end
err = guard(touched)
if err then return whose.call_left(now) or err end

-- 4. Destinations first, then sources, hints last (rule 1). Permits before all: one that is used for nothing comes back by itself.
if permits.using then permits.write(permits.using, now) end
for _, i in ipairs(locks) do -- Its idempotency key is a lock for as long as it waits.
  local id, rec = leased[i - 1], leased[i]
  local _, flags, _, at = rec_head(id, rec)
  leased[i] = unlock(id, rec, flags, at, 'p')
end
if n_leased > 0 then ends.lease(leased) end
local without_listeners, trimmed = ends.publish(fired)
for _, f in ipairs(fired.keyed) do forget(f[1], f[2], f[3], f[4], ARGV[11]) end
for _, s in ipairs(sour) do
  redis.call('HSET', K_QUAR, s[1], s[2])
  redis.call('ZADD', K_QUAR_AT, now, s[1])
end
for _, g in ipairs(groups) do
  if #g.gone > 0 then ends.take_out(g.number, g.gone) end
end
if gone then
  take_away(gone, now, fresh)
else
  local stale = gather()
  for i, id in ipairs(ids) do add1(stale, candidates.keys[i], id) end
  flush(stale, 'ZREM')
  if fair.any() then fair.settle(candidates, records) end
  dropped = dropped + fair.passed
  take_turns(candidates)
end
flush(again, 'ZADD')
do
local keyed = {}
fair.again()
for _, b in ipairs(put_back) do
  -- over the bytes or the slots of this claim: ready for the next one
  redis.call('ZADD', k_ready(b[2], b[3] == 0), b[4] + slack_of(b[2], b[3]), b[1])
  activate(b[2], b[3] == 0)
  if byte(b[5], 1) >= FRESH_EXT then fair.note(b[5], b[6], b[2], b[4]) end
  if fair.has(b[2]) then keyed[#keyed + 1] = { b[1], b[2], b[3] == 0, b[4] + slack_of(b[2], b[3]) } end
end
if #keyed > 0 then fair.enlist(keyed, W) end
end
whose.call_left(now)
for _, p in ipairs(pointers) do hint(p[1], p[2], p[3], p[4], W, c) end

-- What is due and still in near: a guest left it to others, so it does not count; any other taker claims it next time.
local due = ends.next_due(guest and '(' .. int(now) or from, #again.order == 0 and heads or {})
if permits.using then due = ends.sooner(due) end
ends.promise(due)
-- Those who serve what became ready here look for it now: they do not wait for what is due to others.
if not guest and promoted > 0 then redis.call(NOTIFY, T .. ':ready', T) end
-- A guest also looks again when what it left must become ready. That moment stands in its reply alone and not in `wake`,
-- because nobody else goes by it.
if again_at and (due < 0 or again_at < due) then due = again_at end
local progress = n_leased > 0 or #fired > 0 or dropped > 0 or permits.moved
-- One that found only tasks of others looks again after 20 ms, because its own may lie behind them.
if guest and (full or backlog) and not progress then due = promoted > 0 and now or now + 20 end
-- What became ready here because its queue is steered, and has room, is taken by the next look.
if n_parked > 0 or fair.moved or gone and c.steered and promoted > 0 and has_ready(free .. letters, served, now) then due = now end
-- One without slots only looks, so what waits for it counts: a look may have found nothing just before it came.
if guest and slots == 0 and (whose.waits(own, from, now, types, served) or has_ready(types, served, now)) then due = now end
-- Whether something is left is known only now: it may have taken all that is ready, or all that has permits.
if backlog then backlog = n_leased >= slots or ends.deeper or has_ready(free .. letters, served, now) end
local more = progress and (n_ids >= most or #put_back > 0 or backlog or guest and (full or n_leased >= slots))
-- Whether no WORKER task of any lane is due any more, so that guests with other lanes need not look: the near indexes were read to their
-- end, nothing was left there or made ready, and nothing was ready before.
ends.clear = alone == 4 and fresh == 0 and gone and not full and not again_at and promoted == 0 and #put_back == 0 and n_leased < slots
  and not c.steered and redis.call('EXISTS', unpack(ends.active)) == 0
local lanes = {}
for lane, count in pairs(by_lane) do
  lanes[#lanes + 1] = lane
  lanes[#lanes + 1] = count
end
return { now, due, leased, lateness, { without_listeners, dropped, #sour, trimmed, promoted, more and 1 or 0, pressed and 1 or 0, ends.clear and 1 or 0 }, lanes, permits.using and permits.waits() or {}, fired.named, whose.met }
