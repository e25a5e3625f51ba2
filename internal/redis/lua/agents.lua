-- Keeps which agents may dial home, and the one-time codes that let them join.
--
-- KEYS, all in one slot: 1 meta
--    2 agentcodes  hash  name → the code, JSON; written and read by agents.go
--    3 agents      hash  name → the agent, JSON without key; written and read by agents.go
--    4 agentkeys   hash  key's hash → name
--    5 agentkey    hash  name → key's hash
-- ARGV: 1 generation, then one of
--    2 "code",  3 name, 4 what is kept of it
--    2 "join",  3 name, 4 what is kept of the code, 5 agent, 6 key's hash
--    2 "touch", 3 name, 4 agent as it was, 5 agent as it is
--    2 "remove", 3 name
--    2 "sweep", 3 name, 4 what is kept of the code
-- Answer: "ok", "missing" (there is none, or not any more) or "other" (the Redis is not the studio's).
local call = redis.call
if call('HGET', KEYS[1], 'generation') ~= ARGV[1] then return 'other' end
local act, name = ARGV[2], ARGV[3]

local function unkey()
  local old = call('HGET', KEYS[5], name)
  if old then
    call('HDEL', KEYS[4], old)
    call('HDEL', KEYS[5], name)
  end
end

if act == 'code' then
  call('HSET', KEYS[2], name, ARGV[4])
elseif act == 'join' then
  if call('HGET', KEYS[2], name) ~= ARGV[4] then return 'missing' end
  call('HDEL', KEYS[2], name)
  unkey()
  call('HSET', KEYS[3], name, ARGV[5])
  call('HSET', KEYS[4], ARGV[6], name)
  call('HSET', KEYS[5], name, ARGV[6])
elseif act == 'touch' then
  if call('HGET', KEYS[3], name) ~= ARGV[4] then return 'missing' end
  call('HSET', KEYS[3], name, ARGV[5])
elseif act == 'remove' then
  unkey()
  if call('HDEL', KEYS[2], name) + call('HDEL', KEYS[3], name) == 0 then return 'missing' end
elseif act == 'sweep' then
  if call('HGET', KEYS[2], name) == ARGV[4] then call('HDEL', KEYS[2], name) end
end
return 'ok'
