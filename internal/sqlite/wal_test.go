package sqlite_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/sqlite"
)

// logSize is how long the log of a database is.
func logSize(t testing.TB, db *sqlite.DB) int64 {
	t.Helper()
	info, err := os.Stat(db.Path() + "-wal")
	must(t, err)
	return info.Size()
}

// TestLogHasItsLength: commits find room in the log, from the first one after any start, and what is behind its end is
// taken for none of it, as after the power went.
func TestLogHasItsLength(t *testing.T) {
	t.Parallel()
	db := scratch(t)
	before := logSize(t, db)
	const n = 300
	for i := range n {
		must(t, db.Write(t.Context(), insert(fmt.Sprint(i))))
	}
	if after := logSize(t, db); after != before {
		t.Errorf("%d commits took the log from %d to %d bytes", n, before, after)
	}
	lost := filepath.Join(t.TempDir(), "lost.db")
	for _, end := range []string{"", "-wal"} {
		content, err := os.ReadFile(db.Path() + end)
		must(t, err)
		must(t, os.WriteFile(lost+end, content, 0o600))
	}
	found := open(t, lost)
	if c := count(t, found); c != n {
		t.Errorf("%d of %d commits are left", c, n)
	}
	must(t, found.Write(t.Context(), insert("one more")))
	if now := logSize(t, found); now != before {
		t.Errorf("the log has %d bytes, want %d", now, before)
	}
}

// BenchmarkFirstCommits is what one person waits for commits after a start, in turns with a log that grows.
func BenchmarkFirstCommits(b *testing.B) {
	full, grows := scratch(b), scratch(b)
	var pages int64
	must(b, grows.Read().QueryRowContext(b.Context(), `pragma wal_checkpoint(noop)`).Scan(new(int), &pages, new(int)))
	must(b, os.Truncate(grows.Path()+"-wal", 32+pages*4120))
	took := map[*sqlite.DB][]time.Duration{}
	for i := 0; b.Loop(); i++ {
		for _, db := range []*sqlite.DB{full, grows} {
			began := time.Now()
			must(b, db.Write(b.Context(), insert(fmt.Sprint(i))))
			took[db] = append(took[db], time.Since(began))
		}
	}
	for name, db := range map[string]*sqlite.DB{"": full, "grows-": grows} {
		all := took[db]
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2].Microseconds()), name+"p50-µs")
		b.ReportMetric(float64(all[len(all)*9/10].Microseconds()), name+"p90-µs")
	}
}
