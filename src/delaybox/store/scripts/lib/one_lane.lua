-- The claim of one limited lane while nothing else is due or ready: what claims beside a limited queue with a backlog find most. It does what
-- the files behind it would, without making any of their functions. Needs what stands above it in claim.lua.

-- due, or when a queue or limit key that is held is looked at again, whichever comes first.
function ends.sooner(due)
  local at = ends.held_until()
  return at and (due < 0 or at < due) and at or due
end

repeat
  if not ends.read[6] or ends.read[7] or fresh > 0 or channel ~= '' or ARGV[15] ~= '' then break end
  local due = -1
  for _, n in ipairs(own) do
    local first = whose.first_two(n, from)[2]
    if first and (due < 0 or first < due) then due = first end
  end
  if due >= 0 and due <= now then break end
  set_steered(true)
  -- Its queue was held until now, or it is the only one that is active; then it has a start.
  local queue, other = unpack(redis.call('ZRANGE', T .. ':held', '-inf', now, 'BYSCORE', 'LIMIT', 0, 2))
  local lane, critical, start
  if other or #ends.active == 0 or redis.call('ZCOUNT', T .. ':held:keys', '-inf', now) > 0 then break end
  if queue then
    if redis.call('EXISTS', unpack(ends.active)) > 0 then break end
    local member, another = unpack(redis.call('ZRANGE', K_LIMITED, '[' .. queue .. '\0', '(' .. queue .. '\1', 'BYLEX', 'LIMIT', 0, 2))
    if not member or another then break end
    lane, critical = parked_parts(member)
  else
    local active = {}
    for i, key in ipairs(ends.active) do
      local found = redis.call('ZRANGE', key, 0, 1, 'WITHSCORES')
      if found[1] then
        active[#active + 1] = found
        lane, start, critical = found[1], tonumber(found[2]), i % 2 == 1
      end
    end
    if #active ~= 1 or active[1][3] then break end
    queue = string.match(lane, '^.([^:]*)')
  end
  if how[byte(lane)] ~= 1 or not whose.serves(served, lane) or paused(lane) then break end
  local limits, turn = permits().of(lane), tonumber(redis.call('HGET', K_CLOCK, turn_field(critical)) or '')
  if not limits or limits.keyed or not turn then break end
  -- More waits than may begin, so it is held again.
  local room, ready = permits.room(limits, now), k_ready(lane, critical)
  if room < 1 or room > 16 or room >= slots or room >= most then break end
  local ids = redis.call('ZRANGE', ready, 0, room)
  if #ids <= room then break end
  ids[#ids] = nil
  local leased, homes, numbers, uses, bytes, lends = {}, {}, {}, {}, 0, false
  for j, limit in ipairs(limits) do
    uses[j] = {}
    lends = lends or limit.hold == 0
  end
  for i, id in ipairs(ids) do
    local number = math.floor(id_due(id) / W)
    local rec = redis.call('HGET', k_bucket(number), id) or ''
    local kind, flags, its_due, at = rec_head(id, rec)
    bytes = bytes + #rec
    if kind ~= 'ok' or its_due > now or byte(rec, 1) >= FRESH_EXT or rec_lane(rec, at) ~= lane or (flags % 4 == 0) ~= critical
      or bytes > max_bytes then break end
    local attempt, losses, deliveries = rec_counters(rec)
    rec = rec_build(rec, at, flags, attempt, losses, deliveries + 1, its_due)
    if lends then
      -- An extension of one entry without a value, which says that it has a permit (EXT.PERMIT).
      local head = behind_key(rec, 16, flags)
      rec = string.char(FULL_EXT) .. sub(rec, 2, head - 1) .. '\0\3\6\0\0' .. sub(rec, head)
    end
    leased[2 * i - 1], leased[2 * i] = id, rec
    for j, limit in ipairs(limits) do
      uses[j][2 * i - 1] = limit.hold > 0 and now + limit.hold or '+inf'
      uses[j][2 * i] = limit.hold > 0 and id .. struct.pack('>I4', deliveries + 1) or id
    end
    if not homes[number] then homes[number], numbers[#numbers + 1] = {}, number end
    homes[number][#homes[number] + 1] = id
  end
  if #leased < 2 * #ids then break end
  local touched = { permits.HELD, K_LIMITED, ready }
  for _, limit in ipairs(limits) do touched[#touched + 1] = limit.key end
  for _, number in ipairs(numbers) do touched[#touched + 1] = k_bucket(number) end
  err = guard(touched)
  if err then return err end
  for j, limit in ipairs(limits) do
    redis.call('ZREMRANGEBYSCORE', limit.key, '-inf', '(' .. int(now))
    redis.call('ZADD', limit.key, unpack(uses[j]))
  end
  ends.lease(leased)
  for _, number in ipairs(numbers) do ends.take_out(number, homes[number]) end
  redis.call('ZREM', ready, unpack(ids))
  redis.call('HSET', K_CLOCK, turn_field(critical), math.max(turn, (start or turn) + #ids))
  local at, starving = permits.room_at(limits, now)
  if start then redis.call('ZADD', K_LIMITED, 0, parked_name(lane, critical)) end
  redis.call('ZADD', permits.HELD, at, queue)
  for _, set in ipairs(start and active_sets(lane, critical) or {}) do redis.call('ZREM', set, lane) end
  due = ends.sooner(due)
  ends.promise(due)
  return { now, due, leased, {}, { 0, 0, 0, 0, 0, 0, 0, 0 }, {}, { queue, starving and 1 or critical and 2 or 0 }, {}, whose.met }
until true
