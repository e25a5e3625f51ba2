-- Says how far the queue is.
--
-- KEYS: 1 meta, 2 tick, 3 log
-- Answer: generation, last number given and, where the log has entries, the last one's id, session and batch.
local answer = {redis.call('HGET', KEYS[1], 'generation'), redis.call('GET', KEYS[2]) or '0'}
local last = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)[1]
if last then
  answer[3] = last[1]
  for i = 1, #last[2], 2 do
    if last[2][i] == 's' then answer[4] = last[2][i + 1] end
    if last[2][i] == 'b' then answer[5] = last[2][i + 1] end
  end
end
return answer
