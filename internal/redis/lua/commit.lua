-- Writes documents if those that were read are still as they were.
--
-- KEYS: 1 meta, 2 mark of this commit (it is there for a while once it has happened), 3 and on: what is read and written
-- ARGV: 1 generation, 2 milliseconds that the mark stays, 3 how many conditions; of each: number of its hash in KEYS, field, '1'
--       and the value, or '0' and '' when there was none. Then what is written, of each: number in KEYS, field, what to do, value:
--       '1' set the field, '0' delete it, 'n' add a number to it; of a sorted set 'z' put the member in with this score, 'x' take it
--       out; 'p' send the field's text to a channel
-- Answer: "done", "stale" (nothing was written) or "other".
local call = redis.call
if call('HGET', KEYS[1], 'generation') ~= ARGV[1] then return 'other' end
if call('EXISTS', KEYS[2]) == 1 then return 'done' end
local conditions, i = tonumber(ARGV[3]), 4
for _ = 1, conditions do
  local is = call('HGET', KEYS[tonumber(ARGV[i])], ARGV[i + 1])
  if ARGV[i + 2] == '1' and is ~= ARGV[i + 3] or ARGV[i + 2] == '0' and is then return 'stale' end
  i = i + 4
end
while i <= #ARGV do
  local key, field, what, value = KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  if what == '1' then
    call('HSET', key, field, value)
  elseif what == '0' then
    call('HDEL', key, field)
  elseif what == 'n' then
    call('HINCRBY', key, field, value)
  elseif what == 'z' then
    call('ZADD', key, value, field)
  elseif what == 'x' then
    call('ZREM', key, field)
  else
    call('SPUBLISH', key, field)
  end
  i = i + 4
end
call('SET', KEYS[2], '1', 'PX', ARGV[2])
return 'done'
