-- Finds the studio's place, or makes it.
--
-- KEYS: 1 meta   hash   generation, studio, form
-- ARGV: 1 the studio's id or '', 2 the generation that is expected or '', 3 the generation of a new place, 4 form
-- Answer: {"ok", generation}, {"empty"}, {"studio"}, {"form", form}, {"other"}.
local generation = redis.call('HGET', KEYS[1], 'generation')
if not generation then
  if ARGV[2] ~= '' then return {'empty'} end
  redis.call('HSET', KEYS[1], 'generation', ARGV[3], 'studio', ARGV[1], 'form', ARGV[4])
  return {'ok', ARGV[3]}
end
local studio, form = redis.call('HGET', KEYS[1], 'studio'), redis.call('HGET', KEYS[1], 'form')
if studio ~= ARGV[1] and studio ~= '' and ARGV[1] ~= '' then return {'studio'} end
if form ~= ARGV[4] then return {'form', form} end
if ARGV[2] ~= '' and ARGV[2] ~= generation then return {'other'} end
return {'ok', generation}
