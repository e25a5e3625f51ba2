-- Begins, ends or undoes the filling of an empty queue; and begins the work of a server.
--
-- KEYS: 1 meta, 2 tick, 3 last, 4 ids, 5 numbers, and in any order all others that a restored job is in (they are taken away to
--       undo)
-- ARGV: 1 generation, 2 "start", "begin", "end" or "undo"; with "start": 3 the time before which sessions are over; with "end":
--       3 the least next number, then persons and their marks in turns
-- Answer: "ok", "full" (there are jobs or marks), "nothing" (to undo) or "other".
local call = redis.call
if call('HGET', KEYS[1], 'generation') ~= ARGV[1] then return 'other' end
local half = call('HEXISTS', KEYS[1], 'restoring') == 1
if ARGV[2] == 'begin' then
  if call('HLEN', KEYS[4]) > 0 or call('HLEN', KEYS[5]) > 0 then return 'full' end
  call('HSET', KEYS[1], 'restoring', '1')
  return 'ok'
end
if ARGV[2] == 'start' then
  -- Redis may have lost the last numbers that it gave, and nobody who knows them may be left.
  if call('EXISTS', KEYS[2]) == 1 then call('INCRBY', KEYS[2], 1048576) end
  local sessions = call('HGETALL', KEYS[3])
  for i = 1, #sessions, 2 do
    local _, _, time = cmsgpack.unpack(sessions[i + 1])
    if time < tonumber(ARGV[3]) then call('HDEL', KEYS[3], sessions[i]) end
  end
end
if ARGV[2] == 'undo' or ARGV[2] == 'start' then
  if not half then return 'nothing' end
  for i = 4, #KEYS do call('UNLINK', KEYS[i]) end
else
  if tonumber(call('GET', KEYS[2]) or 0) < tonumber(ARGV[3]) then call('SET', KEYS[2], ARGV[3]) end
  for i = 4, #ARGV, 2 do call('HSET', KEYS[5], ARGV[i], ARGV[i + 1]) end
end
call('HDEL', KEYS[1], 'restoring')
return 'ok'
