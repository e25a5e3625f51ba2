-- Changes what is known of people: one change, conditional, in one step.
--
-- KEYS, all in one slot:
--    1 meta      hash   what this Redis holds: generation, studio, form
--    2 users     hash   person → record: group, role, suspended, proof, secret, created, seen
--    3 groups    hash   group → record: title, created
--    4 members   zset   group, a zero byte, person; scores are 0
--    5 sessions  hash   hash of the cookie → record: id, user, device, address, via, created, seen, expires
--    6 tokens    hash   hash of the token → record: id, user, label, scope, created, used, expires
--    7 links     hash   hash of the link → record: user, by, created, expires, used
--    8 codes     hash   code → record: group, by, places, joined, created, expires
--    9 carried   zset   of what people carry: letter (s, t, l), person, a zero byte, hash; scores are 0
--   10 ends      zset   letter and hash of sessions and tokens that end, letter and name of links (l) and codes (c), by that time
--   11 rest      zset   hash of a session, by its last use
-- Records are JSON. Times are milliseconds, 0 for "never". Names of people and groups have no zero byte.
-- ARGV:
--    1 generation: another one changes nothing
--    2 what to do, 3 and on: its arguments, see each
-- Answer: "other", or {"ok", more}, or {why nothing changed, more}.

local META, USERS, GROUPS, MEMBERS, SESSIONS, TOKENS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local LINKS, CODES, CARRIED, ENDS, REST = KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local KINDS = {s = SESSIONS, t = TOKENS, l = LINKS}

local call, sub = redis.call, string.sub

if call('HGET', META, 'generation') ~= ARGV[1] then return 'other' end

local function get(key, field)
  local text = call('HGET', key, field)
  return text and cjson.decode(text)
end
local function put(key, field, record) call('HSET', key, field, cjson.encode(record)) end
local function there(key, field) return call('HEXISTS', key, field) == 1 end
local function ends(letter, name, at) if at ~= 0 then call('ZADD', ENDS, at, letter .. name) end end

-- carried returns the hashes of what a person carries of a kind.
local function carried(letter, user)
  local begin = letter .. user .. '\0'
  local all = call('ZRANGEBYLEX', CARRIED, '[' .. begin, '(' .. letter .. user .. '\1')
  for i = 1, #all do all[i] = sub(all[i], #begin + 1) end
  return all
end
local function carry(letter, user, hash, record, expires)
  call('HSET', KINDS[letter], hash, record)
  call('ZADD', CARRIED, 0, letter .. user .. '\0' .. hash)
  ends(letter, hash, expires)
end
local function drop(letter, user, hash)
  call('HDEL', KINDS[letter], hash)
  call('ZREM', CARRIED, letter .. user .. '\0' .. hash)
  call('ZREM', ENDS, letter .. hash)
  if letter == 's' then call('ZREM', REST, hash) end
end

local function create(name, text)
  if there(USERS, name) then return {'taken'} end
  local group = cjson.decode(text).group
  if group ~= '' then
    if not there(GROUPS, group) then return {'no_group', group} end
    call('ZADD', MEMBERS, 0, group .. '\0' .. name)
  end
  call('HSET', USERS, name, text)
  return {'ok'}
end

local function uncode(code)
  call('HDEL', CODES, code)
  call('ZREM', ENDS, 'c' .. code)
end

local acts = {}

-- person, record
function acts.create(name, text) return create(name, text) end

-- person, what changes: group, role, suspended
function acts.change(name, text)
  local user, changes = get(USERS, name), cjson.decode(text)
  if not user then return {'no_user'} end
  local group = changes.group
  if group then
    if group ~= '' and not there(GROUPS, group) then return {'no_group', group} end
    if user.group ~= '' then call('ZREM', MEMBERS, user.group .. '\0' .. name) end
    if group ~= '' then call('ZADD', MEMBERS, 0, group .. '\0' .. name) end
  end
  for field, value in pairs(changes) do user[field] = value end
  put(USERS, name, user)
  return {'ok'}
end

-- person, proof, secret, the old secret or ''
function acts.secret(name, proof, secret, old)
  local user = get(USERS, name)
  if not user then return {'no_user'} end
  if old ~= '' and user.secret ~= old then return {'replaced'} end
  user.proof, user.secret = proof, secret
  put(USERS, name, user)
  return {'ok'}
end

-- person
function acts.remove(name)
  local user = get(USERS, name)
  if not user then return {'no_user'} end
  for letter in pairs(KINDS) do
    for _, hash in ipairs(carried(letter, name)) do drop(letter, name, hash) end
  end
  if user.group ~= '' then call('ZREM', MEMBERS, user.group .. '\0' .. name) end
  call('HDEL', USERS, name)
  return {'ok'}
end

-- group, record
function acts.group(name, text)
  if call('HSETNX', GROUPS, name, text) == 0 then return {'taken'} end
  return {'ok'}
end

