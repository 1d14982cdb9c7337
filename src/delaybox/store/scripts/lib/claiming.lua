-- What a claim is asked for, and what claims of every kind do. Needs time, keys, record, served. T and lease are those of the partition from
-- which is claimed; `claims` goes from one to the next.
local now = now_ms()
local lid, W, lease_ms, slots, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local max_bytes, types, channel, stream = tonumber(ARGV[6]), ARGV[7], ARGV[8], tonumber(ARGV[9])
local poll, fresh, guest = tonumber(ARGV[10]), tonumber(ARGV[12]), ARGV[13] == '1'
local from = fresh > 0 and '(' .. int(now - fresh) or '-inf'
-- The near indexes taken from, critical ones first.
local own, alone = whose.near(types, guest)
local floor_field = alone and 'floor:' .. types or 'floor'
local lease = k_lease(lid)

-- By letter byte: 1 leased, 2 fired in place.
local how = {}
for letter in string.gmatch(types, '.') do how[byte(letter)] = 1 end
if channel ~= '' then how[112] = 2 end
-- A stream whose key holds another type takes nothing. Then tasks are leased, and their target reports the error of each.
if how[112] == 2 and stream > 0 and type(redis.pcall('XLEN', T .. ':stream')) ~= 'number' then
  how[112] = string.find(types, 'p', 1, true) and 1 or nil
  channel = ''
end
local served = whose.filter(17)
-- What claims of every kind do. read: fields of the clock's hash.
local ends = {}
-- The first due time (ms; -1 none) in the near indexes of this taker, from `after` on; heads: of those where it is known (take_near).
function ends.next_due(after, heads)
  local best = -1
  for _, n in ipairs(own) do
    local due = heads[n]
    if due == nil then due = tonumber(redis.call('ZRANGE', K_NEAR[n], after, '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')[2] or '') end
    if due and (best < 0 or due < best) then best = due end
  end
  return best
end

-- Leases these to the taker: {id, record, ...}.
function ends.lease(leased)
  for first = 1, #leased, 1000 do redis.call('HSET', lease, unpack(leased, first, math.min(first + 999, #leased))) end
  redis.call('ZADD', K_LEASES, now + lease_ms, lid)
  local named = {}
  for i = 1, #leased, 2 do named[i], named[i + 1] = leased[i], lid end
  -- The server keeps up to 512 short fields as one list, and looks through all of it for each that is set: 1.2 to 3 us a task where
  -- a claim brings many, and 0.2 with a table, which a field that is not short makes of it.
  local many = #named >= 64
  if many then redis.call('HSET', K_LEASED, '', string.rep('-', 65)) end
  for first = 1, #named, 1000 do redis.call('HSET', K_LEASED, unpack(named, first, math.min(first + 999, #named))) end
  if many then redis.call('HDEL', K_LEASED, '') end
end
-- Takes records out of their bucket.
function ends.take_out(number, ids)
  local key = k_bucket(number)
  redis.call('HDEL', key, unpack(ids))
  if redis.call('EXISTS', key) == 0 then redis.call('ZREM', K_BUCKETS, number) end
end
-- Notes when this taker looks next. due: the first due time of what it left (ms; -1 none). Nothing is announced by it: others that claim here
-- waited for the same moment as this claim, and learn by claims of their own what comes next.
function ends.promise(due)
  local look, read = due >= 0 and math.min(due, now + poll) or now + poll, ends.read
  if not guest then
    -- What the stand-in goes by: when this member looks next, and by how much this look was later than it had promised.
    local promised = math.max(tonumber(read[2]) or 0, tonumber(read[5]) or 0)
    redis.call('HSET', K_CLOCK, 'wake', look, 'looked', now, 'gap', math.max(0, now - promised), 'looker', ARGV[14])
  end
  for letter in string.gmatch(types, alone and '.' or guest and 'w' or '[wh]') do redis.call('HSET', K_CLOCK, 'wake:' .. letter, look) end
end

-- What is published of one that is fired in place. Ids of tasks that are claimed together mostly begin with the same 8 bytes.
function ends.message(id, rec, body)
  local first = sub(id, 1, 8)
  if first ~= ends.first then
    ends.first, ends.head = first, string.format('\10\36%08x-%04x-%04x-', struct.unpack('>I4I2I2', id))
  end
  local a, b, c = struct.unpack('>I2I2I4', id, 9)
  return ends.head .. bit.tohex(a, 4) .. '-' .. bit.tohex(b, 4) .. bit.tohex(c) .. sub(rec, body)
end
-- Publishes these. Returns how many no subscriber heard, and how many entries the stream dropped for them.
-- All messages are made before the first is published: whoever does both by turns needs more machine code than the processor keeps near
-- (ADR 0073).
function ends.publish(messages)
  local unheard, trimmed, call, to = 0, 0, redis.call, channel
  for i = 1, #messages do
    -- The stream comes before the channel: if XADD fails, the script ends here, and no subscriber has received the task.
    if stream > 0 then
      local key = T .. ':stream'
      local before = call('XLEN', key)
      call('XADD', key, 'MAXLEN', '~', stream, '*', 'task', messages[i])
      trimmed = trimmed + before + 1 - call('XLEN', key)
    end
    if call('PUBLISH', to, messages[i]) == 0 then unheard = unheard + 1 end
  end
  return unheard, trimmed
end
-- What the reply names of one that was fired.
function ends.named(rec, body) return ARGV[16] == 'r' and rec or sub(rec, 1, body - 1) end

-- When a queue or limit key that is held is looked at again (ms; nil: not by time).
function ends.held_until()
  local first
  for _, key in ipairs({ T .. ':held', T .. ':held:keys' }) do
    local at = tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2] or '')
    if at and at < 1e15 and (not first or at < first) then first = at end
  end
  return first
end
