package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image/png"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// outputFile is a file as history names it.
type outputFile struct{ Filename, Subfolder, Type string }

// finished is an entry of history.
type finished struct {
	Prompt  []json.RawMessage
	Outputs map[string]struct {
		Images []outputFile
		Text   []string
	}
	Status struct {
		Completed bool
		Str       string `json:"status_str"`
		Messages  json.RawMessage
	}
}

// check holds what the studio has of this person against what was acknowledged.
func (l *loader) check(t *testing.T, sum *tally) {
	t.Helper()
	var history map[string]finished
	if err := l.call("GET", "/history", nil, &history); err != nil {
		t.Fatal(err)
	}
	sum.jobs += len(l.acked)
	for id, o := range l.acked {
		_, ok := history[id]
		switch {
		case !ok && o.deleted:
			sum.deleted++
		case !ok && o.asked && !o.interrupted:
			sum.cut++
		case !ok && !o.asked:
			l.wrong(t, id, "was acknowledged and is lost")
		}
	}
	l.checkEntries(t, history)
	files := map[outputFile]order{}
	for id, e := range history {
		if _, ok := l.acked[id]; !ok { // accepted, and the answer was cut off
			sum.unasked++
		}
		l.checkEntry(t, id, e, files, sum)
	}
	for f, o := range files {
		if f.Type == "output" {
			sum.files++
		}
		l.checkPicture(t, f, o)
	}
	l.checkNames(t, files)
	l.checkDocument(t)
}

// checkEntries holds the list of jobs against history: no job may be there twice.
func (l *loader) checkEntries(t *testing.T, history map[string]finished) {
	t.Helper()
	seen := map[string]bool{}
	for more := true; more; {
		var list struct {
			Jobs []struct {
				ID string `json:"id"`
			}
			Pagination struct {
				More bool `json:"has_more"`
			}
		}
		if err := l.call("GET", fmt.Sprintf("/api/jobs?limit=500&offset=%d", len(seen)), nil, &list); err != nil {
			t.Fatal(err)
		}
		for _, j := range list.Jobs {
			if seen[j.ID] {
				t.Fatalf("%s: job %s is there twice\n%s", l.name, j.ID, l.story(j.ID))
			}
			seen[j.ID] = true
			if _, ok := history[j.ID]; !ok {
				l.wrong(t, j.ID, "is in the list and not in history")
			}
		}
		more = list.Pagination.More
	}
	if len(seen) != len(history) {
		t.Errorf("%s: %d jobs are listed, %d are in history", l.name, len(seen), len(history))
	}
}

// checkEntry looks at one job and notes its files.
func (l *loader) checkEntry(t *testing.T, id string, e finished, files map[outputFile]order, sum *tally) {
	t.Helper()
	if len(e.Prompt) < 3 {
		l.wrong(t, id, "has lost its graph")
		return
	}
	o, err := asked(e.Prompt[2])
	if err != nil {
		l.wrong(t, id, "shows another graph: %v", err)
		return
	}
	if a, ok := l.acked[id]; ok && (a.kind != o.kind || a.colour != o.colour) {
		l.wrong(t, id, "was for %+v and shows %+v", a, o)
	} else if ok {
		o.again, o.interrupted = a.again, a.interrupted || a.asked
	}
	switch {
	case o.interrupted && bytes.Contains(e.Status.Messages, []byte(`"execution_interrupted"`)):
		sum.interrupted++
		l.noteFiles(t, id, e, o, files, sum)
		return
	case bytes.Contains(e.Status.Messages, []byte("never came to its end")), // it was under too many deaths
		bytes.Contains(e.Status.Messages, []byte("died while working at it")): // or under that of both back ends, and of few others
		sum.lostThrice++
		l.lost = append(l.lost, id)
		l.noteFiles(t, id, e, o, files, sum)
		return
	case !e.Status.Completed:
		l.noteFiles(t, id, e, o, files, sum)
		l.wrong(t, id, "ended as %s: %s", e.Status.Str, e.Status.Messages)
		return
	}
	want := map[string]int{"2": 1}
	if o.kind == several {
		want = map[string]int{"2": batch, "4": batch}
		if text := e.Outputs["6"].Text; len(text) != 1 || text[0] != o.text() {
			l.wrong(t, id, "says %q, want %q", text, o.text())
		}
	}
	for n, count := range want {
		if got := len(e.Outputs[n].Images); got != count {
			l.wrong(t, id, "has %d pictures at node %s, want %d", got, n, count)
		}
	}
	l.noteFiles(t, id, e, o, files, sum)
}

// noteFiles notes a job's files. Only equal graphs may show the same ones.
func (l *loader) noteFiles(t *testing.T, id string, e finished, o order, files map[outputFile]order, sum *tally) {
	t.Helper()
	o.id = id
	for _, out := range e.Outputs {
		for _, f := range out.Images {
			other, twice := files[f]
			switch {
			case !twice:
			case other.id == id, other.colour != o.colour, other.kind != o.kind:
				l.wrong(t, id, "shares the file %v with job %s:\n%s", f, other.id, l.story(other.id))
			default:
				sum.shared++
			}
			files[f] = o
		}
	}
}

