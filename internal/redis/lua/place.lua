-- Keeps a name that the first who gives one decides.
--
-- KEYS: 1 meta
-- ARGV: 1 generation, 2 field, 3 the name to keep if there is none
-- Answer: the name that is kept; '' when this is another Redis.
if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] then return '' end
redis.call('HSETNX', KEYS[1], ARGV[2], ARGV[3])
return redis.call('HGET', KEYS[1], ARGV[2])
