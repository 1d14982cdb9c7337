-- ends.few(): the reply to the claim of nothing or of a few plain tasks, which is what most claims find. Nothing of what stands behind this
-- file in claim.lua is even made for these, because that takes longer than all else. Needs what stands above it there.
-- Where keys take turns, something is ready or may have permits again, a task's queue has rules, or the tasks that are due have several
-- priorities or home buckets, there is no reply, and nothing was written. ends.begun: whether something was; ends.some: where more is due
-- than a few, the first of these are taken, and the reply says that more may be due.

-- Most tasks that are claimed here. Where a partition has some hundred tasks a second, few claims bring more.
ends.FEW = 8
function ends.few()
  ends.active = {}
  for letter in string.gmatch(types .. (channel ~= '' and 'p' or ''), '.') do
    ends.active[#ends.active + 1], ends.active[#ends.active + 2] = k_active(letter, true), k_active(letter, false)
  end
  if not ((slots > 1 or channel ~= '') and most > 1 and (ARGV[15] == '' or ARGV[15] == 's') and not ends.read[7]) then return end
  local held = ends.read[6] and ends.held_until()
  if held and held <= now or fresh == 0 and #ends.active > 0 and redis.call('EXISTS', unpack(ends.active)) > 0 then return end
  -- found: the one near index in which something is due; due: what is due next behind that.
  local found, several, few, more, due = nil, false, true, false, -1
  for _, n in ipairs(own) do
    local two = whose.first_two(n, from)
    local left = two[2]
    if left and left <= now then
      few, found, several = not found, n, two[4] and two[4] <= now
      left = not several and two[4]
      if not few then return end
    end
    if left and (due < 0 or left < due) then due = left end
  end
  local members = found and { whose.first_two(found, from)[1] } or {}
  if several then
    members = {}
    local flat, behind = redis.call('ZRANGE', K_NEAR[found], from, '+inf', 'BYSCORE', 'LIMIT', 0, ends.FEW + 1, 'WITHSCORES'), nil
    for i = 1, #flat, 2 do
      behind = tonumber(flat[i + 1])
      if behind > now then break end
      members[#members + 1], behind = flat[i], nil
    end
    if #members > ends.FEW then
      -- In `claims` the first ones are taken at once, so that they do not wait for those behind them. Not by guests: each claim that leaves
      -- something calls other guests.
      if not ends.some or ends.read[6] or ARGV[15] ~= '' then return end
      more, behind, members[#members] = true, tonumber(flat[#flat]), nil
    end
    if behind and (due < 0 or behind < due) then due = behind end
  end

  local ids, number, records = {}, nil, {}
  for i, member in ipairs(members) do
    local id = sub(member, 1, 16)
    local home = math.floor(id_due(id) / W)
    ids[i], number, few = id, home, few and (number or home) == home
  end
  if not few or #ids >= most then return end
  if number then records = redis.call('HMGET', k_bucket(number), unpack(ids)) end
  local leased, fired, lateness, named, by_lane, lanes, bytes = {}, {}, {}, {}, {}, {}, 0
  for i, id in ipairs(ids) do
    local rec, lane = records[i] or '', sub(members[i], 17)
    local kind, flags, its_due, at = rec_head(id, rec)
    bytes = bytes + #rec
    -- An idempotency key may be a lock, which ends here.
    few = kind == 'ok' and its_due <= now and bytes <= max_bytes and not (byte(rec, 1) >= FRESH_EXT and is_keyed(flags))
      and rec_lane(rec, at) == lane and how[byte(lane)]
    if not few then return end
    if by_lane[lane] == nil then
      few = whose.serves(served, lane)
      if few and ends.read[6] then
        local paused, rules = steered_rules(string.match(lane, '^.([^:]*)'))
        few = not paused and (rules or '') == ''
      end
      by_lane[lane] = 0
    end
    if few and how[byte(lane)] == 2 and byte(rec, 1) < FRESH_EXT and may_fire_in_place(flags) then
      -- A key outlives its task, for as long as the rules say.
      few = not is_keyed(flags)
      local body, n = body_at(rec, at, flags), #fired + 1
      fired[n], lateness[n] = ends.message(id, rec, body), now - its_due
      if by_lane[lane] == 0 then lanes[#lanes + 1] = lane end
      by_lane[lane] = by_lane[lane] + 1
      if ARGV[16] ~= '' then named[2 * n - 1], named[2 * n] = id, ends.named(rec, body) end
    elseif few then
      local attempt, losses, deliveries = rec_counters(rec)
      leased[#leased + 1], leased[#leased + 2] = id, rec_build(rec, at, flags, attempt, losses, deliveries + 1, its_due)
      few = #leased < 2 * slots
    end
    if not few then return end
  end

  local err = number and guard({ k_bucket(number) })
  if err then return err end
  ends.begun = true
  -- Destinations first, then sources, hints last (rule 1).
  if #leased > 0 then ends.lease(leased) end
  local unheard, trimmed = ends.publish(fired)
  if number then
    ends.take_out(number, ids)
    redis.call('ZREM', K_NEAR[found], unpack(members))
  end
  if held and (due < 0 or held < due) then due = held end
  ends.promise(due)
  for i = #lanes, 1, -1 do lanes[2 * i - 1], lanes[2 * i] = lanes[i], by_lane[lanes[i]] end
  return { now, due, leased, lateness, { unheard, 0, 0, trimmed, 0, more and 1 or 0, 0, alone == 4 and fresh == 0 and not (more or ends.read[6]) and 1 or 0 }, lanes, {}, named,
    whose.met }
end
