#!lua
-- Stores tasks whose idempotency keys may name others, which they take the place of. One that is pending keeps its id and becomes
-- the new task; one that runs is marked superseded, so that it is never tried again, and a new task is stored beside it; where the
-- key's task has ended or was cancelled, a new one is stored. Refused by the server itself when memory is full.
-- KEYS  1 hash tag of the partition
-- ARGV  1 id of the store, 2 command id (16 bytes), 3 bucket width ms, 4 how long the command is remembered ms, 5 wake channel,
--       then (id template and record as in schedule.lua, idempotency key, fingerprint, body that lies apart or '', longest time ms for
--       which a task may be put off from the first request that says so on; 0 = any) ...
-- REPLY {for each task: new, moved, or conflict (the key's task cannot be read), its id, its due ms ...}
--       The same command id again gets the same reply and stores nothing.
-- ERRORS TRYAGAIN (what was stored before stays: asking again moves it to the same place), STORELOST (nothing written)
-- BOUND 100 items; all together look 1,000 times into leases that an earlier version made
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/extension.lua
--@include lib/guard.lua
--@include lib/gather.lua
--@include lib/fair.lua
--@include lib/pauses.lua
--@include lib/turns.lua
--@include lib/hint.lua
--@include lib/place.lua
--@include lib/limit_keys.lua
--@include lib/limits.lua
--@include lib/apart.lua
--@include lib/leased.lua
--@include lib/find.lua
--@include lib/newborn.lua
local now, W = now_ms(), tonumber(ARGV[3])
local req = T .. ':req:' .. ARGV[2]
local known = redis.call('GET', req)
if known then return cmsgpack.unpack(known) end
local c = clock(now)
local err = stranger({ clock = c }, ARGV[1])
if err then return err end
local reply = {}
local function answer(word, id, due)
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3] = word, id, due
end
for i = 6, #ARGV, 6 do
  local template, rec, key, body, longest = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 4], tonumber(ARGV[i + 5])
  local entry = k_idem(key)
  local id, due = born(template, now)
  local held = redis.call('GET', entry)
  local old = held and sub(held, 1, 16)
  local where, there, lid
  if old then where, there, lid = find(old, W) end
  local kind, flags, old_due, at
  if where == 'home' or where == 'lease' then kind, flags, old_due, at = rec_head(old, there) end
  if where == 'quarantine' or kind and kind ~= 'ok' then
    answer('conflict', old, id_due(old))
  else
    local pending = where == 'home'
    local since = now
    if longest > 0 then
      local waiting = pending and ext_get(there, at, flags, EXT_WAITING)
      if waiting then since = of_u48(waiting) end
      due = math.max(math.min(due, since + longest), now)
    end
    local mine = pending and old or id_with(id, due)
    local home = math.floor(id_due(mine) / W)
    local _, new_flags, _, new_at = rec_head(mine, rec)
    local lane = rec_lane(rec, new_at)
    local keys = { req, entry, k_bucket(home), k_bucket(math.floor(due / W)), k_body(mine), K_BUCKETS, K_CLOCK, K_GROUPS, unpack(K_NEAR, 0, 11) }
    if pending then
      keys[#keys + 1] = k_bucket(math.floor(old_due / W))
      keys[#keys + 1] = k_ready(rec_lane(there, at), flags % 4 == 0)
    elseif lid then
      keys[#keys + 1] = k_lease(lid)
    elseif where == 'dead' then
      keys[#keys + 1] = K_DEAD
    end
    if pending then labels.touch(labels.of(old, there, at, flags), keys) end
    labels.touch(labels.of(mine, rec, new_at, new_flags), keys)
    local sets = pending and apart.of(old, there, at, flags, keys)
    err = guard(keys)
    if err then return err end
    if longest > 0 then rec = ext_set(rec, new_at, new_flags, EXT_WAITING, u48(since)) end
    local listed = labels.of(mine, rec, new_at, new_flags)
    local entered = grouped(mine, rec, new_at, new_flags)
    if pending then
      local _, _, deliveries = rec_counters(there)
      rec = rec_build(rec, new_at, new_flags, 0, 0, deliveries, due)
      unhint(old, there, flags, at, old_due, W)
      apart.leave(old, sets)
    elseif where == 'lease' then
      local marked, marked_flags = without_key(there, at, flags)
      redis.call('HSET', k_lease(lid), old, ext_set(marked, at, marked_flags, EXT_SUPERSEDED, mine))
    elseif where == 'dead' then
      -- The dead letter stays, and names the key no more.
      local from = 11 + struct.unpack('>I2', there, 9)
      local dead = sub(there, from)
      local dead_kind, dead_flags, _, dead_at = rec_head(old, dead)
      if dead_kind == 'ok' then
        dead = without_key(dead, dead_at, dead_flags)
        redis.call('HSET', K_DEAD, old, sub(there, 1, from - 1) .. dead)
      end
    end
    if entered then redis.call('ZADD', K_GROUPS, 0, entered) end
    if pending then labels.leave(labels.of(old, there, at, flags)) end
    labels.enter(listed)
    if is_stub(new_flags) then redis.call('SET', k_body(mine), body) end
    place(mine, rec, new_flags, lane, due, W, c)
    redis.call('SET', entry, mine .. ARGV[i + 3])
    if pending and is_stub(flags) and not is_stub(new_flags) then redis.call('UNLINK', k_body(old)) end
    local left = pending and grouped(old, there, at, flags)
    if left and left ~= entered then redis.call('ZREM', K_GROUPS, left) end
    answer(pending and 'moved' or 'new', mine, due)
  end
end
wake(c, ARGV[5])
redis.call('SET', req, cmsgpack.pack(reply), 'PX', ARGV[4])
return reply
