-- Records that end without a trace elsewhere but permits, a key and a body. Needs record, extension.

-- Whether the end of a record leaves no lock, no group, no entry in sets of labels, and calls nobody.
local function ends_alone(id, rec)
  if byte(rec, 1) < FRESH_EXT then return true end
  local kind, flags, _, at = rec_head(id, rec)
  return kind == 'ok' and not (is_keyed(flags) and ext_get(rec, at, flags, EXT_LOCK) or ext_get(rec, at, flags, EXT.GROUP)
    or ext_get(rec, at, flags, EXT.ON_SUCCESS) or ext_get(rec, at, flags, labels.TAG))
end
