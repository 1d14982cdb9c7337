#!lua
-- Stores the records of one Kafka topic-partition from one offset to another, and moves its watermark in the same step (rule 14).
-- So a record is scheduled exactly once, whichever process dies, and when. Refused by the server itself when memory is full.
-- KEYS  1 hash tag of the partition
-- ARGV  1 id of the store, 2 the watermark's field (topic id/Kafka partition), 3 first offset, 4 offset after the last one,
--       5 '1' = there may be no watermark yet, 6 bucket width ms, 7 wake channel, 8 n, 9 number of large bodies k, 10 the
--       offsets of the n tasks (big-endian doubles, rising), then n x (id template, record) as in schedule.lua, k x (index from 1, body), then
--       the entries of labels of the n tasks, as add_labels takes them
--       Offsets in between that carry no task were dealt with elsewhere, or do not exist.
-- REPLY {time of scheduling ms, watermark, tasks stored}; what lies below the watermark was stored before and is skipped.
--       Stored is -1 and nothing was written when the watermark is below the first offset (-1: there is none): go back to it.
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
local from, to = tonumber(ARGV[3]), tonumber(ARGV[4])
local new = newborn(now, tonumber(ARGV[6]))
local err = stranger(new, ARGV[1])
if err then return err end
local held = redis.call('HGET', K_KAFKA, ARGV[2])
if not held and ARGV[5] ~= '1' then return { now, -1, -1 } end
local mark = held and tonumber(held) or from
if mark < from then return { now, mark, -1 } end
if mark >= to then return { now, mark, 0 } end

local n, k = tonumber(ARGV[8]), tonumber(ARGV[9])
local ids, stored = {}, 0
for i = 1, n do
  if mark == from or struct.unpack('>d', ARGV[10], 8 * i - 7) >= mark then
    ids[i] = add_new(new, ARGV[9 + 2 * i], ARGV[10 + 2 * i])
    stored = stored + 1
  end
end
local at = 11 + 2 * n
for _ = 1, k do
  local id = ids[tonumber(ARGV[at])]
  if id then add_body(new, id, ARGV[at + 1]) end
  at = at + 2
end
if ARGV[at] then
--@include lib/listing.lua
  add_labels(new, at, ids, n, stored < n)
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

write_new(new, ARGV[7])
redis.call('HSET', K_KAFKA, ARGV[2], ARGV[4])
return { now, to, stored }
