-- Takes, renews or gives back a lease.
--
-- KEYS: 1 meta, 2 lease (its fence and holder, with an end), 3 fences (the last fence that was given)
-- ARGV: 1 generation, 2 holder, 3 milliseconds that it is held, or '0' to give it back, 4 the highest fence that the holder knows
-- Answer: {fence, holder} of who holds it now; {0, ''} when nobody does; {-1, ''} when this is another Redis.
local call = redis.call
if call('HGET', KEYS[1], 'generation') ~= ARGV[1] then return {-1, ''} end
local fence, holder
local held = call('GET', KEYS[2])
if held then
  local at = string.find(held, ' ', 1, true)
  fence, holder = tonumber(string.sub(held, 1, at - 1)), string.sub(held, at + 1)
  if holder ~= ARGV[2] then return {fence, holder} end
end
if ARGV[3] == '0' then
  call('DEL', KEYS[2])
  return {0, ''}
end
if held then
  call('PEXPIRE', KEYS[2], ARGV[3])
  return {fence, holder}
end
fence = call('INCR', KEYS[3])
if fence <= tonumber(ARGV[4]) then -- Redis has lost the last ones
  fence = tonumber(ARGV[4]) + 1
  call('SET', KEYS[3], string.format('%.0f', fence))
end
call('SET', KEYS[2], string.format('%.0f', fence) .. ' ' .. ARGV[2], 'PX', ARGV[3])
return {fence, ARGV[2]}
