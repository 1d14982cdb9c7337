#!lua
-- Adds events to the feed: best effort. Refused by the server itself when memory is full, so that a full server still drains.
-- KEYS  1 hash tag of the partition that holds the feed
-- ARGV  1 most events, 2 most bytes, 3 how long the feed is kept after its last event ms, then (number of events, chunk) ...
-- REPLY how many events the bounds dropped
-- ERRORS TRYAGAIN (nothing written)
-- BOUND 16 chunks of at most 64 KiB; drops at most 32
--@include lib/keys.lua
--@include lib/guard.lua
-- Stream: n -> number of events of the entry, e -> the chunk (store/events.py).
local K_EVENTS = T .. ':events'
-- Hash: events, bytes of the whole; dropped -> the last entry that the bounds dropped.
local K_SUMS = T .. ':events:sums'
local most_events, most_bytes, keep = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local err = guard({ K_EVENTS, K_SUMS })
if err then return err end

-- Sums outlive their stream where one of the two was deleted by hand or evicted.
if redis.call('EXISTS', K_EVENTS) == 0 then redis.call('DEL', K_SUMS) end
local events, bytes = 0, 0
for i = 4, #ARGV, 2 do
  redis.call('XADD', K_EVENTS, '*', 'n', ARGV[i], 'e', ARGV[i + 1])
  events, bytes = events + tonumber(ARGV[i]), bytes + #ARGV[i + 1]
end
events = redis.call('HINCRBY', K_SUMS, 'events', events)
bytes = redis.call('HINCRBY', K_SUMS, 'bytes', bytes)
local dropped = 0
for _ = 1, 8 do
  if events <= most_events and bytes <= most_bytes then break end
  for _, entry in ipairs(redis.call('XRANGE', K_EVENTS, '-', '+', 'COUNT', 4)) do
    if events > most_events or bytes > most_bytes then
      redis.call('XDEL', K_EVENTS, entry[1])
      local n, size = tonumber(entry[2][2]) or 0, #(entry[2][4] or '')
      events = redis.call('HINCRBY', K_SUMS, 'events', -n)
      bytes = redis.call('HINCRBY', K_SUMS, 'bytes', -size)
      redis.call('HSET', K_SUMS, 'dropped', entry[1])
      dropped = dropped + n
    end
  end
end
redis.call('PEXPIRE', K_EVENTS, keep)
redis.call('PEXPIRE', K_SUMS, keep)
return dropped
