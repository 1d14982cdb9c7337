-- Records that go home without anything else. Needs record, extension.

-- Whether a record of a lease has no permit to give back, no fairness key to note, and no other task took its place.
local function goes_alone(id, rec)
  if byte(rec, 1) < FRESH_EXT then return true end
  local kind, flags, _, at = rec_head(id, rec)
  return kind == 'ok' and not (ext_get(rec, at, flags, EXT.PERMIT) or ext_get(rec, at, flags, EXT.LIMIT_KEYS)
    or ext_get(rec, at, flags, EXT_FAIR_KEY) or ext_get(rec, at, flags, EXT_SUPERSEDED))
end
