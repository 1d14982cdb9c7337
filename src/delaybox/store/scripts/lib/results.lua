-- What tasks leave when they end, and who is told. Needs keys.
-- Results: value = resultLen:u32 result record; the record is empty while the task itself stands somewhere else.
local function result_value(result, rec)
  return struct.pack('>I4', #result) .. result .. rec
end

local function keep_result(id, result, rec, until_ms)
  redis.call('HSET', K_RESULTS, id, result_value(result, rec))
  redis.call('ZADD', K_RESULTS_AT, until_ms, id)
end

-- Publishes one message with the ids of tasks that have ended, for those who wait for them. A lost message does no harm, because
-- they poll as well. pcall: where an access list forbids PUBLISH, the script must not fail after its writes.
-- result: of the only id, if it is short and kept for a second at least: 'f', resultLen:u32, result and the first 16 bytes of the record, as `states`
-- replies it. It follows the id, so that nobody has to look for it. Such a message is no multiple of 16 bytes long: a NUL
-- byte behind it makes it so. Versions that know of ids alone find the task's id, and behind it none that they wait for.
local function announce(ids, channel, result)
  if #ids == 0 then return end
  local message = table.concat(ids)
  if result and #ids == 1 then
    message = message .. result
    if #message % 16 == 0 then message = message .. '\0' end
  end
  redis.pcall(NOTIFY, channel, message)
end