// checkPicture sees that a file shows what was ordered. An upload's order has no id.
func (l *loader) checkPicture(t *testing.T, f outputFile, o order) {
	t.Helper()
	got, err := l.shows(f)
	switch {
	case err == nil && got == o.colour:
	case o.id == "":
		t.Errorf("%s: the upload %v shows colour %06x, want %06x (%v)", l.name, f, got, o.colour, err)
	default:
		l.wrong(t, o.id, "shows %v, which has colour %06x, want %06x (%v)", f, got, o.colour, err)
	}
}

// shows returns the colour of a picture.
func (l *loader) shows(f outputFile) (int, error) {
	var raw bytes.Buffer
	query := url.Values{"type": {f.Type}, "filename": {f.Filename}, "subfolder": {f.Subfolder}}
	if err := l.call("GET", "/view?"+query.Encode(), nil, &raw); err != nil {
		return 0, err
	}
	img, err := png.Decode(&raw)
	if err != nil {
		return 0, err
	}
	r, g, b, _ := img.At(0, 0).RGBA()
	return int(r>>8)<<16 | int(g>>8)<<8 | int(b>>8), nil
}

// checkNames holds the person's files against those of history: none is missing, and none is there that no job
// shows.
func (l *loader) checkNames(t *testing.T, files map[outputFile]order) {
	t.Helper()
	want := map[string][]string{"output": {}, "temp": {}, "input": {}}
	for f := range files {
		l.named++
		if f.Subfolder == "" { // the list is of the folder itself, as a real server's
			want[f.Type] = append(want[f.Type], f.Filename)
		}
	}
	for name := range l.uploads {
		want["input"] = append(want["input"], name)
	}
	for typ, names := range want {
		got := l.names(t, typ)
		slices.Sort(names)
		if typ == "input" { // an upload whose answer was cut may be there
			for _, name := range names {
				if !slices.Contains(got, name) {
					t.Errorf("%s: the acknowledged upload %s is lost", l.name, name)
				}
			}
			continue
		}
		for _, name := range got {
			if _, ok := slices.BinarySearch(names, name); !ok {
				l.strange(t, outputFile{name, "", typ})
			}
		}
		if len(got) < len(names) {
			t.Errorf("%s: %d files of type %s, and history shows %d", l.name, len(got), typ, len(names))
		}
	}
	for name, colour := range l.uploads {
		l.checkPicture(t, outputFile{name, "", "input"}, order{colour: colour})
	}
}

// strange looks at a file that no job shows. It may be of a job that began, was lost, and left the queue while it waited:
// its files stay, as those of every job that is taken out of history.
func (l *loader) strange(t *testing.T, f outputFile) {
	t.Helper()
	colour, err := l.shows(f)
	var stories strings.Builder
	for id, o := range l.acked {
		if err != nil || o.colour != colour {
			continue
		}
		if o.deleted {
			l.named++
			return
		}
		stories.WriteString(l.story(id))
	}
	t.Errorf("%s: no job shows the file %v of colour %06x (%v); of that colour are:\n%s", l.name, f, colour, err, &stories)
}

// names lists the person's files.
func (l *loader) names(t *testing.T, typ string) []string {
	t.Helper()
	var got []string
	if err := l.call("GET", "/internal/files/"+typ, nil, &got); err != nil {
		t.Fatal(err)
	}
	for i, name := range got { // "picture.png [output]" in some versions
		got[i], _, _ = strings.Cut(name, " [")
	}
	return got
}

// checkDocument sees that the last acknowledged version of a document, or one that was sent later, is there.
func (l *loader) checkDocument(t *testing.T) {
	t.Helper()
	if l.saved == 0 {
		return
	}
	var doc struct{ Version int }
	if err := l.call("GET", "/userdata/kill.json", nil, &doc); err != nil {
		t.Errorf("%s: %v", l.name, err)
	} else if doc.Version < l.saved || doc.Version > l.tried {
		t.Errorf("%s: the document has version %d, acknowledged was %d", l.name, doc.Version, l.saved)
	}
}

// sweepAll makes the studio clear away what the kills left: it does so at its start with whatever is a day old.
func (s *studio) sweepAll(t *testing.T) {
	t.Helper()
	s.server.end(t, 10*time.Second)
	old := time.Now().Add(-48 * time.Hour)
	for _, name := range s.stored(t) {
		if err := os.Chtimes(name, old, old); err != nil {
			t.Fatal(err)
		}
	}
	s.server.start(t)
	s.waitReady(t)
}

// stored lists the files with people's bytes, half-written ones too.
func (s *studio) stored(t *testing.T) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(filepath.Join(s.dir, "data", "blobs"), func(name string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// checkBytes sees that after a sweep there are as many stored files as names.
func (l *loader) checkBytes(t *testing.T, s *studio) {
	t.Helper()
	want := l.named + len(l.names(t, "input"))
	own := string(filepath.Separator) + l.name + string(filepath.Separator)
	deadline := time.Now().Add(10 * time.Second)
	for {
		got, half := 0, 0
		for _, name := range s.stored(t) {
			switch {
			case strings.Contains(name, string(filepath.Separator)+".tmp"+string(filepath.Separator)):
				half++
			case strings.Contains(name, own) && !strings.HasSuffix(name, ".thumb"):
				got++
			}
		}
		if got == want && half == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s: %d stored files for %d names after a sweep, and %d half-written ones", l.name, got, want, half)
			return
		}
		<-time.After(50 * time.Millisecond)
	}
}
