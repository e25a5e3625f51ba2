package sqlite_test

import (
	"path/filepath"
	"testing"

	"github.com/ahelme/comfyume/internal/catalog/catalogtest"
	"github.com/ahelme/comfyume/internal/sqlite"
)

func TestCatalog(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "studio.db")
	catalogtest.Run(t, func(t *testing.T) (catalogtest.Store, func()) {
		db, err := sqlite.Open(t.Context(), path, sqlite.Options{})
		must(t, err)
		return sqlite.NewCatalog(db), func() { must(t, db.Close()) }
	})
}
