#!lua flags=allow-oom
-- Takes what is due in one partition: leases it to the caller, or fires it in place (PUB_SUB on this very server).
-- KEYS  1 hash tag of the partition
-- ARGV  1 lease id (16 bytes; the same id again gets the same content), 2 bucket width ms, 3 lease ms, 4 free slots,
--       5 most items (<= 500), 6 most bytes of leased records, 7 letters of the task types served by lease,
--       8 channel for firing in place ('' = lease PUB_SUB as well, if its letter is in 7), 9 length of the stream (0 = none),
--       10 poll ms, 11 how long idempotency keys outlive their task ms
-- REPLY {now ms, next due ms in near (-1 none), leased {id, record, ...}, lateness ms of each fired in place,
--        {fired without a listener, hints dropped, quarantined, stream entries trimmed, made ready, 1 = more may be due}}
-- ERRORS TRYAGAIN (nothing written but hints)
-- BOUND 500 items, 256 KiB of records
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/guard.lua
--@include lib/gather.lua
--@include lib/place.lua
--@include lib/finish.lua
--@include lib/select.lua
local now = now_ms()
local lid, W, lease_ms, slots, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local max_bytes, types, channel, stream = tonumber(ARGV[6]), ARGV[7], ARGV[8], tonumber(ARGV[9])
local poll, idem_ttl = tonumber(ARGV[10]), ARGV[11]
local lease = k_lease(lid)

local function served(letter)
  if letter == 'p' and channel ~= '' then return 'place' end
  if string.find(types, letter, 1, true) then return 'lease' end
  return nil
end
local function next_due()
  local best = -1
  for p = 0, 3 do
    local head = redis.call('ZRANGE', K_NEAR[p], 0, 0, 'WITHSCORES')
    if head[2] then
      local due = tonumber(head[2])
      if best < 0 or due < best then best = due end
    end
  end
  return best
end

if redis.call('EXISTS', lease) == 1 then
  return { now, next_due(), redis.call('HGETALL', lease), {}, { 0, 0, 0, 0, 0, 1 } }
end
local err = guard({ lease, K_BUCKETS, K_CLOCK, K_LEASES, K_NEAR[0], K_NEAR[1], K_NEAR[2], K_NEAR[3], K_QUAR, K_QUAR_AT })
if err then return err end

-- 1. Candidates: straight from near while nothing that we serve is ready, else through ready.
local free = channel ~= '' and 'p' or ''
local letters = slots > 0 and string.gsub(types, free ~= '' and 'p' or '%z', '') or ''
local candidates, used, promoted = {}, nil, 0
local backlog = false
for letter in string.gmatch(free .. letters, '.') do
  if redis.call('EXISTS', k_active(letter, true), k_active(letter, false)) > 0 then backlog = true end
end
if backlog then
  promoted = promote(now, most)
  local taken = free ~= '' and take_ready(candidates, free, true, most) or 0
  local leased = math.min(slots, most - taken)
  local reserve = math.min(math.ceil(leased / 20), leased - 1)
  if leased > 0 then
    local critical = take_ready(candidates, letters, true, leased - reserve)
    take_ready(candidates, letters, false, leased - critical)
  end
  if free ~= '' and #candidates < most then take_ready(candidates, free, false, most - #candidates) end
else
  used = take_near(candidates, now, served, slots, most)
end

-- 2. Their records, in the order of the candidates.
local wanted, home_of, records = gather(), {}, {}
for i, c in ipairs(candidates) do
  local number = math.floor(id_due(c[1]) / W)
  local key = home_of[number]
  if not key then
    key = k_bucket(number)
    home_of[number] = key
  end
  c[5] = key
  add2(wanted, key, c[1], i)
end
for _, key in ipairs(wanted.order) do
  local l, ids = wanted.by[key], {}
  for j = 1, #l, 2 do ids[#ids + 1] = l[j] end
  local got = redis.call('HMGET', key, unpack(ids))
  for j = 1, #ids do records[l[2 * j]] = got[j] end
end

