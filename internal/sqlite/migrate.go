package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/pressly/goose/v3"

	"github.com/ahelme/comfyume/internal/fault"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrate brings the schema up to date. An existing database is copied beside itself before each step, so that
// the way back is there even where a step can't be undone.
func migrate(ctx context.Context, db *sql.DB, path string, log *slog.Logger) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("read the migrations: %w", err)
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files, goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return fmt.Errorf("read the migrations: %w", err)
	}
	current, target, err := p.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("read the schema's version: %w", err)
	}
	if current > target {
		return fault.New(fault.Unavailable, "The database was written by a newer version of this program (schema %d, known here: %d).",
			current, target).
			WithRemedy("Use that version, or the copy of the database that it left beside the file before it changed it.").
			WithCode("database_newer")
	}
	existing := current > 0
	for current < target {
		if existing {
			if err := saveCopy(ctx, db, fmt.Sprintf("%s.schema-%d", path, current)); err != nil {
				return err
			}
		}
		res, err := p.UpByOne(ctx)
		if err != nil {
			return fmt.Errorf("bring the database from schema %d to the next: %w", current, err)
		}
		current = res.Source.Version
		log.Info("database schema is new", "schema", current, "dur", res.Duration)
	}
	return nil
}

// saveCopy writes a consistent copy of the whole database to the file at path, durably, over an older one.
func saveCopy(ctx context.Context, db *sql.DB, path string) error {
	temp := path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove a half-made copy of the database: %w", err)
	}
	if _, err := db.ExecContext(ctx, `vacuum into `+quote(temp)); err != nil {
		return fmt.Errorf("copy the database: %w", err)
	}
	if err := syncFile(temp); err != nil {
		return fmt.Errorf("copy the database: %w", err)
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("copy the database: %w", err)
	}
	if err := syncFolder(filepath.Dir(path)); err != nil {
		return fmt.Errorf("copy the database: %w", err)
	}
	return nil
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o600), f.Sync(), f.Close())
}
