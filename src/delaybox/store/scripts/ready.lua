#!lua
-- Whether a new task would be stored now: it writes nothing, but may write and is refused when memory is full, so a server that
-- cannot write its disk, is read-only, lacks replicas or is full refuses it at once and says why.
-- KEYS  1 hash tag of the partition
-- REPLY {now ms, id of the store that lies here or ''}, as ping
-- BOUND constant
--@include lib/time.lua
--@include lib/keys.lua
return { now_ms(), redis.call('HGET', K_CLOCK, 'store') or '' }
