#!lua flags=allow-oom
-- Unlinks the hashes of ended tasks whose last entry is old.
-- KEYS  1 hash tag of the partition
-- ARGV  1 how long ends are kept ms, 2 those of failures ms
-- REPLY how many hashes were unlinked
-- ERRORS TRYAGAIN (nothing written)
-- BOUND 50 hashes of each family, at most 1,000 entries each
--@include lib/time.lua
--@include lib/tag.lua
--@include lib/guard.lua
--@include lib/history_keys.lua
--@include lib/history.lua
local now = now_ms()
local err = guard({ K_HISTORY, K_HISTORY_SIZES, k_history_at('s'), k_history_at('f') })
if err then return err end
local gone = 0
for family, keep in pairs({ s = tonumber(ARGV[1]), f = tonumber(ARGV[2]) }) do
  for _, name in ipairs(redis.call('ZRANGE', k_history_at(family), '-inf', int(now - keep), 'BYSCORE', 'LIMIT', 0, 50)) do
    history_drop(name)
    gone = gone + 1
  end
end
return gone
