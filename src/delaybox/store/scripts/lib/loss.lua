-- What happens to a task whose doer, a node or a worker, went away in the middle of it (rule 9). Needs time, record, keys, gather,
-- place, extension, finish.

-- A node only carries messages and the calls that its workers run. It does not run them, so its loss is no evidence against them:
-- where nodes die often, whole claims of healthy tasks would become dead letters. After this many losses they do.
local CARRIED_LOSSES = 20
-- But a call may be what kills its worker and its node together. From this loss with a node on, a call waits before it is tried
-- again: as long as its lease was, twice as long each time, at most LONGEST_WAIT ms (ADR 0054).
local WAITS_FROM, LONGEST_WAIT = 3, 600000

-- The losses of a record are one byte. For WORKER tasks its low 3 bits count losses with a worker, the high 5 bits those with a node.
local WORKER = 119
local function losses_by(letter, losses)
  if letter ~= WORKER then return losses, 0 end
  return losses % 8, math.floor(losses / 8)
end

-- How long (ms) a WORKER task waits that was lost with nodes so often: the more often the longer, and up to as long again by its
-- id, so that tasks which were lost together come back apart. length: of its lease, ms.
local function wait_after(id, carried, length)
  if carried < WAITS_FROM then return 0 end
  local wait = math.min(length * 2 ^ (carried - WAITS_FROM), LONGEST_WAIT)
  return wait + math.floor(wait * (byte(id, 15) * 256 + byte(id, 16)) / 65536)
end

-- Whether dead-lettering for losses is held now. failing: the caller saw most holders go away within one lease. It is held for
-- two leases at most, and not for the two after, because a poisonous task would live for ever otherwise.
local function held(failing, now, lease_ms)
  if not failing then return false end
  local since = tonumber(redis.call('HGET', K_CLOCK, 'held') or '')
  if not since or now < since or now > since + 4 * lease_ms then
    redis.call('HSET', K_CLOCK, 'held', now)
    return true
  end
  return now <= since + 2 * lease_ms
end

-- Charges one loss to a record on its way out of a lease: it goes home, or past the cap to the dead letters. doer: 'node' or
-- 'worker'; length: of the lease, ms; hold: it goes home all the same, one short of the cap.
-- Returns nil, or for a dead letter how many others the cap of dead letters dropped.
local function charge_loss(id, rec, flags, due, at, now, doer, length, losses_cap, hold, dead_cap, idem_ttl, W, c)
  if is_superseded(rec, at, flags) then
    -- Another task took its place: it is not tried again.
    forget(id, rec, flags, at, idem_ttl)
    return nil
  end
  local attempt, losses, deliveries = rec_counters(rec)
  local letter = byte(rec, at + 1)
  local mine, carried = losses_by(letter, losses)
  local cap, count = losses_cap, nil
  if letter == WORKER and doer == 'node' then
    cap = math.max(cap, CARRIED_LOSSES)
    carried = math.min(carried + 1, hold and cap - 1 or 31)
    count = carried
    local wait = wait_after(id, carried, length)
    if wait > 0 then due = math.min(now + wait, MAX_DUE) end
  else
    if letter == WORKER then cap = math.min(cap, 7) end
    if letter == 112 then cap = math.max(cap, CARRIED_LOSSES) end
    mine = math.min(mine + 1, hold and cap - 1 or letter == WORKER and 7 or 255)
    count = mine
  end
  rec = rec_build(rec, at, flags, attempt, letter == WORKER and mine + 8 * carried or mine, deliveries, due)
  if count >= cap then
    return bury(id, rec, now, 'lost with its ' .. doer .. ' ' .. count .. ' times', dead_cap, idem_ttl)
  end
  place(id, rec, flags, rec_lane(rec, at), due, W, c)
  return nil
end
