-- Writes what people took of the GPUs and what was learned of how long graphs take, or forgets a person.
--
-- KEYS, all in one slot: 1 meta
--    2 hours    hash   hour → jobs, milliseconds and millionths of money: "12 3400 5600"; the last may be missing
--    3 when     zset   the same hours, in order of time; scores are 0
--    4 learned  hash   key → body
--    An hour: when it began (8 bytes, big end first), group behind its length in 2 bytes, person.
-- ARGV: 1 generation, then one of
--    2 "save", 3 hours that are less than this (8 bytes) go, 4 how many hours follow, 5 and on: hour and what it has in turns, then
--      in turns: key, body behind a '=', or '' to forget it
--    2 "forget", 3 person: what they took is added to that of all who are gone
-- Answer: "ok" or "other".
local call = redis.call
if call('HGET', KEYS[1], 'generation') ~= ARGV[1] then return 'other' end

local function put(hour, has)
  call('HSET', KEYS[2], hour, has)
  call('ZADD', KEYS[3], 0, hour)
end
local function drop(hour)
  call('HDEL', KEYS[2], hour)
  call('ZREM', KEYS[3], hour)
end

if ARGV[2] == 'save' then
  local last = 4 + 2 * tonumber(ARGV[4])
  for i = 5, last, 2 do put(ARGV[i], ARGV[i + 1]) end
  for i = last + 1, #ARGV, 2 do
    if ARGV[i + 1] == '' then
      call('HDEL', KEYS[4], ARGV[i])
    else
      call('HSET', KEYS[4], ARGV[i], string.sub(ARGV[i + 1], 2))
    end
  end
  for _, hour in ipairs(call('ZRANGEBYLEX', KEYS[3], '-', '(' .. ARGV[3])) do drop(hour) end
  return 'ok'
end

local function numbers(hour)
  local jobs, ms, spent = string.match(call('HGET', KEYS[2], hour) or '0 0', '^(%S+) (%S+) ?(%S*)$')
  return tonumber(jobs), tonumber(ms), tonumber(spent) or 0
end
for _, hour in ipairs(call('ZRANGE', KEYS[3], 0, -1)) do
  local at = 11 + struct.unpack('>I2', hour, 9)
  if string.sub(hour, at) == ARGV[3] then
    local all = string.sub(hour, 1, at - 1)
    local jobs, ms, spent = numbers(hour)
    local others, theirs, money = numbers(all)
    put(all, string.format('%.0f %.0f %.0f', jobs + others, ms + theirs, spent + money))
    drop(hour)
  end
end
return 'ok'
