#!lua flags=allow-oom
-- Judges ids at one moment (fsck's second look, so that a store at work gives no false alarm). With repair, asserts hints and
-- index entries again; it never removes a record, a body or a key's entry.
-- KEYS  1 hash tag of the partition
-- ARGV  1 bucket width ms, 2 '1' = repair, 3 how long idempotency keys outlive their task ms,
--       then (id, idempotency key that names it or '', entry of the index of groups that names it or '', number of leases l in
--       which it was seen, l x lease id) ...
-- REPLY for each id its problems: a list of kinds, as store/fsck.py explains them
-- ERRORS TRYAGAIN (nothing written)
-- BOUND 100 ids, each looked for in the leases that are named with it and in the one that the index names;
--       all together look 1,000 times into leases that an earlier version made
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/extension.lua
--@include lib/guard.lua
--@include lib/leased.lua
--@include lib/pauses.lua
--@include lib/turns.lua
--@include lib/limit_keys.lua
--@include lib/limits.lua
--@include lib/stands_apart.lua
local W, repair, idem_ttl = tonumber(ARGV[1]), ARGV[2] == '1', ARGV[3]
local now = now_ms()
local copying = string.find(redis.call('HGET', K_CLOCK, 'rules') or '', '~', 1, true) ~= nil
local expanded = tonumber(redis.call('HGET', K_CLOCK, 'expanded') or '') or 0
local suspects = {}
local keys = { K_BUCKETS, K_CLOCK, K_DEAD, K_DEAD_AT, K_QUAR, K_QUAR_AT, K_LEASED, K_GROUPS, unpack(K_NEAR, 0, 11) }
local from = 4
while from <= #ARGV do
  local n = tonumber(ARGV[from + 3])
  local one = { id = ARGV[from], key = ARGV[from + 1], member = ARGV[from + 2], lids = { unpack(ARGV, from + 4, from + 3 + n) } }
  suspects[#suspects + 1] = one
  keys[#keys + 1] = k_bucket(math.floor(id_due(one.id) / W))
  from = from + 4 + n
end
local err = guard(keys)
if err then return err end

local bad
local function report(kind) bad[#bad + 1] = kind end

-- A bucketed record is found in time: by near, by a ready set whose lane is active, parked or held, or by a bucket still to be expanded.
local function hinted(id, rec, flags, lane, at, due)
  local score = redis.call('ZSCORE', K_NEAR[near_of(flags, lane)], id .. lane)
  if byte(lane) == 104 then
    -- Of an HTTP task the earlier of two hints counts.
    local there = redis.call('ZSCORE', K_NEAR[8 + flags % 4], id .. lane)
    if there and (not score or tonumber(there) < tonumber(score)) then score = there end
  end
  if score and tonumber(score) <= due then return true end
  local critical = flags % 4 == 0
  if redis.call('ZSCORE', k_ready(lane, critical), id) then
    -- While rules are being copied a lane may still stand among the parked; the copy moves it.
    if is_steered() and (paused(lane) or copying) and redis.call('ZSCORE', K_PARKED, parked_name(lane, critical)) then
      return true
    end
    if is_steered() and redis.call('ZSCORE', K_LIMITED, parked_name(lane, critical))
      and redis.call('ZSCORE', permits().HELD, string.match(lane, '^.([^:]*)')) then return true end
    local active = true
    for _, set in ipairs(active_sets(lane, critical)) do active = active and redis.call('ZSCORE', set, lane) end
    if active then return true end
  end
  if is_steered() and (stands_apart(id, rec, at, flags, lane) or left_apart(id, flags, lane)) then return true end
  -- By which key it stands apart is not known while rules are copied.
  if copying and redis.call('EXISTS', permits().APART) == 1 then return true end
  local home, n = math.floor(id_due(id) / W), math.floor(due / W)
  if home >= expanded and n >= home then return true end
  return n ~= home and n >= expanded and redis.call('HEXISTS', k_bucket(n), id) == 1
    and redis.call('ZSCORE', K_BUCKETS, n) ~= false, score
end

-- A hash of values beside a zset of times.
local function paired(id, hash, times, without_time, without_value)
  local value, at = redis.call('HGET', hash, id), redis.call('ZSCORE', times, id)
  if value and not at then
    report(without_time)
    if repair then redis.call('ZADD', times, now, id) end
  elseif at and not value then
    report(without_value)
    if repair then redis.call('ZREM', times, id) end
  end
  return value
end

-- In how many leases it lies, the record there, one of them, and the one that the index names.
local function in_leases(id, lids)
  local named, places, rec, right = redis.call('HGET', K_LEASED, id), 0, nil, nil
  local seen = {}
  local function look(lid)
    if seen[lid] then return end
    seen[lid] = true
    local r = redis.call('HGET', k_lease(lid), id)
    if r then
      places, rec, right = places + 1, rec or r, right or lid
    end
  end
  if named then look(named) end
  for _, lid in ipairs(lids) do look(lid) end
  if not right then
    local _, lid = leased_unindexed(id)
    if lid then look(lid) end
  end
  return places, rec, right, named
end

local function judge(id, key, named_by, lids)
  local home = math.floor(id_due(id) / W)
  local at_home, places = redis.call('HGET', k_bucket(home), id), 0
  local rec = at_home
  if at_home then places = 1 end
  local in_lease, leased, lease, named = in_leases(id, lids)
  places, rec = places + in_lease, rec or leased
  local dead = paired(id, K_DEAD, K_DEAD_AT, 'dead-without-time', 'time-without-dead')
  if dead then
    places = places + 1
    rec = rec or (#dead >= 10 and string.sub(dead, 11 + struct.unpack('>I2', dead, 9)) or '')
  end
  local sour = paired(id, K_QUAR, K_QUAR_AT, 'quarantine-without-time', 'time-without-quarantine')
  if sour then places = places + 1 end
  paired(id, K_RESULTS, K_RESULTS_AT, 'result-without-time', 'time-without-result')
  if places > 1 then
    report('two-places')
  elseif lease and lease ~= named then
    report('leased-not-indexed')
    if repair then redis.call('HSET', K_LEASED, id, lease) end
  end
  if named and not lease then
    report('leased-dangling')
    if repair then redis.call('HDEL', K_LEASED, id) end
  end

  local kind, flags, due, at
  if rec then kind, flags, due, at = rec_head(id, rec) end
  if kind == 'bad' then report('unreadable') end
  if leased and kind == 'ok' and ext_get(rec, at, flags, EXT.PERMIT)
    and not redis.call('ZSCORE', permits().k_used('c' .. string.match(rec_lane(rec, at), '^.([^:]*)')), id) then
    report('permit-missing')
  end
  for name in string.gmatch(leased and kind == 'ok' and ext_get(rec, at, flags, EXT.LIMIT_KEYS) or '', '[^%z]+') do
    if not redis.call('ZSCORE', permits().k_used('c' .. name), id) then report('permit-missing') end
  end
  local body = redis.call('EXISTS', k_body(id)) == 1
  if kind == 'ok' then
    if at_home then
      local lane = rec_lane(rec, at)
      local fine, score = hinted(id, rec, flags, lane, at, due)
      if not fine then
        report(score and 'late-hint' or 'no-hint')
        if repair then
          -- near is right for any due time, whatever the clock's hash says
          redis.call('ZADD', K_NEAR[near_of(flags, lane)], due, id .. lane)
          local ready = k_ready(lane, flags % 4 == 0)
          if redis.call('ZSCORE', ready, id) then activate(lane, flags % 4 == 0) end
        end
      end
    end
    if is_keyed(flags) then
      local idem = k_idem(rec_key(rec, at))
      local held = redis.call('GET', idem)
      if not held or string.sub(held, 1, 16) ~= id then
        report('key-missing')
      elseif redis.call('PTTL', idem) >= 0 then
        report('key-expires')
        if repair then redis.call('PERSIST', idem) end
      end
    end
    local member = grouped(id, rec, at, flags)
    if member and not redis.call('ZSCORE', K_GROUPS, member) then
      report('group-missing')
      if repair then redis.call('ZADD', K_GROUPS, 0, member) end
    end
    local entries = labels.of(id, rec, at, flags)
    for i = 1, #entries, 2 do
      if redis.call('SISMEMBER', entries[i], entries[i + 1]) == 0 then
        report('label-missing')
        if repair then redis.call('SADD', entries[i], entries[i + 1]) end
      end
    end
    if is_stub(flags) and not body then report('body-missing') end
    if body and not is_stub(flags) then report('body-orphan') end
  elseif places == 0 and body then
    report('body-orphan')
  end
  if named_by ~= '' and redis.call('ZSCORE', K_GROUPS, named_by) then
    if places == 0 or kind == 'ok' and grouped(id, rec, at, flags) ~= named_by then
      report('group-dangling')
      if repair then redis.call('ZREM', K_GROUPS, named_by) end
    end
  end
  if key ~= '' then
    local idem = k_idem(key)
    local held = redis.call('GET', idem)
    if held and string.sub(held, 1, 16) == id and redis.call('PTTL', idem) == -1 then
      if places == 0 then
        report('key-orphan')
        if repair then redis.call('PEXPIRE', idem, idem_ttl) end
      elseif kind == 'ok' and not (is_keyed(flags) and rec_key(rec, at) == key) then
        report('key-wrong')
      end
    end
  end
end

local reply = {}
for _, one in ipairs(suspects) do
  bad = {}
  judge(one.id, one.key, one.member, one.lids)
  reply[#reply + 1] = bad
end
return reply
