-- Keeps what back ends told last, and web files of custom nodes, or lets go of these. A content is there as long as a file
-- has it.
--
-- KEYS, all in one slot: 1 meta
--    2 packs     hash   file (back end, pack, path, behind their lengths) → '1' or '0' (listed), hash of its content
--    3 contents  hash   hash → content
--    4 holders   hash   hash → how many files have it
--    5 snapshots hash   back end → what it told
-- ARGV: 1 generation, then one of
--    2 "save", 3 file, 4 listed ('1' or '0'), 5 hash, 6 content
--    2 "drop", 3 and on: files
--    2 "told", 3 back end, 4 what it told
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
