package app

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/account"
	"github.com/ahelme/comfyume/internal/agents"
	"github.com/ahelme/comfyume/internal/catalog"
	"github.com/ahelme/comfyume/internal/deliver"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/fleet"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/redis"
	"github.com/ahelme/comfyume/internal/sqlite"
	"github.com/ahelme/comfyume/internal/usage"
	"github.com/ahelme/comfyume/internal/workspace"
)

// stores is where a studio keeps what it knows: everything but bytes and documents, in the one place that the setting
// names.
type stores struct {
	accounts account.Store
	took     ledgerStore
	files    fileStore
	catalog  catalogStore
	agents   agents.Store
	// queue opens the queue's store. Who opens it closes it.
	queue func(context.Context) (queueStore, error)
	close func() error
	// trouble says why nothing can be kept until the next start; nil where nothing can be said.
	trouble func() error

	redis *redis.DB // nil where one server has its database to itself
}

// The stores that one type implements for several users.
type (
	queueStore interface {
		queue.Store
		Close() error
	}
	ledgerStore interface {
		usage.Store
		EachEnded(ctx context.Context, since time.Time, fn func(job.Job) error) error
	}
	fileStore interface {
		workspace.Store
		deliver.Store
	}
	catalogStore interface {
		catalog.Store
		catalog.RequestStore
		fleet.PackStore
		fleet.MemberStore
	}
)

// several reports whether more than one server may serve the studio.
func (s *Studio) several() bool { return s.cfg.Store != "sqlite" }

// openStores opens the stores that the settings name.
func (s *Studio) openStores(ctx context.Context) error {
	open := s.openSQLite
	if s.several() {
		open = s.openRedis
	}
	var err error
	if s.stores, err = open(ctx); err != nil {
		return err
	}
	s.parts.add("database", func(context.Context) error { return s.stores.close() })
	return nil
}

func (s *Studio) openSQLite(ctx context.Context) (*stores, error) {
	name := filepath.Join(s.cfg.Data, "comfyume.db")
	if err := checkDatabase(name, s.peoplesFolders()...); err != nil {
		return nil, err
	}
	info, err := os.Stat(name)
	s.fresh = err != nil || info.Size() == 0
	db, err := sqlite.Open(ctx, name, sqlite.Options{Log: s.log})
	if err != nil {
		return nil, err
	}
	return &stores{
		accounts: sqlite.NewAccounts(db), took: sqlite.NewUsage(db), files: sqlite.NewFiles(db), catalog: sqlite.NewCatalog(db),
		agents: sqlite.NewAgents(db),
		queue:  func(ctx context.Context) (queueStore, error) { return sqlite.NewQueue(ctx, db) },
		close:  db.Close, trouble: db.Trouble,
	}, nil
}

// peoplesFolders are those with people's files and documents.
func (s *Studio) peoplesFolders() []string {
	folders := []string{filepath.Join(s.cfg.Data, "users")}
	if !s.inBucket() { // files in a bucket are looked for when it is open, see ownBucket
		folders = append(folders, filepath.Join(s.blobFolder(), "files"))
	}
	return folders
}

func (s *Studio) openRedis(ctx context.Context) (*stores, error) {
	known := filepath.Join(s.cfg.Data, "redis")
	was, err := os.ReadFile(known)
	if err != nil && !os.IsNotExist(err) {
		return nil, selfTrouble(err, "redis")
	}
	if folder := filled(s.peoplesFolders()...); len(was) == 0 && folder != "" {
		return nil, fault.New(fault.Unavailable, "People have files in %s, and the Redis knows none of them.", folder).
			WithCode("redis_without_files").
			WithRemedy("Set store back to what it was. To begin anew with a Redis, choose another data folder, or move this one away.")
	}
	s.fresh = len(was) == 0
	db, err := redis.Open(ctx, string(s.cfg.Store), redis.Options{
		Studio: s.self.ID, Generation: strings.TrimSpace(string(was)), Log: s.log,
	})
	if err != nil {
		return nil, err
	}
	// It is written down which filling of the Redis is the studio's: an emptied one is not taken for a new studio.
	if _, err := once(known, func() ([]byte, error) { return []byte(db.Generation() + "\n"), nil }); err != nil {
		return nil, errors.Join(selfTrouble(err, "redis"), db.Close())
	}
	return &stores{
		accounts: redis.NewAccounts(db), took: redis.NewUsage(db), files: redis.NewFiles(db), catalog: redis.NewCatalog(db),
		agents: redis.NewAgents(db),
		queue:  func(ctx context.Context) (queueStore, error) { return redis.NewQueue(ctx, db) },
		close:  db.Close, redis: db,
	}, nil
}

// promises says what the store may lose.
func (s *Studio) promises(ctx context.Context) error {
	if !s.several() {
		return nil
	}
	findings, err := s.stores.redis.Check(ctx)
	if err != nil {
		return err
	}
	for _, f := range findings {
		s.log.Warn("redis", "note", f.Sentence, "remedy", f.Remedy)
		if f.Grave {
			s.notes = append(s.notes, f.Sentence+" "+f.Remedy)
		}
	}
	return nil
}

// errElsewhere refuses places that are not those of the studio's other servers.
func errElsewhere(place string) error {
	return fault.New(fault.Unavailable, "The %s is not the one that the studio's other servers use.", place).
		WithCode("other_folder").
		WithRemedy("Servers of one studio share its data folder, and its folder of files or bucket if blob names one. Mount it here, and name it in the settings.")
}
