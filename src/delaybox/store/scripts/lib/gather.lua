-- Collects arguments, to send one command with many values for each key, at most 1,000 values a call: unpack of an
-- unbounded list fails.
local function gather()
  return { order = {}, by = {} }
end

local function add1(g, key, a)
  local l = g.by[key]
  if not l then l = {} g.by[key] = l g.order[#g.order + 1] = key end
  l[#l + 1] = a
end

local function add2(g, key, a, b)
  local l = g.by[key]
  if not l then l = {} g.by[key] = l g.order[#g.order + 1] = key end
  local n = #l
  l[n + 1] = a l[n + 2] = b
end

local function flush(g, command)
  for _, key in ipairs(g.order) do
    local l = g.by[key]
    for from = 1, #l, 1000 do
      redis.call(command, key, unpack(l, from, math.min(from + 999, #l)))
    end
  end
end
