-- What scripts that end tasks need for most of them. To make all of lib/keys.lua and lib/record.lua, which spell the same, takes longer than
-- what is done for a lone task.
local T = KEYS[1]
local K_LEASES, K_LEASED = T .. ':leases', T .. ':leased'
-- The first byte of a record that has an extension is at least this.
local FRESH_EXT = 0x20
