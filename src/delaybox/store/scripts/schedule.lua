#!lua
-- Stores up to 500 new tasks of one partition (rule 15). Refused by the server itself when memory is full.
-- KEYS  1 hash tag of the partition
-- ARGV  1 id of the store, 2 command id (16 bytes), 3 bucket width ms, 4 how long the command is remembered ms,
--       5 wake channel, 6 n, 7 number of keyed tasks m, 8 number of large bodies k,
--       9 number of tasks g in groups, then n x (id template, record), m x (index from 1, idempotency key, fingerprint),
--       k x (index from 1, body), g x (index from 1, group, as the record's extension names it), then the entries of labels of
--       the n tasks, as add_labels takes them
--       An id template's 48 bits are a due time, or, with the top bit set, a delay to which this server's clock is added.
-- REPLY {time of scheduling ms, m x answer}; answer: '' created, id = the key's task (same body), '!' .. id = other body,
--       '~' .. id = its task was cancelled.
--       Effective due = max(due, time of scheduling), which the id then carries; the caller computes it likewise.
--       The same command id again gets the same reply and stores nothing.
-- ERRORS TRYAGAIN (nothing written), STORELOST (nothing written: another store lies here, or none)
-- BOUND n <= 500 items, caller keeps records <= 256 KiB and bodies <= 4 MiB a call
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/record.lua
--@include lib/guard.lua
--@include lib/gather.lua
--@include lib/hint.lua
--@include lib/newborn.lua
local now = now_ms()
local W, n, m, k = tonumber(ARGV[3]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local req = T .. ':req:' .. ARGV[2]
local known = redis.call('GET', req)
if known then return cmsgpack.unpack(known) end

local reply, new = { now }, newborn(now, W)
local err = stranger(new, ARGV[1])
if err then return err end
local skip, idem = {}, {}
local at = 10 + 2 * n
for i = 1, m do
  local index, key, print_ = tonumber(ARGV[at]), k_idem(ARGV[at + 1]), ARGV[at + 2]
  at = at + 3
  local mine = idem[key]
  if mine then
    -- the same key twice in one call: the first one's id is not known yet, it is put in below
    skip[index] = true
    reply[i + 1] = { mine[1], mine[2] == print_ }
  else
    local held = redis.call('GET', key)
    if held then
      skip[index] = true
      local id = string.sub(held, 1, 16)
      if #held > 16 + #print_ then
        reply[i + 1] = '~' .. id
      else
        reply[i + 1] = string.sub(held, 17) == print_ and id or '!' .. id
      end
    else
      idem[key] = { index, print_ }
      reply[i + 1] = ''
    end
  end
end

local ids, sent = {}, ARGV
for i = 1, n do
  if not skip[i] then ids[i] = add_new(new, sent[8 + 2 * i], sent[9 + 2 * i]) end
end
for i = 1, m do
  local r = reply[i + 1]
  if type(r) == 'table' then reply[i + 1] = r[2] and ids[r[1]] or '!' .. ids[r[1]] end
end
for _ = 1, k do
  local id = ids[tonumber(ARGV[at])]
  if id then add_body(new, id, ARGV[at + 1]) end
  at = at + 2
end
local members = {}
for _ = 1, tonumber(ARGV[9]) do
  local id = ids[tonumber(ARGV[at])]
  if id then
    members[#members + 1] = 0
    members[#members + 1] = ARGV[at + 1] .. '\0' .. id
  end
  at = at + 2
end
if ARGV[at] then
--@include lib/listing.lua
  add_labels(new, at, ids, n, next(skip) ~= nil)
end
if #new.extended > 0 then
--@rest
--@include lib/extension.lua
--@include lib/fair.lua
--@include lib/extend_new.lua
  note_keys(new)
--@end
end
err = guard({ T })
if err then return err end

-- At most 500 pairs. A task enters its group before its record is written.
if #members > 0 then redis.call('ZADD', K_GROUPS, unpack(members)) end
for key, who in pairs(idem) do redis.call('SET', key, ids[who[1]] .. who[2]) end
redis.call('SET', req, cmsgpack.pack(reply), 'PX', ARGV[4])
write_new(new, ARGV[5])
return reply
