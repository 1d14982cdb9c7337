-- Permits of tasks that leave their lease. Needs what permits needs, and permits.

-- A record on its way out of a lease gives back the permit that it may have. Returns it as it may stand elsewhere.
local function without_permit(id, rec, now)
  if byte(rec, 1) < FRESH_EXT then return rec end
  return permits().give_back(id, rec, now)
end
-- Call it at the end: whoever waits for permits that came back is let go. Returns what permits.settle does.
local function settle_permits(now)
  return permits.made and permits.settle(now) or nil
end
