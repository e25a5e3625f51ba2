-- Looks up a session or a token, and whose it is.
--
-- KEYS: 1 meta, 2 sessions or tokens, 3 users, all as in accounts.lua
-- ARGV: 1 hash of the session or token
-- Answer: generation and, where it is there, its record and its person's.
local answer = {redis.call('HGET', KEYS[1], 'generation')}
local record = redis.call('HGET', KEYS[2], ARGV[1])
local user = record and redis.call('HGET', KEYS[3], cjson.decode(record).user)
if user then answer[2], answer[3] = record, user end
return answer
