-- Permits of tasks that leave their lease. Needs record, extension, keys, limits.

local EXT_ONCE = 5
-- A record on its way out of a lease gives back the permits that it may have. once_ms: for how long those of one that is handed out at most
-- once are kept (permits.back); nil where that is not acked. Returns it as it may stand elsewhere.
local function without_permit(id, rec, now, once_ms)
  if byte(rec, 1) < FRESH_EXT then return rec end
  local kind, flags, _, at = rec_head(id, rec)
  if kind ~= 'ok' then return rec end
  local kept_ms = once_ms and ext_get(rec, at, flags, EXT_ONCE) and once_ms
  local names = ext_get(rec, at, flags, EXT.LIMIT_KEYS)
  if ext_get(rec, at, flags, EXT.PERMIT) then
    permits().back(id, string.match(rec_lane(rec, at), '^.([^:]*)'), now, kept_ms)
    rec = ext_set(rec, at, flags, EXT.PERMIT, nil)
  end
  for name in string.gmatch(names or '', '[^%z]+') do permits().back(id, name, now, kept_ms) end
  return ext_set(rec, at, flags, EXT.LIMIT_KEYS, nil)
end
-- Call it at the end: whoever waits for permits that came back is let go. Returns what permits.settle does.
local function settle_permits(now)
  return permits.made and permits.settle(now) or nil
end
