-- Keys of one partition; store/keys.py spells the same. T is the hash tag, {prefix:p}.
local T = KEYS[1]
-- The command for messages on the partition's channels. On a cluster store/loader.py makes it SPUBLISH, which reaches the
-- subscribers at this server alone and costs the others nothing.
local NOTIFY = 'PUBLISH'
local K_BUCKETS, K_CLOCK, K_LEASES = T .. ':buckets', T .. ':clock', T .. ':leases'
-- id -> lease id of every leased task: a hint, for whoever asks where a task is.
local K_LEASED = T .. ':leased'
local K_DEAD, K_DEAD_AT = T .. ':dead', T .. ':dead:at'
local K_RESULTS, K_RESULTS_AT = T .. ':results', T .. ':results:at'
local K_QUAR, K_QUAR_AT = T .. ':quarantine', T .. ':quarantine:at'
local K_KAFKA = T .. ':kafka'
-- group + NUL + id, all scored 0: the tasks of each group that have not ended.
local K_GROUPS = T .. ':groups'
-- Near by priority: 0 to 3 for those who keep time, 4 to 7 the same of WORKER tasks, 8 to 11 of HTTP tasks, which guests take. hooks: where
-- hints of HTTP tasks go, set by clock() of lib/hint.lua.
local K_NEAR = {
  [0] = T .. ':near:0', T .. ':near:1', T .. ':near:2', T .. ':near:3',
  T .. ':near:w:0', T .. ':near:w:1', T .. ':near:w:2', T .. ':near:w:3',
  T .. ':near:h:0', T .. ':near:h:1', T .. ':near:h:2', T .. ':near:h:3',
  hooks = 0,
}
-- Where the near indexes of a lane start, by its first byte, which is the task type's letter ('w' is 119, 'h' 104); and the index of a task.
local function near_base(letter) return letter == 119 and 4 or letter == 104 and K_NEAR.hooks or 0 end
local function near_of(flags, lane) return flags % 4 + near_base(string.byte(lane)) end
-- What scripts must know of the rules of a queue, as lanes spell it: whether it is paused, and its other rules as text, or nil (`rule_of`
-- in lib/pauses.lua). `codes` in store/rules.py writes it: fields that hold many queues each, because a field for each of 10,000 queues
-- is memory in every partition that slows down all else (docs/storage.md, rule 16). Two fields are read, whatever the number of queues.
local function steered_rules(queue)
  local function find(part, name)
    local _, at = string.find(part or '', '\0' .. name .. '\1', 1, true)
    if at then return string.match(part, '^(.)([^%z]*)', at + 1) end
  end
  local parts = redis.call('HMGET', T .. ':steered:groups', string.sub(redis.sha1hex(queue), 1, 2), '*')
  if not parts[1] and not parts[2] and redis.call('HEXISTS', K_CLOCK, 'grouped') == 0 then
    -- No node of this version has copied yet: what stands there is of nodes of the previous one.
    local codes = redis.call('HMGET', T .. ':steered', queue, '*', queue .. ':', '*:')
    return (codes[1] or codes[2]) == '1', codes[3] or codes[4]
  end
  local pause, text = find(parts[1], queue)
  local others, rest = find(parts[2], '*')
  if not pause or pause == '-' then pause = others end
  if not text or text == '' then text = rest end
  return pause == '1', text
end
-- The lanes with ready work that wait because their queue is paused.
local K_PARKED = T .. ':parked'
-- State of fairness keys (lib/fair.lua).
local K_FAIR = T .. ':fair'
-- Lanes of limited queues with ready work (lib/limits.lua, which spells the other keys of limits).
local K_LIMITED = T .. ':limited'
-- What clock() of lib/hint.lua knows: horizon, wake, wake:w, store, looked, steered, fair, wake:h.
local function clock_fields()
  return redis.call('HMGET', K_CLOCK, 'horizon', 'wake', 'wake:w', 'store', 'looked', 'steered', 'fair', 'wake:h')
end
-- %d: of a whole number, which fits. What writes %.0f costs the server four times as much (2,300 instructions).
local function k_bucket(n) return T .. ':b:' .. string.format('%d', n) end
local function k_lease(lid) return T .. ':lease:' .. lid end
local function k_body(id) return T .. ':body:' .. id end
local function k_idem(key) return T .. ':idem:' .. key end
local function k_cancelled(id) return T .. ':cancelled:' .. id end
local function k_ready(lane, critical)
  if critical then return T .. ':ready:' .. lane .. ':critical' end
  return T .. ':ready:' .. lane
end
-- Lanes with ready work, by task type; critical ones in a set of their own.
local function k_active(letter, critical)
  if critical then return T .. ':active:' .. letter .. ':critical' end
  return T .. ':active:' .. letter
end
-- The same by the function or command that they name; no name holds a colon, so none can be mistaken for another key.
local function k_active_named(letter, name, critical)
  return k_active(letter, critical) .. ':name:' .. name
end
