-- Keeps what back ends told last, and web files of custom nodes, or lets go of these. A content is there as long as a file
-- has it.
--
-- KEYS, all in one slot: 1 meta
--    2 packs     hash   file (back end, pack, path, behind their lengths) → '1' or '0' (listed), hash of its content
--    3 contents  hash   hash → content
--    4 holders   hash   hash → how many files have it
--    5 snapshots hash   back end → what it told
--    6 members   hash   back end → what operators changed of it
--    7 wanted    hash   kind, folder, name and group, behind their lengths → how often, when first, when last
-- ARGV: 1 generation, then one of
--    2 "save", 3 file, 4 listed ('1' or '0'), 5 hash, 6 content
--    2 "drop", 3 and on: files
--    2 "told", 3 back end, 4 what it told
--    2 "member", 3 back end, 4 what operators changed; without 4: nothing any more
--    2 "want", 3 what and who, 4 when
--    2 "unwant", 3 and on: what and who
-- Answer: "ok" or "other".
local call = redis.call
if call('HGET', KEYS[1], 'generation') ~= ARGV[1] then return 'other' end

local function hash(file)
  local old = call('HGET', KEYS[2], file)
  return old and string.sub(old, 2)
end
local function let(old)
  if old and call('HINCRBY', KEYS[4], old, -1) <= 0 then
    call('HDEL', KEYS[4], old)
    call('HDEL', KEYS[3], old)
  end
end

if ARGV[2] == 'told' then
  call('HSET', KEYS[5], ARGV[3], ARGV[4])
elseif ARGV[2] == 'member' then
  if ARGV[4] then
    call('HSET', KEYS[6], ARGV[3], ARGV[4])
  else
    call('HDEL', KEYS[6], ARGV[3])
  end
elseif ARGV[2] == 'want' then
  local n, first, last = 0, ARGV[4], ARGV[4]
  local old = call('HGET', KEYS[7], ARGV[3])
  if old then
    n, first, last = string.match(old, '^(%d+) (%d+) (%d+)$')
    if tonumber(last) < tonumber(ARGV[4]) then last = ARGV[4] end
  end
  call('HSET', KEYS[7], ARGV[3], string.format('%d', n + 1) .. ' ' .. first .. ' ' .. last)
elseif ARGV[2] == 'unwant' then
  for i = 3, #ARGV do call('HDEL', KEYS[7], ARGV[i]) end
elseif ARGV[2] == 'save' then
  local old = hash(ARGV[3])
  call('HSET', KEYS[3], ARGV[5], ARGV[6])
  call('HINCRBY', KEYS[4], ARGV[5], 1)
  call('HSET', KEYS[2], ARGV[3], ARGV[4] .. ARGV[5])
  let(old)
else
  for i = 3, #ARGV do
    let(hash(ARGV[i]))
    call('HDEL', KEYS[2], ARGV[i])
  end
end
return 'ok'
