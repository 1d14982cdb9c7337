#!lua flags=allow-oom
-- Changes the rules of queues: all of the named ones, or none.
-- KEYS  1 hash of the rules: queue -> rules (JSON); the empty field holds the version, which rises with each change
-- ARGV  1 '1' = only where no rules were ever stored, 2 most queues with rules, 3 a version that the new one must be above,
--       then (queue, rules as the caller read them or '' for none, new rules or '' to delete) ...
-- REPLY {'stored', version} or {'changed', version} where other rules stand by now, {'full', version} where there is no room
-- ERRORS TRYAGAIN (nothing written)
-- BOUND 1,000 queues
--@include lib/time.lua
--@include lib/guard.lua
local K = KEYS[1]
local err = guard({ K })
if err then return err end
local version = tonumber(redis.call('HGET', K, '') or '') or 0
if ARGV[1] == '1' and version > 0 then return { 'changed', version } end
local added = 0
for i = 4, #ARGV, 3 do
  local now = redis.call('HGET', K, ARGV[i]) or ''
  if now ~= ARGV[i + 1] then return { 'changed', version } end
  if now == '' and ARGV[i + 2] ~= '' then added = added + 1 end
end
if added > 0 and math.max(redis.call('HLEN', K) - 1, 0) + added > tonumber(ARGV[2]) then return { 'full', version } end
for i = 4, #ARGV, 3 do
  if ARGV[i + 2] == '' then redis.call('HDEL', K, ARGV[i]) else redis.call('HSET', K, ARGV[i], ARGV[i + 2]) end
end
-- The moment, where a counter would do on one server: after a fail-over that lost the last change, the next one would get its number, by which
-- partitions at other servers know what they have.
version = math.max(version + 1, now_ms(), ARGV[3] + 1)
redis.call('HSET', K, '', version)
return { 'stored', version }
