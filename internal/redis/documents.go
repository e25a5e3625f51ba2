package redis

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/ahelme/comfyume/internal/fault"
)

// Files are kept as documents: fields of hashes, with sorted sets beside them that say where they are. A change reads what
// it needs, decides, and writes in one step of Redis, on the condition that everything it read is still as it was; else
// it is done anew.

// cell is where a document is.
type cell struct{ hash, field string }

// value is what a cell has.
type value struct {
	text  string
	there bool
}

// write is one thing that a change writes, as commit.lua has it.
type write struct{ key, field, what, value string }

// change is one change of documents. It is owned by the function that makes it.
type change struct {
	db     *DB
	ctx    context.Context // of the call that makes the change, for its reads
	read   map[cell]value
	now    map[cell]value // what it has written so far
	writes []write
}

// tries bounds how often a change is done anew because others were quicker.
const tries = 200

// update has fn make a change. It may be called several times, and leaves behind what its last call did.
func (db *DB) update(ctx context.Context, fn func(*change) error) error {
	for range tries {
		c := db.look(ctx)
		if err := fn(c); err != nil {
			return err
		}
		done, err := c.commit()
		if done || err != nil {
			return err
		}
	}
	return fault.New(fault.Busy, "Too many change the same at once.").WithRemedy("Try again.").WithCode("contended")
}

// look returns a change that is only for reading.
func (db *DB) look(ctx context.Context) *change {
	return &change{db: db, ctx: ctx, read: map[cell]value{}, now: map[cell]value{}}
}

// get returns a document as the change sees it.
func (c *change) get(hash, field string) (text string, there bool, err error) {
	at := cell{hash, field}
	if v, ok := c.now[at]; ok {
		return v.text, v.there, nil
	}
	if v, ok := c.read[at]; ok {
		return v.text, v.there, nil
	}
	results, err := c.db.read(c.ctx, c.db.client.B().Hget().Key(c.db.key(hash)).Field(field).Build())
	if err != nil {
		return "", false, err
	}
	text, err = results[0].ToString()
	if err != nil && !rueidis.IsRedisNil(err) {
		return "", false, fmt.Errorf("read %s: %w", hash, err)
	}
	c.read[at] = value{text, err == nil}
	return text, err == nil, nil
}

// fetch reads documents of a hash together, so that get has them.
func (c *change) fetch(hash string, fields []string) error {
	texts, err := c.db.fields(c.ctx, hash, fields)
	if err != nil {
		return err
	}
	for _, field := range fields {
		if _, ok := c.read[cell{hash, field}]; !ok {
			text, there := texts[field]
			c.read[cell{hash, field}] = value{text, there}
		}
	}
	return nil
}

func (c *change) put(hash, field, text string) {
	c.now[cell{hash, field}] = value{text, true}
	c.writes = append(c.writes, write{hash, field, "1", text})
}

func (c *change) drop(hash, field string) {
	c.now[cell{hash, field}] = value{}
	c.writes = append(c.writes, write{hash, field, "0", ""})
}

// add adds to a number, which nobody has to read for that.
func (c *change) add(hash, field string, n int64) {
	c.writes = append(c.writes, write{hash, field, "n", decimal(n)})
}

func (c *change) index(set, member string, score int64) {
	c.writes = append(c.writes, write{set, member, "z", decimal(score)})
}

func (c *change) unindex(set, member string) {
	c.writes = append(c.writes, write{set, member, "x", ""})
}

// tell sends a text to all servers that listen to the channel.
func (c *change) tell(channel, text string) {
	if w := (write{channel, text, "p", ""}); !slices.Contains(c.writes, w) {
		c.writes = append(c.writes, w)
	}
}

// commitStays is how long a commit is remembered, so that one whose answer was lost is not done twice.
const commitStays = time.Minute

// commit writes; not done: something that was read is not as it was.
func (c *change) commit() (done bool, err error) {
	if len(c.writes) == 0 {
		return true, nil
	}
	keys, numbers := []string{c.db.key("meta"), c.db.key("commit:" + rand.Text())}, map[string]string{}
	number := func(name string) string {
		if numbers[name] == "" {
			keys = append(keys, c.db.key(name))
			numbers[name] = strconv.Itoa(len(keys))
		}
		return numbers[name]
	}
	args := []string{c.db.generation, decimal(commitStays.Milliseconds()), strconv.Itoa(len(c.read))}
	for at, v := range c.read {
		args = append(args, number(at.hash), at.field, bit(v.there), v.text)
	}
	for _, w := range c.writes {
		args = append(args, number(w.key), w.field, w.what, w.value)
	}
	word, err := c.db.surely(c.ctx, scriptCommit, keys, args).ToString()
	switch {
	case err != nil:
		return false, c.db.fail(c.ctx, err)
	case word == "other":
		return false, c.db.lost()
	}
	return word == "done", nil
}

// surely runs a script that happens once however often it comes, again while its answer is lost and there is patience.
func (db *DB) surely(ctx context.Context, s *rueidis.Lua, keys, args []string) rueidis.RedisResult {
	bound, cancel := context.WithTimeout(ctx, db.patience)
	defer cancel()
	for wait := 10 * time.Millisecond; ; wait *= 2 {
		result := s.Exec(bound, db.client, keys, args)
		err := result.Error()
		if _, said := rueidis.IsRedisErr(err); err == nil || said && !isPassing(err) {
			return result
		}
		select {
		case <-bound.Done():
			return result
		case <-time.After(wait):
		}
	}
}

// load reads a document that is kept as JSON.
func load[T any](c *change, hash, field string) (v T, there bool, err error) {
	text, there, err := c.get(hash, field)
	if err != nil || !there {
		return v, false, err
	}
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return v, false, fmt.Errorf("read %s: %w", hash, err)
	}
	return v, true, nil
}

// save writes a document as JSON.
func save(c *change, hash, field string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", hash, err)
	}
	c.put(hash, field, string(text))
	return nil
}
