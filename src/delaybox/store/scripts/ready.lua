#!lua
-- Checks whether a new task could be stored now. It writes nothing, but it is not marked as read-only or as allowed when memory is
-- full. So a server that cannot write to its disk, is a replica, lacks replicas or is full refuses it, with the reason.
-- KEYS  1 hash tag of the partition
-- REPLY {now ms, id of the store that lies here or ''}, as ping
-- BOUND constant
--@include lib/time.lua
--@include lib/keys.lua
return { now_ms(), redis.call('HGET', K_CLOCK, 'store') or '' }
