#!lua flags=allow-oom
-- Takes a member that ends off the list, so that others take over at once.
-- KEYS  1 members hash
-- ARGV  1 member id
-- REPLY version of the list
-- ERRORS TRYAGAIN (nothing written)
-- BOUND constant
--@include lib/time.lua
--@include lib/guard.lua
--@include lib/members.lua
local err = guard(MEMBER_KEYS)
if err then return err end
return forget_member(ARGV[1]) and list_changed(now_ms()) or list_version()
