package redis

import (
	"context"
	"crypto/rand"
	"embed"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/ahelme/comfyume/internal/fault"
)

//go:embed lua/*.lua
var scripts embed.FS

// form is the version of what is kept. A program of another one does not touch it.
const form = "1"

// patience is how long a call waits for Redis unless its context ends before.
const patience = 5 * time.Second

// Options are the optional settings of Open.
type Options struct {
	Studio     string        // the studio's id, kept in Redis: a Redis of another one is refused; empty: not looked at
	Generation string        // what DB.Generation gave at an earlier start; empty: this is the studio's first
	Space      string        // what keys begin with, when several studios share a Redis; empty: comfyume
	Patience   time.Duration // how long a call waits for Redis; 0: 5 s
	Log        *slog.Logger  // nil: discarded
}

// DB is a studio's place in a Redis. It is safe for concurrent use.
type DB struct {
	client     rueidis.Client // for reads and the rest
	changes    rueidis.Client // for the queue's batches: they never wait behind a long answer
	space      string
	generation string
	patience   time.Duration
	log        *slog.Logger
	versions   versions
}

// Open connects to the Redis at the URL (redis://, rediss:// or unix://; with ?master_set=NAME through Sentinels, with
// ?addr=HOST:PORT for more addresses of a cluster), and takes the studio's place in it, or makes it. A Redis that was
// emptied, or has another studio's data, is refused.
func Open(ctx context.Context, url string, o Options) (*DB, error) {
	option, err := rueidis.ParseURL(url)
	if err != nil {
		// The cause may have the password in it.
		return nil, fault.New(fault.Invalid, "The address of the Redis can't be read.").
			WithRemedy("Write it as redis://user:password@host:6379/0, rediss:// for TLS, or unix:///path/to/socket.").WithCode("redis_address")
	}
	db := &DB{space: o.Space, patience: o.Patience, log: o.Log}
	db.versions.db, db.versions.session = db, rand.Text()
	if db.space == "" {
		db.space = "comfyume"
	}
	if db.patience <= 0 {
		db.patience = patience
	}
	if db.log == nil {
		db.log = slog.New(slog.DiscardHandler)
	}
	option.DisableCache = true
	option.ClientName = "comfyume"
	option.Dialer.Timeout = min(db.patience, 5*time.Second)
	option.ConnWriteTimeout = db.patience
	option.PipelineMultiplex = 1
	if db.client, err = newClient(option); err != nil {
		return nil, classify(err)
	}
	if db.changes, err = newClient(option); err != nil {
		db.client.Close()
		return nil, classify(err)
	}
	if err := db.settle(ctx, o); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// settle finds the studio's place, or makes it.
func (db *DB) settle(ctx context.Context, o Options) error {
	fresh := rand.Text()
	reply, err := db.exec(ctx, scriptOpen, []string{db.key("meta")}, []string{o.Studio, o.Generation, fresh, form}).AsStrSlice()
	if err != nil {
		return classify(err)
	}
	switch reply[0] {
	case "ok":
		db.generation = reply[1]
		return nil
	case "empty":
		return errEmptied()
	case "studio":
		return fault.New(fault.Unavailable, "The Redis holds the data of another studio.").
			WithRemedy("Give this studio a Redis, or a database number, of its own.").WithCode("redis_other_studio")
	case "form":
		return fault.New(fault.Unavailable, "The data in Redis has form %s, and this program knows form %s.", reply[1], form).
			WithRemedy("Run the version of comfyume that wrote it, or newer.").WithCode("redis_form")
	}
	return errOther()
}

func errEmptied() error {
	return fault.New(fault.Unavailable, "The Redis is empty, but this studio has kept its data in it: it was emptied, or it is another one.").
		WithRemedy("Bring back the Redis with the studio's data (its append-only file, a snapshot or a replica). " +
			"To begin anew without that data, forget the studio's generation.").WithCode("redis_emptied")
}

func errOther() error {
	return fault.New(fault.Unavailable, "This is not the Redis that the studio's data is in: it was emptied and filled again, or it is another one.").
		WithRemedy("Bring back the Redis with the studio's data (its append-only file, a snapshot or a replica).").WithCode("redis_other")
}

// Generation names this filling of the Redis. Give it to Open at the next start: then a Redis that was emptied meanwhile
// is not taken for a new studio.
func (db *DB) Generation() string { return db.generation }

// Close closes the connections. What is built on the database is closed before.
func (db *DB) Close() error {
	db.versions.end()
	db.client.Close()
	db.changes.Close()
	return nil
}

// key names a key: all are in one slot, so that scripts may change them together in a cluster.
func (db *DB) key(name string) string { return "{" + db.space + "}:" + name }

func (db *DB) keys(names ...string) []string {
	all := make([]string, len(names))
	for i, name := range names {
		all[i] = db.key(name)
	}
	return all
}

// script returns an embedded script without its comments: they are for people, and a Redis that has lost the script is
// sent all of it.
func script(name string) string {
	text, err := scripts.ReadFile("lua/" + name + ".lua")
	if err != nil {
		panic(err) // it is embedded
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "--") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

var (
	scriptOpen    = rueidis.NewLuaScript(script("open"))
	scriptChange  = rueidis.NewLuaScript(script("change"))
	scriptSettle  = rueidis.NewLuaScript("#!lua flags=allow-oom\n" + script("change")) // for what may happen in a full Redis
	scriptFind    = rueidis.NewLuaScriptReadOnly(script("find"))
	scriptHistory = rueidis.NewLuaScriptReadOnly(script("history"))
	scriptEnd     = rueidis.NewLuaScriptReadOnly(script("end"))
	scriptLease   = rueidis.NewLuaScript(script("lease"))
	scriptCommit  = rueidis.NewLuaScript(script("commit"))
	scriptRestore = rueidis.NewLuaScript(script("restore"))

	scriptAccounts = rueidis.NewLuaScript(script("accounts"))
	scriptCarrier  = rueidis.NewLuaScriptReadOnly(script("carrier"))
	scriptUsage    = rueidis.NewLuaScript(script("usage"))
	scriptCatalog  = rueidis.NewLuaScript(script("catalog"))
	scriptPlace    = rueidis.NewLuaScript(script("place"))
	scriptAgents   = rueidis.NewLuaScript(script("agents"))
)

// exec runs a script within the context and the database's patience.
func (db *DB) exec(ctx context.Context, s *rueidis.Lua, keys, args []string) rueidis.RedisResult {
	ctx, cancel := context.WithTimeout(ctx, db.patience)
	defer cancel()
	return s.Exec(ctx, db.client, keys, args)
}

// read runs commands on one connection, and refuses what they say when the Redis is not the studio's any more.
func (db *DB) read(ctx context.Context, cmds ...rueidis.Completed) ([]rueidis.RedisResult, error) {
	bound, cancel := context.WithTimeout(ctx, db.patience)
	defer cancel()
	cmds = append(cmds, db.client.B().Hget().Key(db.key("meta")).Field("generation").Build())
	results := db.client.DoMulti(bound, cmds...)
	last := len(results) - 1
	generation, err := results[last].ToString()
	if err := db.trouble(ctx, err, generation); err != nil {
		return nil, err
	}
	for _, r := range results[:last] {
		if err := r.Error(); err != nil && !rueidis.IsRedisNil(err) {
			return nil, db.fail(ctx, err)
		}
	}
	return results[:last], nil
}

// trouble says what is wrong with the place that a read looked at.
func (db *DB) trouble(ctx context.Context, err error, generation string) error {
	switch {
	case rueidis.IsRedisNil(err):
		return errEmptied()
	case err != nil:
		return db.fail(ctx, err)
	case generation != db.generation:
		return errOther()
	}
	return nil
}

// fail gives an error of Redis its kind; a context of the caller's that ended stays its error.
func (db *DB) fail(ctx context.Context, err error) error {
	if cause := ctx.Err(); cause != nil {
		return cause
	}
	return classify(err)
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }
