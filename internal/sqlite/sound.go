package sqlite

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// soundWithin bounds how long a start looks for damage: some hundred megabytes.
const soundWithin = time.Second

// sound looks through the whole file before anything is written to it: damage in a page that is rarely read would
// only be met in the middle of somebody's work, and writing could make it worse. A file that is too large for the time
// is taken as it is; what is damaged in it is reported when it is met. A connection that only reads needs half the time of
// one that may write.
func (db *DB) sound(ctx context.Context) error {
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, soundWithin)
	defer cancel()
	var finding string
	err := db.read.QueryRowContext(limited, `pragma quick_check(1)`).Scan(&finding)
	switch {
	case err == nil && finding == "ok":
		db.log.Debug("database is sound", "dur", time.Since(began))
		return nil
	case err == nil:
		return errDamaged(errors.New(finding))
	case limited.Err() != nil && ctx.Err() == nil:
		db.log.Debug("database is too large to look through at a start", "dur", time.Since(began))
		return nil
	}
	return fmt.Errorf("look through the database: %w", err)
}
