#!lua flags=allow-oom
-- Moves the horizon: over empty time, or over the next bucket, which the caller then indexes chunk by chunk (index.lua).
-- KEYS  1 hash tag of the partition
-- ARGV  1 bucket width ms, 2 lead ms, 3 bucket that the caller has indexed to its end (-1 none). It counts only if this very
--       server, since it started, handed that bucket out last: a server that was set back to an earlier state lacks those hints
-- REPLY {now ms, bucket to index (-1 none yet), number of fields in that or in the next bucket, when to call again ms (-1: there is
--        no bucket)}
-- ERRORS TRYAGAIN (nothing written)
-- BOUND constant
--@include lib/time.lua
--@include lib/keys.lua
--@include lib/guard.lua
--@include lib/run.lua
local err = guard({ K_CLOCK, K_BUCKETS })
if err then return err end
local now = now_ms()
local W, lead, done = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local c = redis.call('HMGET', K_CLOCK, 'horizon', 'expanded', 'expanding')
local horizon, expanded = tonumber(c[1]) or 0, tonumber(c[2]) or 0
local function handed_out(number) return string.format('%.0f', number) .. '@' .. run_id() end
if done >= expanded and c[3] == handed_out(done) then
  expanded = done + 1
  redis.call('HSET', K_CLOCK, 'expanded', expanded)
end
local head = redis.call('ZRANGE', K_BUCKETS, expanded, '+inf', 'BYSCORE', 'LIMIT', 0, 1)
local number = head[1] and tonumber(head[1]) or -1
if number >= 0 and number * W <= now + lead then
  -- Rule 3: before a bucket is indexed the horizon is its end, so that what comes meanwhile is indexed at once.
  redis.call('HSET', K_CLOCK, 'horizon', math.max(horizon, (number + 1) * W), 'expanding', handed_out(number))
  return { now, number, redis.call('HLEN', k_bucket(number)), now }
end
-- The size of what comes next, so that the caller can give a large bucket a longer lead.
local next_fields, next_look = 0, -1
if number >= 0 then next_fields, next_look = redis.call('HLEN', k_bucket(number)), number * W - lead end
local edge = math.floor((now + lead) / W) + 1
if number >= 0 and number < edge then edge = number end
if edge * W > horizon then redis.call('HSET', K_CLOCK, 'horizon', edge * W, 'expanded', edge) end
return { now, -1, next_fields, next_look }