-- 3. What becomes of each: leased, fired, indexed again, put back, quarantined, or a hint without a record.
local leased, fired, again, gone = {}, {}, gather(), gather()
local sour, pointers, bytes, dropped = {}, {}, 0, 0
local leases_left = slots
local horizon = clock(now)
local touched = {}
for i, c in ipairs(candidates) do
  local id, lane, rec = c[1], c[2], records[i]
  local kind, flags, due, at
  if rec then kind, flags, due, at = rec_head(id, rec) end
  if not rec or rec == '' then
    dropped = dropped + 1
  elseif kind == 'bad' then
    sour[#sour + 1] = { id, rec }
    add1(gone, c[5], id)
  elseif kind == 'newer' then
    -- a newer node will serve it; looked at again in a minute
    add2(again, K_NEAR[2], int(now + 60000), id .. lane)
  elseif due > now then
    local real = rec_lane(rec, at)
    if due < horizon then add2(again, K_NEAR[flags % 4], int(due), id .. real)
    else pointers[#pointers + 1] = { id, flags, real, due } end
  else
    lane = rec_lane(rec, at)
    local how = served(string.sub(lane, 1, 1))
    if how == 'place' and is_stub(flags) then how = 'lease' end
    if how == 'place' then
      fired[#fired + 1] = { id, rec, flags, at, now - due }
      add1(gone, c[5], id)
      if is_keyed(flags) then touched[#touched + 1] = k_idem(rec_key(rec, at)) end
    elseif how == 'lease' and leases_left > 0 and bytes + #rec <= max_bytes then
      local attempt, losses, deliveries = rec_counters(rec)
      bytes = bytes + #rec
      leases_left = leases_left - 1
      leased[#leased + 1] = id
      leased[#leased + 1] = rec_build(rec, at, flags, attempt, losses, deliveries + 1, due)
      add1(gone, c[5], id)
    else
      add2(again, k_ready(lane, flags % 4 == 0), int(due + SLACK[flags % 4]), id)
      c[6] = { lane, flags % 4 == 0 }
    end
  end
end

for _, key in pairs(home_of) do touched[#touched + 1] = key end
err = guard(touched)
if err then return err end

-- 4. Destinations first, then sources, hints last (rule 1).
for from = 1, #leased, 1000 do redis.call('HSET', lease, unpack(leased, from, math.min(from + 999, #leased))) end
if #leased > 0 then redis.call('ZADD', K_LEASES, int(now + lease_ms), lid) end
local lateness, unheard, trimmed = {}, 0, 0
for i, f in ipairs(fired) do
  local id, rec, flags, at = f[1], f[2], f[3], f[4]
  local a, b, c, d = struct.unpack('>I4I4I4I4', id)
  b, c = bit.tohex(b), bit.tohex(c)
  local message = '\10\36' .. bit.tohex(a) .. '-' .. string.sub(b, 1, 4) .. '-' .. string.sub(b, 5) .. '-'
    .. string.sub(c, 1, 4) .. '-' .. string.sub(c, 5) .. bit.tohex(d) .. string.sub(rec, body_at(rec, at, flags))
  if redis.call('PUBLISH', channel, message) == 0 then unheard = unheard + 1 end
  if stream > 0 then
    local key = T .. ':stream'
    local before = redis.call('XLEN', key)
    redis.call('XADD', key, 'MAXLEN', '~', int(stream), '*', 'task', message)
    trimmed = trimmed + before + 1 - redis.call('XLEN', key)
  end
  forget(id, rec, flags, at, idem_ttl)
  lateness[i] = f[5]
end
for _, s in ipairs(sour) do
  redis.call('HSET', K_QUAR, s[1], s[2])
  redis.call('ZADD', K_QUAR_AT, int(now), s[1])
end
local numbers = {}
for number, key in pairs(home_of) do numbers[key] = number end
drop_fields(gone, numbers)
if used then
  for p = 0, 3 do
    if used[p] > 0 then redis.call('ZREMRANGEBYRANK', K_NEAR[p], 0, used[p] - 1) end
  end
else
  local stale = gather()
  for _, c in ipairs(candidates) do add1(stale, c[3], c[4]) end
  flush(stale, 'ZREM')
end
flush(again, 'ZADD')
for _, c in ipairs(candidates) do
  if c[6] then redis.call('ZADD', k_active(string.sub(c[6][1], 1, 1), c[6][2]), 'NX', 0, c[6][1]) end
end
for _, p in ipairs(pointers) do hint(p[1], p[2], p[3], p[4], W, horizon) end

local due = next_due()
local look = now + poll
if due >= 0 and due < look then look = due end
redis.call('HSET', K_CLOCK, 'wake', int(look))
local more = (#leased > 0 or #fired > 0 or dropped > 0) and (#candidates >= most or bytes * 2 > max_bytes or backlog)
return { now, due, leased, lateness, { unheard, dropped, #sour, trimmed, promoted, more and 1 or 0 } }
