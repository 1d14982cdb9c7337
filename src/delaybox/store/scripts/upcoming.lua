#!lua flags=no-writes,allow-oom
-- How many tasks become due in each of the coming steps of time. Exact up to the horizon, by the near indexes; behind it by the
-- lengths of buckets, of which a step that covers a part gets that part.
-- KEYS  1 hash tag of the partition
-- ARGV  1 length of a step (ms), 2 steps, 3 bucket width (ms)
-- REPLY {now ms, tasks of step 1, WORKER tasks of step 1, HTTP tasks of step 1, tasks of step 2, ...}. Behind the horizon no task counts as
--       a WORKER or HTTP task, because buckets do not name types. A rescheduled task may count at its old and its new time there.
-- BOUND 60 steps and 500 buckets a call
--@include lib/time.lua
--@include lib/keys.lua
local now, step, steps, width = now_ms(), tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if steps > 60 then return redis.error_reply('ERR upcoming: ' .. steps .. ' steps; at most 60') end
local horizon = math.max(tonumber(redis.call('HGET', K_CLOCK, 'horizon')) or 0, now)
local lengths, last = {}, now + steps * step
if last > horizon then
  local first = int(math.floor(horizon / width))
  for _, n in ipairs(redis.call('ZRANGE', K_BUCKETS, first, int(math.floor(last / width)), 'BYSCORE', 'LIMIT', 0, 500)) do
    lengths[#lengths + 1] = { tonumber(n) * width, redis.call('HLEN', T .. ':b:' .. n) }
  end
end
-- Most near indexes hold nothing: of twelve in each of 60 steps a look at each took longer than all else.
local filled = {}
for n = 0, 11 do if redis.call('ZCARD', K_NEAR[n]) > 0 then filled[#filled + 1] = n end end
local reply, sum, given = { now }, 0, 0
for i = 1, steps do
  local from, to = now + (i - 1) * step, now + i * step
  local all, workers, hooks = 0, 0, 0
  if from < horizon then
    local past = '(' .. int(math.min(to, horizon))
    for _, n in ipairs(filled) do
      local found = redis.call('ZCOUNT', K_NEAR[n], int(from), past)
      all = all + found
      if n > 7 then hooks = hooks + found elseif n > 3 then workers = workers + found end
    end
  end
  for _, b in ipairs(lengths) do
    local begins = math.max(b[1], from, horizon)
    local ends = math.min(b[1] + width, to)
    -- The horizon can lie inside of a bucket only while none is expanded.
    if ends > begins then all = all + b[2] * (ends - begins) / (b[1] + width - math.max(b[1], horizon)) end
  end
  -- Sums are rounded, not steps: a bucket that reaches over several counts as many tasks as it has.
  sum = sum + all
  reply[#reply + 1] = math.floor(sum + 0.5) - given
  given = math.floor(sum + 0.5)
  reply[#reply + 1], reply[#reply + 2] = workers, hooks
end
return reply
