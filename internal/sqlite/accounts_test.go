package sqlite_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/account"
	"github.com/ahelme/comfyume/internal/account/accounttest"
	"github.com/ahelme/comfyume/internal/identity"
	"github.com/ahelme/comfyume/internal/sqlite"
)

func TestAccounts(t *testing.T) {
	t.Parallel()
	accounttest.Run(t, func(t *testing.T) account.Store {
		return sqlite.NewAccounts(open(t, filepath.Join(t.TempDir(), "studio.db")))
	})
}

// BenchmarkAccountsSession is a look-up that is not in memory.
func BenchmarkAccountsSession(b *testing.B) {
	store := sqlite.NewAccounts(open(b, filepath.Join(b.TempDir(), "studio.db")))
	ctx := b.Context()
	must(b, store.CreateUser(ctx, account.Record{User: account.User{Name: "ann", Role: identity.Participant}}))
	at := time.Now()
	var hash account.Hash
	for n := range 100 {
		copy(hash[:], fmt.Sprint(n))
		_, err := store.AddSession(ctx, account.SessionRecord{Hash: hash, Session: account.Session{
			ID: fmt.Sprint(n), User: "ann", Created: at, Seen: at, Expires: at.Add(time.Hour),
		}}, 1000)
		must(b, err)
	}
	for b.Loop() {
		if _, _, err := store.Session(ctx, hash); err != nil {
			b.Fatal(err)
		}
	}
}
