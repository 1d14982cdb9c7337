-- What waits for a taker, so that it can choose, and what it leaves to others. Needs time, keys, pauses, served, claim_order, permits.

-- How many due tasks of the given near indexes a taker serves: critical ones, others. Of an index in which more than `looked` are due it
-- is an estimate by the first of them. line (critical, first, last, among, count), where it is given, learns of each index since when
-- tasks of the taker wait in it: the virtual deadlines of the first and the last `among` those that were looked at.
function whose.in_near(own, from, now, types, served, looked, line)
  local sums, takes, step = { [true] = 0, [false] = 0 }, {}, line and 2 or 1
  for _, n in ipairs(own) do
    local found = line and redis.call('ZRANGE', K_NEAR[n], from, now, 'BYSCORE', 'LIMIT', 0, looked, 'WITHSCORES')
      or redis.call('ZRANGE', K_NEAR[n], from, now, 'BYSCORE', 'LIMIT', 0, looked)
    local mine, first, last = 0, nil, nil
    for i = 1, #found, step do
      local lane = sub(found[i], 17)
      local known = takes[lane]
      if known == nil then
        known = string.find(types, sub(lane, 1, 1), 1, true) and whose.serves(served, lane) and not paused(lane) or false
        takes[lane] = known
      end
      if known then
        mine, first, last = mine + 1, first or i, i
      end
    end
    local count = mine
    if mine > 0 and #found == looked * step then
      count = math.ceil(redis.call('ZCOUNT', K_NEAR[n], from, now) * mine / looked)
    end
    if line and mine > 0 then
      first = tonumber(found[first + 1]) + slack_of(sub(found[first], 17), n % 4)
      last = tonumber(found[last + 1]) + slack_of(sub(found[last], 17), n % 4)
      line(n % 4 == 0, first, last, mine, count)
    end
    sums[n % 4 == 0] = sums[n % 4 == 0] + count
  end
  return sums[true], sums[false]
end

-- Whether a task that a taker serves is due among the first of each near index; not of queues whose tasks are taken from ready sets alone.
function whose.waits(own, from, now, types, served)
  for _, n in ipairs(own) do
    for _, member in ipairs(redis.call('ZRANGE', K_NEAR[n], from, now, 'BYSCORE', 'LIMIT', 0, 32)) do
      local lane = sub(member, 17)
      if string.find(types, sub(lane, 1, 1), 1, true) and whose.serves(served, lane) and not (is_steered() and through_ready(lane)) then
        return true
      end
    end
  end
  return false
end

-- Wakes those who claim for lanes of queues that this claim let go and has not taken from, or not all that there is room for. (While it
-- woke them before it took its own, each claim of a limited queue that came by time was followed by one that found nothing.)
function whose.call_left(now)
  for _, queue in ipairs(permits.let or {}) do
    local waiting = { w = 0, other = 0 }
    for _, member in ipairs(permits.lanes(queue)) do
      local lane, critical = parked_parts(member)
      local kind = byte(lane) == 119 and 'w' or 'other'
      if waiting[kind] == 0 and byte(lane) ~= permits.fires and redis.call('ZSCORE', k_active(sub(lane, 1, 1), critical), lane) then
        waiting[kind] = 1
      end
    end
    permits.call_for(waiting, now)
  end
end
