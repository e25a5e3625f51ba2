-- Finds a job, with its payloads when they are wanted.
--
-- KEYS: 1 meta, 2 ids or prompts, 3 open, 4 done, 5 request, 6 outcome
-- ARGV: 1 field of KEYS[2], 2 "1": with request and outcome
-- Answer: generation and, where there is such a job, seq, record, and the payloads or ''.
local generation = redis.call('HGET', KEYS[1], 'generation')
local seq = redis.call('HGET', KEYS[2], ARGV[1])
local rec = seq and (redis.call('HGET', KEYS[3], seq) or redis.call('HGET', KEYS[4], seq))
if not rec then return {generation} end
if ARGV[2] ~= '1' then return {generation, seq, rec} end
return {generation, seq, rec, redis.call('HGET', KEYS[5], seq) or '', redis.call('HGET', KEYS[6], seq) or ''}
