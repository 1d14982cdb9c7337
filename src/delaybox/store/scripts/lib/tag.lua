-- The hash tag alone, for scripts that need no other key of lib/keys.lua: to make all of it takes longer than what they do.
local T = KEYS[1]
