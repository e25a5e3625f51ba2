-- Reads a page of a person's history.
--
-- KEYS: 1 meta, 2 history, 3 done, 4 request, 5 outcome
-- ARGV: 1 first entry, 2 last entry (both as ZRANGEBYLEX has them), 3 most entries, 4 most bytes: the page ends behind the
--       entry that reaches them
-- Answer: generation, then of each entry: itself, record, request or '', outcome or ''.
local answer = {redis.call('HGET', KEYS[1], 'generation')}
local entries = redis.call('ZRANGEBYLEX', KEYS[2], ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])
local most, size = tonumber(ARGV[4]), 0
for _, entry in ipairs(entries) do
  local seq = string.format('%.0f', struct.unpack('>I8', entry, #entry - 32))
  local rec = redis.call('HGET', KEYS[3], seq)
  -- An entry of an end that did not come to be is left out.
  if rec and string.sub(rec, 11, 18) == string.sub(entry, #entry - 40, #entry - 33) then
    local request, outcome = redis.call('HGET', KEYS[4], seq) or '', redis.call('HGET', KEYS[5], seq) or ''
    local n = #answer
    answer[n + 1], answer[n + 2], answer[n + 3], answer[n + 4] = entry, rec, request, outcome
    size = size + #request + #outcome
    if size > most then break end
  end
end
return answer
