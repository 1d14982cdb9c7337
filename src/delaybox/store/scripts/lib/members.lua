-- The list of members: processes with an engine. All keys are in the slot of the hash that holds their records, which is named
-- without a tag: the name of that hash is the tag of the others. store/keys.py spells the same.
local K_MEMBERS = KEYS[1]
-- Zsets id -> ms: the last beat of those that live, of those that went silent, and when one that came back ranks again.
local K_BEATS, K_SILENT, K_RETURNED =
  '{' .. K_MEMBERS .. '}:beats', '{' .. K_MEMBERS .. '}:silent', '{' .. K_MEMBERS .. '}:returned'
-- Zset id -> number of the last beat after which others must read the member's record anew.
local K_NOTED = '{' .. K_MEMBERS .. '}:noted'
-- Hash: version (of who ranks), noted (the largest number there), beat (ms of anybody's last one, or of one a moment before), calm (ms
-- until which nobody is judged), swept (ms of the last beat that looked for silent members), returned (how many came back or are
-- ending; maybe more than there are: looked at only while it is not 0).
local K_LIST = '{' .. K_MEMBERS .. '}:list'
local MEMBER_KEYS = { K_MEMBERS, K_BEATS, K_SILENT, K_RETURNED, K_NOTED, K_LIST }
-- In place of the moment when a member ranks again: one that is ending never does.
local NEVER = 1e15
-- If no member has beaten for this long, the server was away, and not the members.
local OUTAGE = 1000
-- A member that has not beaten for this long ranks no more (core/membership.py has the same), and one that was silent ranks again after
-- it has beaten in time for that long.
local SILENT, PUNCTUAL = 1500, 5000
-- Records of members that went silent are kept for five leases of the default length: by them a reaper sees whether most nodes went away
-- at once.
local KEPT = 75000

local function list_version() return tonumber(redis.call('HGET', K_LIST, 'version') or '') or 0 end

-- Raises the version and publishes it. Returns it. Versions are moments: after a fail-over or a loss of these keys a counter would
-- come to numbers a second time, which members take for lists that they have read.
local function list_changed(now)
  local version = math.max(list_version() + 1, now)
  redis.call('HSET', K_LIST, 'version', string.format('%.0f', version))
  -- The hash is <prefix>:nodes, and the channel <prefix>:members.
  redis.call('PUBLISH', string.sub(K_MEMBERS, 1, -6) .. 'members', string.format('%.0f', version))
  return version
end

-- Others read this member's record anew with the list. Numbers are moments, as versions are.
local function note(id, now)
  local number = math.max((tonumber(redis.call('HGET', K_LIST, 'noted') or '') or 0) + 1, now)
  redis.call('ZADD', K_NOTED, number, id)
  redis.call('HSET', K_LIST, 'noted', string.format('%.0f', number))
end

-- From when on a member ranks. Returns whether that is new of it.
local function ranks_from(id, at)
  redis.call('HSET', K_LIST, 'returned', 1)
  return redis.call('ZADD', K_RETURNED, at, id) == 1
end

-- Takes a member off the list. Returns whether it was on it.
local function forget_member(id)
  redis.call('HDEL', K_MEMBERS, id)
  redis.call('ZREM', K_NOTED, id)
  return redis.call('ZREM', K_BEATS, id) + redis.call('ZREM', K_SILENT, id) + redis.call('ZREM', K_RETURNED, id) > 0
end