-- group
function acts.ungroup(name)
  if call('ZLEXCOUNT', MEMBERS, '[' .. name .. '\0', '(' .. name .. '\1') > 0 then return {'in_use'} end
  if call('HDEL', GROUPS, name) == 0 then return {'no_group', name} end
  local codes = call('HGETALL', CODES)
  for i = 1, #codes, 2 do
    if cjson.decode(codes[i + 1]).group == name then uncode(codes[i]) end
  end
  return {'ok'}
end

-- hash, record, how many of the person's sessions stay. More: the hashes of those that went.
function acts.session(hash, text, keep)
  local record = cjson.decode(text)
  if not there(USERS, record.user) then return {'no_user'} end
  carry('s', record.user, hash, text, record.expires)
  call('ZADD', REST, record.seen, hash)
  local all, answer = {}, {'ok'}
  for _, h in ipairs(carried('s', record.user)) do
    local r = get(SESSIONS, h)
    r.hash = h
    all[#all + 1] = r
  end
  table.sort(all, function(a, b)
    if a.seen ~= b.seen then return a.seen > b.seen end
    if a.created ~= b.created then return a.created > b.created end
    return a.id < b.id
  end)
  for i = tonumber(keep) + 1, #all do
    drop('s', record.user, all[i].hash)
    answer[#answer + 1] = all[i].hash
  end
  return answer
end

-- letter, person, id
function acts.lose(letter, user, id)
  for _, hash in ipairs(carried(letter, user)) do
    if get(KINDS[letter], hash).id == id then
      drop(letter, user, hash)
      return {'ok'}
    end
  end
  return {'missing'}
end

-- person, id of the session that stays
function acts.unsession(user, except)
  for _, hash in ipairs(carried('s', user)) do
    if get(SESSIONS, hash).id ~= except then drop('s', user, hash) end
  end
  return {'ok'}
end

-- hash, record, most. More, where there are too many: how many.
function acts.token(hash, text, most)
  local record = cjson.decode(text)
  if not there(USERS, record.user) then return {'no_user'} end
  local n = #carried('t', record.user)
  if n >= tonumber(most) then return {'too_many', tostring(n)} end
  carry('t', record.user, hash, text, record.expires)
  return {'ok'}
end

-- hash, record
function acts.link(hash, text)
  local record = cjson.decode(text)
  if not there(USERS, record.user) then return {'no_user'} end
  carry('l', record.user, hash, text, record.expires)
  return {'ok'}
end

-- hash, now, how long it works again. More: the record, and '1' if it may be used.
function acts.use(hash, now, grace)
  local record = get(LINKS, hash)
  if not record then return {'missing'} end
  now = tonumber(now)
  local fine = now < record.expires
  if record.used ~= 0 then
    fine = now - record.used < tonumber(grace)
  elseif fine then
    record.used = now
    put(LINKS, hash, record)
  end
  return {'ok', cjson.encode(record), fine and '1' or '0'}
end

-- code, record
function acts.code(code, text)
  local record = cjson.decode(text)
  if not there(GROUPS, record.group) then return {'no_group', record.group} end
  if call('HSETNX', CODES, code, text) == 0 then return {'taken'} end
  ends('c', code, record.expires)
  return {'ok'}
end

-- code
function acts.uncode(code)
  if not there(CODES, code) then return {'missing'} end
  uncode(code)
  return {'ok'}
end

-- code, person, record
function acts.join(code, name, text)
  local record = get(CODES, code)
  if not record then return {'missing'} end
  if cjson.decode(text).created >= record.expires or record.joined >= record.places then return {'over'} end
  local answer = create(name, text)
  if answer[1] == 'ok' then
    record.joined = record.joined + 1
    put(CODES, code, record)
  end
  return answer
end

-- in turns: letter, hash, person, when
function acts.touch(...)
  local all = {...}
  for i = 1, #all, 4 do
    local letter, hash, name, seen = all[i], all[i + 1], all[i + 2], tonumber(all[i + 3])
    local record, last = get(KINDS[letter], hash), letter == 's' and 'seen' or 'used'
    if record and record[last] < seen then
      record[last] = seen
      put(KINDS[letter], hash, record)
      if letter == 's' then call('ZADD', REST, seen, hash) end
    end
    local user = get(USERS, name)
    if user and user.seen < seen then
      user.seen = seen
      put(USERS, name, user)
    end
  end
  return {'ok'}
end

-- now, since when sessions must have been used, how long ago links and codes may have ended
function acts.sweep(now, idle, old)
  now, old = tonumber(now), tonumber(old)
  for _, hash in ipairs(call('ZRANGEBYSCORE', REST, '-inf', '(' .. idle)) do
    drop('s', get(SESSIONS, hash).user, hash)
  end
  local over = call('ZRANGEBYSCORE', ENDS, '-inf', math.max(now, old), 'WITHSCORES')
  for i = 1, #over, 2 do
    local letter, name, at = sub(over[i], 1, 1), sub(over[i], 2), tonumber(over[i + 1])
    if letter == 'c' then
      if at < old then uncode(name) end
    elseif letter == 'l' and at < old or letter ~= 'l' and at <= now then
      drop(letter, get(KINDS[letter], name).user, name)
    end
  end
  return {'ok'}
end

return acts[ARGV[2]](unpack(ARGV, 3))
