-- Changes the queue: a list of commands of one server, each conditional, together in one step.
--
-- KEYS, all in one slot:
--    1 meta     hash    what this Redis holds: generation, studio, form
--    2 tick     number  last number given: sequences, fences and ends come from it
--    3 last     hash    session → its last batch: number, place in the log, time, results
--    4 log      stream  what changed, numbered without gaps: 0-1, 0-2, …
--    5 open     hash    seq → record of a job that is pending or running
--    6 done     hash    seq → record of a final job
--    7 request  hash    seq → what it asks for
--    8 outcome  hash    seq → how it ended
--    9 sealed   hash    seq → sealed credentials
--   10 ids      hash    job id → seq
--   11 prompts  hash    person and prompt id → seq of the job that is open or in history
--   12 keys     hash    person and idempotency key → until (8 bytes), seq
--   13 keyends  zset    the same field, by the time at which it expires
--   14 numbers  hash    person → numbers up to here are given
--   15 settings hash    name → value
--   16 history  zset    entries of final jobs in history, in order of person and end
--   17 gone     zset    entries of final jobs that are out of history
--   18 past     zset    seq of final jobs, by the time at which they finished
--   19 tries    hash    seq → its attempts that are over, a line of JSON each
-- ARGV:
--    1 generation: another one changes nothing
--    2 session, 3 number of the batch: a batch that comes again gives its answer again
--    4 "do", or "void": the batch shall never happen if it has not
--    5 now, in milliseconds
--    6 how many numbers the commands may need
--    7 the highest number that the server has seen: a Redis that has lost changes goes on far beyond it
--    8 and on: commands, each a letter and its arguments; numbers in 8 bytes, big end first, unless said otherwise
-- Answer: {"done", place in the log or 0, last number given, results…}, {"again", the same}, {"void"} or {"other"}. Each
-- command gives one result, 0 where its condition did not hold.
--
-- A record: state (1 letter), flags, fence, end, started, finished, hash of the workflow id (8 each), class (1), number, lease (8),
-- length of what never changes (4); that: person, prompt id, job id, idempotency key (each behind its length in 2), and more, and at
-- its end the deadline (8) of one that has one, which a rank changes; attempt (behind its length in 4), and how it ended.

local function key(n) return KEYS[n] end
local META, TICK, LAST, LOG, OPEN, DONE, REQUEST, OUTCOME, SEALED = 1, 2, 3, 4, 5, 6, 7, 8, 9
local IDS, PROMPTS, KEYED, KEYENDS, NUMBERS, SETTINGS, HISTORY, GONE, PAST, TRIES = 10, 11, 12, 13, 14, 15, 16, 17, 18, 19
local POSTED, STOP, HIDDEN, HELD, HAS_SEALED, HAS_KEY, DATED = 1, 2, 4, 8, 16, 32, 64

-- A Redis that is killed while it writes may, two starts later, have done the first commands of a step and not the rest. So
-- what makes a change true comes last in it, and what came before is overwritten when the change comes again.

local call, sub, byte, char = redis.call, string.sub, string.byte, string.char
local pack, unpack8 = struct.pack, struct.unpack
local bor, band = bit.bor, bit.band
local NOTHING = string.rep('\0', 8)

if call('HGET', key(META), 'generation') ~= ARGV[1] then return {'other'} end
local session, number, now = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[5])
local seen = call('HGET', key(LAST), session)
if seen then
  local at, place, _, results = cmsgpack.unpack(seen)
  if at == number and results then
    local again = {'again', place, tonumber(call('GET', key(TICK)) or 0)}
    for i = 1, #results do again[i + 3] = results[i] end
    return again
  end
  if at >= number then return {'void'} end
end
if ARGV[4] == 'void' then
  call('HSET', key(LAST), session, cmsgpack.pack(number, 0, now, false))
  return {'void'}
end

local tick, highest = 0, tonumber(ARGV[7])
local need = tonumber(ARGV[6])
if need > 0 then
  tick = call('INCRBY', key(TICK), need) - need
  if tick < highest then tick = call('INCRBY', key(TICK), highest - tick + 1048576) - need end
end
local function take()
  tick = tick + 1
  return tick
