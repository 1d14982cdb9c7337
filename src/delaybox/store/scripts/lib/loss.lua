-- A doer that went away in the middle of a task (rule 9). Needs time, record, keys, gather, place, finish.

-- A message does nothing to the node that sends it, so a lost node says nothing against it: where nodes die often, whole claims of
-- healthy messages would become dead letters. Past this many even a message is looked at.
local MESSAGE_LOSSES = 20

-- Charges one loss to a record on its way out of a lease: it goes home, or past the cap to the dead letters.
-- Returns nil, or for a dead letter how many others the cap of dead letters dropped.
local function charge_loss(id, rec, flags, due, at, now, doer, losses_cap, dead_cap, idem_ttl, W, c)
  local attempt, losses, deliveries = rec_counters(rec)
  losses = math.min(losses + 1, 255)
  if byte(rec, at + 1) == 112 then losses_cap = math.max(losses_cap, MESSAGE_LOSSES) end
  rec = rec_build(rec, at, flags, attempt, losses, deliveries, due)
  if losses >= losses_cap then
    return bury(id, rec, now, 'lost with its ' .. doer .. ' ' .. losses .. ' times', dead_cap, idem_ttl)
  end
  place(id, rec, flags, rec_lane(rec, at), due, W, c)
  return nil
end
