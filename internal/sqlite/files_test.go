package sqlite_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/blob"
	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/sqlite"
	"github.com/ahelme/comfyume/internal/workspace"
)

// TestPlansOfFiles names the index of each hot query about files.
func TestPlansOfFiles(t *testing.T) {
	t.Parallel()
	db := open(t, filepath.Join(t.TempDir(), "comfyume.db"))
	all := statements(t)
	for name, want := range map[string]string{
		"sqlFile":          "SEARCH f USING INDEX sqlite_autoindex_file_2 (user=? AND type=? AND subfolder=? AND name=?)",
		"sqlFileTaken":     "SEARCH file USING COVERING INDEX sqlite_autoindex_file_2 (user=? AND type=? AND subfolder=? AND name=?)",
		"sqlFilesNewest":   "SEARCH f USING INDEX file_newest (user=? AND type=?)",
		"sqlFilesSame":     "SEARCH f USING INDEX file_same (user=? AND type=? AND subfolder=? AND hash=?)",
		"sqlFilesExpire":   "SEARCH file USING COVERING INDEX file_temp (modified<?)",
		"sqlFilesUnknown":  "SEARCH f USING COVERING INDEX sqlite_autoindex_file_1 (blob_key=?)",
		"sqlFileUsage":     "SEARCH file_usage USING PRIMARY KEY (user=?)",
		"sqlCounterNext":   "SEARCH file_counter USING PRIMARY KEY (user=? AND type=? AND subfolder=? AND stem=?)",
		"sqlCountersOver":  "SEARCH file_counter USING COVERING INDEX file_counter_temp (used<?)",
		"sqlDelivered":     "SEARCH d USING PRIMARY KEY (job=? AND node=? AND key=? AND idx=?)",
		"sqlDeliverySlot":  "SEARCH d USING PRIMARY KEY (job=? AND node=? AND key=? AND idx=?)",
		"sqlDeliveryTwin":  "SEARCH delivery USING INDEX delivery_theirs (job=? AND theirs=?)",
		"sqlDeliveryFence": "SEARCH job USING INDEX job_id (id=?)",
		"sqlOriginFile":    "SEARCH o USING PRIMARY KEY (back_end=? AND epoch=? AND type=? AND subfolder=? AND name=?)",
	} {
		query, ok := all[name]
		if !ok {
			t.Errorf("there is no statement %s", name)
			continue
		}
		must(t, db.Write(t.Context(), func(tx *sqlite.Tx) error {
			steps, err := tx.Plan(query)
			if err != nil {
				return err
			}
			if !slices.Contains(steps, want) {
				t.Errorf("%s goes by %q, want %q", name, steps, want)
			}
			if slices.ContainsFunc(steps, func(s string) bool { return strings.Contains(s, "TEMP B-TREE") }) {
				t.Errorf("%s sorts: %q", name, steps)
			}
			return nil
		}))
	}
}

// place names bytes that need not be there: the table does not look.
func place(t testing.TB, s *sqlite.Files, name string, overwrite bool, content byte) workspace.Placed {
	t.Helper()
	p, err := s.PlaceFile(t.Context(), workspace.Placement{
		User: "ann", Ref: file.Ref{Type: file.Input, Subfolder: "pasted", Name: name}, Key: blob.NewFileKey("ann"),
		Sum: blob.Sum{Size: int64(content), SHA256: [32]byte{content}}, Modified: time.Now(), Overwrite: overwrite,
	})
	must(t, err)
	return p
}

// TestVersionsOfFiles holds the promise that caches stand on: the version has grown when the change is answered.
func TestVersionsOfFiles(t *testing.T) {
	t.Parallel()
	db := open(t, filepath.Join(t.TempDir(), "comfyume.db"))
	s := sqlite.NewFiles(db)
	last := s.FileVersion("ann")
	grew := func(what string, want bool) {
		t.Helper()
		now := s.FileVersion("ann")
		if (now > last) != want {
			t.Errorf("after %s the version went from %d to %d", what, last, now)
		}
		last = now
	}
	place(t, s, "a", false, 1)
	grew("a new file", true)
	place(t, s, "a", false, 1)
	grew("the same bytes again", false)
	place(t, s, "a", false, 2)
	grew("a sibling", true)
	place(t, s, "a", true, 3)
	grew("other bytes", true)
	place(t, s, "a", true, 3)
	grew("the same bytes written again", true)
	_, err := s.RemoveFile(t.Context(), "ann", file.Ref{Type: file.Input, Subfolder: "pasted", Name: "none"})
	if err == nil {
		t.Error("a file that is not there was removed")
	}
	grew("a removal of nothing", false)
	_, err = s.RemoveFile(t.Context(), "ann", file.Ref{Type: file.Input, Subfolder: "pasted", Name: "a"})
	must(t, err)
	grew("a removal", true)
	_, err = s.ForgetFiles(t.Context(), "ann", 10)
	must(t, err)
	grew("all were forgotten", true)
	place(t, sqlite.NewFiles(db), "b", false, 1)
	grew("a change through another store", true)
	if s.FileVersion("bob") != 0 {
		t.Error("bob's version grew")
	}
}

// BenchmarkPlaceFile gives ten thousand pictures from the clipboard, which are all called image.png, their names:
// the last must not take longer than the first.
func BenchmarkPlaceFile(b *testing.B) {
	s := sqlite.NewFiles(open(b, filepath.Join(b.TempDir(), "comfyume.db")))
	n := 0
	for b.Loop() {
		n++
		_, err := s.PlaceFile(b.Context(), workspace.Placement{
			User: "ann", Ref: file.Ref{Type: file.Input, Subfolder: "pasted", Name: "image.png"}, Key: fmt.Sprint("files/ann/", n),
			Sum: blob.Sum{Size: 1, SHA256: [32]byte{byte(n), byte(n >> 8), byte(n >> 16)}}, Modified: time.Now(),
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLookUpFile reads what the cache above does not hold.
func BenchmarkLookUpFile(b *testing.B) {
	s := sqlite.NewFiles(open(b, filepath.Join(b.TempDir(), "comfyume.db")))
	for i := range 50 {
		place(b, s, fmt.Sprint(i, ".png"), true, byte(i))
	}
	b.Run("File", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.File(b.Context(), "ann", file.Ref{Type: file.Input, Subfolder: "pasted", Name: "7.png"}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Files50", func(b *testing.B) {
		for b.Loop() {
			if list, err := s.Files(b.Context(), "ann", file.Input); err != nil || len(list) != 50 {
				b.Fatal(len(list), err)
			}
		}
	})
}