end
local function text(n) return string.format('%.0f', n) end

-- What the log tells the other servers: letter, seq, record and more, each behind its length.
local said = {}
local function say(what, seq, rec, more)
  said[#said + 1] = what .. pack('>I8', tonumber(seq)) .. pack('>I4', #rec) .. rec .. pack('>I4', #more) .. more
end

local function flags(rec, set, clear) return char(bor(band(byte(rec, 2), 255 - clear), set)) end

-- Where the parts of what never changes begin and end: person, prompt id, job id, key.
local function person(rec) return sub(rec, 64, 65 + unpack8('>I2', rec, 64)) end
local function names(rec)
  local at = 66 + unpack8('>I2', rec, 64)
  local id = at + 2 + unpack8('>I2', rec, at)
  local keyed = id + 2 + unpack8('>I2', rec, id)
  local prompt = sub(rec, 64, id - 1)
  return prompt, sub(rec, id + 2, keyed - 1), sub(rec, keyed + 2, keyed + 1 + unpack8('>I2', rec, keyed))
end
local function entry(seq, rec)
  return person(rec) .. sub(rec, 11, 18) .. pack('>I8', tonumber(seq)) .. sub(rec, 1, 1) .. sub(rec, 19, 42)
end

-- time is when a final job finished.
local function time(rec) return text(unpack8('>i8', rec, 27)) end

local function running(seq, fence)
  local rec = call('HGET', key(OPEN), seq)
  if rec and byte(rec, 1) == 114 and sub(rec, 3, 10) == fence then return rec end
end
local function pending(seq)
  local rec = call('HGET', key(OPEN), seq)
  if rec and byte(rec, 1) == 112 then return rec end
end
local function put(what, seq, rec)
  call('HSET', key(OPEN), seq, rec)
  say(what, seq, rec, '')
  return 1
end

local function raise(user, mark)
  if mark == 0 then return end
  local old = call('HGET', key(NUMBERS), user)
  if not old or tonumber(old) < mark then call('HSET', key(NUMBERS), user, text(mark)) end
end

-- hide takes a final job out of history, and drops what it asked and gave.
local function hide(seq, rec)
  call('ZREM', key(HISTORY), entry(seq, rec))
  local hidden = sub(rec, 1, 1) .. flags(rec, HIDDEN, 0) .. sub(rec, 3)
  call('HSET', key(DONE), seq, hidden)
  call('ZADD', key(GONE), 0, entry(seq, hidden))
  call('HDEL', key(REQUEST), seq)
  call('HDEL', key(OUTCOME), seq)
  local prompt = names(rec)
  if call('HGET', key(PROMPTS), prompt) == seq then call('HDEL', key(PROMPTS), prompt) end
end

local function clash(why, seq)
  local rec = call('HGET', key(OPEN), seq) or call('HGET', key(DONE), seq)
  if rec then return why .. pack('>I8', tonumber(seq)) .. rec end
end

-- I, insert: record, request, sealed or '', replace (seq or ''), raise the number to (decimal), now and until when its key counts
-- (both decimal). Result: seq, and the fence of a claimed one is the next number; or a letter, seq (8) and record of the job that
-- has its key (k) or its prompt id (p); or '' when the job id is taken.
local function insert(i)
  local rec, request, sealed, replace = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local mark, till = tonumber(ARGV[i + 4]), tonumber(ARGV[i + 6])
  local prompt, id, keyed = names(rec)
  if keyed ~= '' then
    local used = call('HGET', key(KEYED), person(rec) .. keyed)
    if used and unpack8('>I8', used) > tonumber(ARGV[i + 5]) then
      local found = clash('k', sub(used, 9))
      if found then return found, i + 7 end
    end
  end
  local seq = take()
  local field = text(seq)
  if call('HSETNX', key(PROMPTS), prompt, field) == 0 then
    local old = call('HGET', key(PROMPTS), prompt)
    local found = clash('p', old)
    local final = found and old == replace and not call('HGET', key(OPEN), old) and call('HGET', key(DONE), old)
    if found and not final then return found, i + 7 end
    local other = call('HGET', key(IDS), id)
    if other and clash('p', other) then return '', i + 7 end
    if final then hide(old, final) end
    call('HSET', key(PROMPTS), prompt, field)
  end
  if call('HSETNX', key(IDS), id, field) == 0 then
    local other = call('HGET', key(IDS), id)
    if other and clash('p', other) then
      call('HDEL', key(PROMPTS), prompt)
      return '', i + 7
    end
    call('HSET', key(IDS), id, field) -- of a job that did not come to be
  end
  if byte(rec, 1) == 114 then rec = sub(rec, 1, 2) .. pack('>I8', take()) .. sub(rec, 11) end
  call('HSET', key(REQUEST), field, request)
  if sealed ~= '' then call('HSET', key(SEALED), field, sealed) end
  if keyed ~= '' then
    call('HSET', key(KEYED), person(rec) .. keyed, pack('>I8', till) .. field)
    call('ZADD', key(KEYENDS), till, person(rec) .. keyed)
  end
  if mark > 0 then raise(sub(person(rec), 3), mark) end
  put('I', field, rec)
  return seq, i + 7
end

-- C, claim: seq (decimal), lease, attempt behind its length. Result: the fence. A held job is not claimed.
local function claim(i)
  local seq = ARGV[i]
  local rec = pending(seq)
  if not rec or band(byte(rec, 2), HELD) > 0 then return 0, i + 3 end
  local fence = take()
  put('C', seq, 'r' .. flags(rec, 0, POSTED) .. pack('>I8', fence) .. sub(rec, 11, 51) .. ARGV[i + 1] ..
    sub(rec, 60, 63 + unpack8('>I4', rec, 60)) .. ARGV[i + 2])
  return fence, i + 3
end

-- N, renew: seq (decimal), fence, lease, posted ('1' or '0'), started. Result: 1.
local function renew(i)
  local rec = running(ARGV[i], ARGV[i + 1])
  if not rec then return 0, i + 5 end
  local set, clear = POSTED, 0
  if ARGV[i + 3] == '0' then set, clear = 0, POSTED end
  return put('N', ARGV[i], 'r' .. flags(rec, set, clear) .. sub(rec, 3, 18) .. ARGV[i + 4] .. sub(rec, 27, 51) ..
    ARGV[i + 2] .. sub(rec, 60)), i + 5
end

-- P, posted: seq (decimal), fence, started. It is only told: the next renewal keeps it. Result: 1.
local function posted(i)
  local rec = running(ARGV[i], ARGV[i + 1])
  if not rec then return 0, i + 3 end
  say('P', ARGV[i], 'r' .. flags(rec, POSTED, 0) .. sub(rec, 3, 18) .. ARGV[i + 2] .. sub(rec, 27), '')
  return 1, i + 3
end

-- keep adds an attempt that is over, once.
local function keep(seq, line)
  if line == '' then return end
  local old = call('HGET', key(TRIES), seq) or ''
  if sub(old, -#line) ~= line then call('HSET', key(TRIES), seq, old .. line) end
end

-- R, release: seq (decimal), fence, line of its attempt or ''. Result: 1.
local function release(i)
  local rec = running(ARGV[i], ARGV[i + 1])
  if not rec then return 0, i + 3 end
  keep(ARGV[i], ARGV[i + 2])
  return put('R', ARGV[i], 'p' .. flags(rec, 0, POSTED) .. sub(rec, 3, 51) .. NOTHING .. sub(rec, 60)), i + 3
end

-- S, stop: seq (decimal), fence. Result: 1.
local function stop(i)
  local rec = running(ARGV[i], ARGV[i + 1])
  if not rec then return 0, i + 2 end
  return put('S', ARGV[i], 'r' .. flags(rec, STOP, 0) .. sub(rec, 3)), i + 2
end

-- M, rank: seq (decimal), fence ('' for a pending job), class (1 byte), number, held ('1' or '0'), person, raise the number to
-- (decimal), also where the condition does not hold, deadline or ''. Result: 1.
local function rank(i)
  raise(ARGV[i + 5], tonumber(ARGV[i + 6]))
  local rec
  if ARGV[i + 1] == '' then rec = pending(ARGV[i]) else rec = running(ARGV[i], ARGV[i + 1]) end
  if not rec then return 0, i + 8 end
  local set, clear, due = HELD, DATED, ARGV[i + 7]
  if ARGV[i + 4] == '0' then set, clear = 0, HELD + DATED end
  local behind = 64 + unpack8('>I4', rec, 60)
  local lasting = sub(rec, 64, behind - 1)
  if band(byte(rec, 2), DATED) > 0 then lasting = sub(lasting, 1, -9) end
  if due ~= '' then set, clear = bor(set, DATED), clear - DATED end
  return put('M', ARGV[i], sub(rec, 1, 1) .. flags(rec, set, clear) .. sub(rec, 3, 42) .. ARGV[i + 2] .. ARGV[i + 3] ..
    sub(rec, 52, 59) .. pack('>I4', #lasting + #due) .. lasting .. due .. sub(rec, behind)), i + 8
end

-- F, finish: seq (decimal), fence ('' for a pending job), state (1 letter), hidden ('1' or '0'), started, finished, outcome or '',
-- how it ended, line of its attempt or ''. Result: the number of the end.
local function finish(i)
  local seq, fence, hidden, outcome = ARGV[i], ARGV[i + 1], ARGV[i + 3] == '1', ARGV[i + 6]
  local rec
  if fence == '' then rec = pending(seq) else rec = running(seq, fence) end
  if not rec then return 0, i + 9 end
  keep(seq, ARGV[i + 8])
  local ended = take()
  local set = 0
  if hidden then set = HIDDEN end
  rec = ARGV[i + 2] .. flags(rec, set, POSTED) .. sub(rec, 3, 10) .. pack('>I8', ended) .. ARGV[i + 4] .. ARGV[i + 5] ..
    sub(rec, 35, 51) .. NOTHING .. sub(rec, 60) .. ARGV[i + 7]
  local half = call('HGET', key(DONE), seq)
  if half then
    call('ZREM', key(HISTORY), entry(seq, half))
    call('ZREM', key(GONE), entry(seq, half))
  end
  if outcome ~= '' and not hidden then call('HSET', key(OUTCOME), seq, outcome) end
  call('HSET', key(DONE), seq, rec)
  call('ZADD', key(PAST), time(rec), seq)
  call('ZADD', key(hidden and GONE or HISTORY), 0, entry(seq, rec))
  call('HDEL', key(OPEN), seq)
  if band(byte(rec, 2), HAS_SEALED) > 0 then call('HDEL', key(SEALED), seq) end
  if hidden then
    call('HDEL', key(REQUEST), seq)
    call('HDEL', key(PROMPTS), (names(rec)))
  end
  say('F', seq, rec, outcome)
  return ended, i + 9
end

-- H, hide: person behind its length in 2, how many prompt ids or -1 for all of the history, prompt ids. Result: how many went.
local function hidden(i)
  local who, n = ARGV[i], tonumber(ARGV[i + 1])
  local seqs = {}
  if n < 0 then
    local all = call('ZRANGEBYLEX', key(HISTORY), '[' .. who, '(' .. who .. '\255')
    for k = 1, #all do seqs[k] = text(unpack8('>I8', all[k], #who + 9)) end
  end
  for k = 1, n do
    local id = ARGV[i + 1 + k]
    seqs[#seqs + 1] = call('HGET', key(PROMPTS), who .. pack('>I2', #id) .. id) or nil
  end
  local gone = 0
  for k = 1, #seqs do
    local rec = call('HGET', key(DONE), seqs[k])
    if rec and band(byte(rec, 2), HIDDEN) == 0 then
      hide(seqs[k], rec)
      gone = gone + 1
    end
  end
  if gone > 0 then say('H', 0, sub(who, 3), '') end
  return gone, i + 2 + math.max(n, 0)
end

-- V, setting: name, '1' and its value, or '0' and '' to delete it. Result: 1.
local function setting(i)
  if ARGV[i + 1] == '1' then
    call('HSET', key(SETTINGS), ARGV[i], ARGV[i + 2])
  else
    call('HDEL', key(SETTINGS), ARGV[i])
  end
  say('V', 0, ARGV[i], ARGV[i + 1] == '1' and '=' .. ARGV[i + 2] or '')
  return 1, i + 3
end

-- unkey forgets an idempotency key, if it still means this job.
local function unkey(rec, keyed, seq)
  if keyed == '' then return end
  local field = person(rec) .. keyed
  local used = call('HGET', key(KEYED), field)
  if used and sub(used, 9) == seq then
    call('HDEL', key(KEYED), field)
    call('ZREM', key(KEYENDS), field)
  end
end

-- D, delete: seq (decimal) of a final job, end. Result: 1, or 2 for one that was out of history.
local function delete(i)
  local seq = ARGV[i]
  local rec = call('HGET', key(DONE), seq)
  if not rec or sub(rec, 11, 18) ~= ARGV[i + 1] then return 0, i + 2 end
  local prompt, id, keyed = names(rec)
  call('HDEL', key(DONE), seq)
  call('HDEL', key(REQUEST), seq)
  call('HDEL', key(OUTCOME), seq)
  call('HDEL', key(TRIES), seq)
  call('HDEL', key(IDS), id)
  call('ZREM', key(PAST), seq)
  unkey(rec, keyed, seq)
  if band(byte(rec, 2), HIDDEN) > 0 then
    call('ZREM', key(GONE), entry(seq, rec))
    return 2, i + 2
  end
  call('ZREM', key(HISTORY), entry(seq, rec))
  if call('HGET', key(PROMPTS), prompt) == seq then call('HDEL', key(PROMPTS), prompt) end
  return 1, i + 2
end

-- X, expire: forget idempotency keys that ended before now (decimal), at most so many (decimal). Result: how many.
local function expire(i)
  local fields = call('ZRANGEBYSCORE', key(KEYENDS), '-inf', ARGV[i], 'LIMIT', 0, ARGV[i + 1])
  for k = 1, #fields do
    call('HDEL', key(KEYED), fields[k])
    call('ZREM', key(KEYENDS), fields[k])
  end
  return #fields, i + 2
end

-- T, restore: seq (decimal), record, request or '', outcome or '', sealed or '', until when its key counts (decimal), lines
-- of its attempts or ''. Result: 1.
local function restore(i)
  local seq, rec = ARGV[i], ARGV[i + 1]
  local prompt, id, keyed = names(rec)
  local hidden = band(byte(rec, 2), HIDDEN) > 0
  call('HSET', key(IDS), id, seq)
  if unpack8('>I8', rec, 11) > 0 then
    call('HSET', key(DONE), seq, rec)
    call('ZADD', key(PAST), time(rec), seq)
    call('ZADD', key(hidden and GONE or HISTORY), 0, entry(seq, rec))
  else
    call('HSET', key(OPEN), seq, rec)
  end
  if not hidden then call('HSET', key(PROMPTS), prompt, seq) end
  if ARGV[i + 2] ~= '' then call('HSET', key(REQUEST), seq, ARGV[i + 2]) end
  if ARGV[i + 3] ~= '' then call('HSET', key(OUTCOME), seq, ARGV[i + 3]) end
  if ARGV[i + 6] ~= '' then call('HSET', key(TRIES), seq, ARGV[i + 6]) end
  if ARGV[i + 4] ~= '' then call('HSET', key(SEALED), seq, ARGV[i + 4]) end
  if keyed ~= '' then
    local till = tonumber(ARGV[i + 5])
    call('HSET', key(KEYED), person(rec) .. keyed, pack('>I8', till) .. seq)
    call('ZADD', key(KEYENDS), till, person(rec) .. keyed)
  end
  return 1, i + 7
end

local commands = {
  I = insert, C = claim, N = renew, P = posted, R = release, S = stop, M = rank, F = finish, H = hidden, V = setting, D = delete,
  X = expire, T = restore,
}

local results, i = {}, 8
while i <= #ARGV do
  results[#results + 1], i = commands[ARGV[i]](i + 1)
end

local place = 0
if #said > 0 then
  local id = call('XADD', key(LOG), 'MAXLEN', '~', '2000', '0-*', 's', session, 'b', ARGV[3], 'c', table.concat(said))
  place = tonumber(sub(id, 3))
end
call('HSET', key(LAST), session, cmsgpack.pack(number, place, now, results))
local answer = {'done', place, tick}
for k = 1, #results do answer[k + 3] = results[k] end
return answer
