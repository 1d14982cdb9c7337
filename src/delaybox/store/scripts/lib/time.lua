-- now_ms: integer Unix ms of this server, read once per script (rule 11).
local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- Decimal text of an integer below 2^53. Lua's own tostring breaks above 10^14 (rule 11). A number that is passed to redis.call as an
-- argument of its own does not need this: the server writes integers exactly, and faster.
local function int(n)
  return string.format('%.0f', n)
end
