package sqlite_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/queue/queuetest"
	"github.com/ahelme/comfyume/internal/sqlite"
)

var update = flag.Bool("update", false, "write a missing fixture of the present schema")

// fixture is a queue as it is kept in testdata: what an earlier program wrote must open for ever.
type fixture struct {
	Open    []entry
	History []entry
	Secret  map[string]string // of the running job
	Mode    string            // that a command set; empty: none did
	Pauses  []queue.Pause
	Keyed   job.ID    // the job with fixtureKey
	Tries   []job.Try // of the first open job
	Studio  studio
}

// entry is a job.Entry whose raw JSON is text: it has to come back byte for byte.
type entry struct {
	Job              job.Job
	Prompt, Extra    string
	Targets, Results []string
	Outcome          *job.Outcome
	Outputs, Summary string
}

func describe(e job.Entry) entry {
	d := entry{
		Job: e.Job, Prompt: string(e.Request.Prompt), Extra: string(e.Request.ExtraData), Targets: e.Request.Targets,
		Results: e.Request.Outputs, Summary: string(e.Job.Summary),
	}
	d.Job.Summary = nil
	if e.Outcome != nil {
		o := *e.Outcome
		d.Outputs = string(o.Outputs) + string(o.Messages) + string(o.Meta)
		o.Outputs, o.Messages, o.Meta, o.Summary = nil, nil, nil, nil
		d.Outcome = &o
	}
	return d
}

// studioKey is the key of the fixtures' studio.
func studioKey(t *testing.T) queue.Sealer {
	t.Helper()
	key := make([]byte, 32)
	for i := range key {
		key[i] = byte(i)
	}
	sealer, err := queue.NewSealer(key)
	must(t, err)
	return sealer
}

// TestFixtures opens every data folder that an earlier program left, and works on with it. A folder in testdata is
// never changed: a new schema adds one (-update writes schema-N where it is missing).
func TestFixtures(t *testing.T) {
	t.Parallel()
	if *update {
		writeFixture(t)
	}
	folders, err := filepath.Glob(filepath.Join("testdata", "schema-*"))
	must(t, err)
	if len(folders) == 0 {
		t.Fatal("there is no fixture")
	}
	for _, folder := range folders {
		t.Run(filepath.Base(folder), func(t *testing.T) {
			t.Parallel()
			path := fixtureCopy(t, filepath.Base(folder))
			raw, err := os.ReadFile(filepath.Join(folder, "queue.json"))
			must(t, err)
			var want fixture
			must(t, json.Unmarshal(raw, &want))

			db := open(t, path)
			store, err := sqlite.NewQueue(t.Context(), db)
			must(t, err)
			defer store.Close()
			q, err := queue.New(t.Context(), store, queue.Options{Sealer: studioKey(t)})
			must(t, err)
			if diff := cmp.Diff(want, withKey(readFixture(t, db, store, q), want.Keyed), sameNull); diff != "" {
				t.Errorf("want -, got +\n%s", diff)
			}
			if want.Keyed != "" {
				j, err := store.FindKey(t.Context(), "ann", fixtureKey, fixtureTime)
				must(t, err)
				if j.ID != want.Keyed {
					t.Errorf("the key is that of %s, want %s", j.ID, want.Keyed)
				}
			}
			// It is alive: numbers, fences and places go on.
			last := want.Open[len(want.Open)-1].Job
			j, _, err := q.Submit(t.Context(), queuetest.Submission("ann", 1))
			must(t, err)
			e, _, err := q.Claim(t.Context(), j.ID, queuetest.Params())
			must(t, err)
			if j.Seq <= last.Seq || j.Number <= last.Number || e.Job.Attempt.Fence <= want.Open[0].Job.Attempt.Fence {
				t.Errorf("after %+v came %+v", last, e.Job)
			}
			must(t, q.Finish(t.Context(), j.ID, e.Job.Attempt.Fence, queuetest.Outcome(job.Completed)))
			goOn(t, db, want.Studio)
		})
	}
}

// fixtureKey is an Idempotency-Key of ann.
const fixtureKey = "a key"

func withKey(f fixture, id job.ID) fixture {
	f.Keyed = id
	return f
}

// sameNull takes the null that JSON makes of no raw JSON for what it was.
var sameNull = cmp.Comparer(func(x, y json.RawMessage) bool {
	return string(x) == string(y) || len(x) == 0 && string(y) == "null" || len(y) == 0 && string(x) == "null"
})

// TestFixtureIsOfThisSchema: once a schema has a fixture, its migrations stay as they are; a change is a new one.
func TestFixtureIsOfThisSchema(t *testing.T) {
	t.Parallel()
	present := open(t, filepath.Join(t.TempDir(), "comfyume.db"))
	path := fixtureCopy(t, "schema-"+presentSchema(t))
	if diff := cmp.Diff(schema(t, open(t, path)), schema(t, present)); diff != "" {
		t.Errorf("a migration was changed after its fixture was written. If it has been released, put it back and add a new one; "+
			"if not, delete the fixture and write it again with -update. Fixture -, present +\n%s", diff)
	}
}

// presentSchema is the version of a new database.
func presentSchema(t *testing.T) (version string) {
	t.Helper()
	db := open(t, filepath.Join(t.TempDir(), "comfyume.db"))
	must(t, db.QueryRow(t.Context(), `select max(version_id) from goose_db_version`).Scan(&version))
	return version
}

// fixtureCopy returns the path of a copy that may be changed.
func fixtureCopy(t *testing.T, name string) string {
	t.Helper()
	body, err := os.ReadFile(filepath.Join("testdata", name, "comfyume.db"))
	if err != nil {
		t.Fatalf("%s has no fixture; write it with -update: %v", name, err)
	}
	path := filepath.Join(t.TempDir(), "comfyume.db")
	must(t, os.WriteFile(path, body, 0o600))
	return path
}

// schema returns what the database is made of.
func schema(t *testing.T, db *sqlite.DB) (all []string) {
	t.Helper()
	rows, err := db.Query(t.Context(), `select sql from sqlite_schema where sql is not null order by type, name`)
	must(t, err)
	all, err = texts(rows)
	must(t, err)
	return all
}

// texts reads rows of one text column.
func texts(rows *sql.Rows) (all []string, err error) {
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		all = append(all, text)
	}
	return all, rows.Err()
}

// readFixture reads ann's jobs, and the studio.
func readFixture(t *testing.T, db *sqlite.DB, store *sqlite.Queue, q *queue.Service) (f fixture) {
	t.Helper()
	open, err := q.Open(t.Context(), "ann")
	must(t, err)
	for _, j := range open {
		e, err := q.Entry(t.Context(), "ann", j.PromptID)
		must(t, err)
		stored, err := store.Get(t.Context(), j.ID)
		must(t, err)
		e.Job.Digest = stored.Digest
		f.Open = append(f.Open, describe(e))
	}
	_, f.Secret, err = q.Load(t.Context(), open[0].ID, open[0].Attempt.Fence)
	must(t, err)
	must(t, q.EachHistory(t.Context(), "ann", job.HistoryQuery{MaxItems: -1, Offset: -1}, func(e job.Entry) error {
		f.History = append(f.History, describe(e))
		return nil
	}))
	if q.Mode() != queue.Fair {
		f.Mode = q.Mode()
	}
	f.Pauses = q.Pauses()
	f.Tries, err = q.Tries(t.Context(), open[0].ID)
	must(t, err)
	f.Studio = readStudio(t, db, open[0])
	return f
}

// writeFixture makes the folder of the present schema, unless it is there.
func writeFixture(t *testing.T) {
	folder := filepath.Join("testdata", "schema-"+presentSchema(t))
	if _, err := os.Stat(folder); err == nil {
		t.Logf("%s is there and stays as it is", folder)
		return
	}
	path := filepath.Join(t.TempDir(), "comfyume.db")
	db, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	must(t, err)
	store, err := sqlite.NewQueue(t.Context(), db)
	must(t, err)
	q, err := queue.New(t.Context(), store, queue.Options{Sealer: studioKey(t)})
	must(t, err)
	submit := func(secret map[string]string) job.Job {
		sub := queuetest.Submission("ann", 7)
		sub.Credentials = secret
		sub.Request.Targets = []string{"9"}
		j, _, err := q.Submit(t.Context(), sub)
		must(t, err)
		return j
	}
	for _, state := range []job.State{job.Completed, job.Failed, job.Cancelled} {
		e, _, err := q.Claim(t.Context(), submit(nil).ID, queuetest.Params())
		must(t, err)
		must(t, q.Posted(e.Job.ID, e.Job.Attempt.Fence))
		must(t, q.Finish(t.Context(), e.Job.ID, e.Job.Attempt.Fence, queuetest.Outcome(state)))
	}
	secret := submit(map[string]string{"api_key_comfy_org": "a fixture's key"})
	lost, _, err := q.Claim(t.Context(), secret.ID, queuetest.Params())
	must(t, err)
	must(t, q.GiveUp(t.Context(), secret.ID, lost.Job.Attempt.Fence, job.Try{
		N: 1, BackEnd: "gpu0", Began: fixtureTime, Ended: fixtureTime.Add(time.Second), Posted: true, Cause: job.CauseLost, Reason: "gpu0 lost the run.",
	}))
	e, _, err := q.Claim(t.Context(), secret.ID, queuetest.Params())
	must(t, err)
	must(t, q.Posted(e.Job.ID, e.Job.Attempt.Fence))
	_, err = q.Renew(t.Context(), []job.Fence{{Job: e.Job.ID, N: e.Job.Attempt.Fence}}, time.UnixMilli(1764000060000))
	must(t, err)
	submit(nil)
	_, err = q.Hold(t.Context(), submit(nil).ID, true)
	must(t, err)
	keyed := queuetest.Submission("ann", 7)
	keyed.Key, keyed.Profile = fixtureKey, job.Profile{Like: "like", Work: 2.5, Models: "a.safetensors\nb.safetensors"}
	last, _, err := q.Submit(t.Context(), keyed)
	must(t, err)
	must(t, q.SetMode(t.Context(), queue.Priority))
	must(t, q.Pause(t.Context(), queue.Pause{Scope: "group:class-a", On: true, Reason: "A break.", By: "root", Since: fixtureTime}))
	if _, err := q.RemovePending(t.Context(), "ann", []string{submit(nil).PromptID}); err != nil {
		t.Fatal(err)
	}
	fill(t, db, e.Job)
	f := readFixture(t, db, store, q)
	f.Keyed = last.ID
	raw, err := json.MarshalIndent(f, "", " ")
	must(t, err)
	must(t, store.Close())
	must(t, db.Close())
	body, err := os.ReadFile(path)
	must(t, err)
	must(t, os.MkdirAll(folder, 0o755))
	must(t, os.WriteFile(filepath.Join(folder, "comfyume.db"), body, 0o644))
	must(t, os.WriteFile(filepath.Join(folder, "queue.json"), append(raw, '\n'), 0o644))
}

// TestSecretsStayOffTheDisk looks for a credential in every byte of the data folder.
func TestSecretsStayOffTheDisk(t *testing.T) {
	t.Parallel()
	const secret = "comfyui-0123456789abcdef-secret"
	path := filepath.Join(t.TempDir(), "comfyume.db")
	db := open(t, path)
	store, err := sqlite.NewQueue(t.Context(), db)
	must(t, err)
	defer store.Close()
	q, err := queue.New(context.Background(), store, queue.Options{Sealer: studioKey(t)})
	must(t, err)
	sub := queuetest.Submission("ann", 1)
	sub.Credentials = map[string]string{"auth_token_comfy_org": secret}
	j, _, err := q.Submit(t.Context(), sub)
	must(t, err)
	look := func(when string) {
		t.Helper()
		files, err := filepath.Glob(path + "*")
		must(t, err)
		for _, name := range files {
			body, err := os.ReadFile(name)
			must(t, err)
			for _, word := range []string{secret, "auth_token_comfy_org"} {
				if bytes.Contains(body, []byte(word)) {
					t.Errorf("%s: %s holds %q", when, filepath.Base(name), word)
				}
			}
		}
	}
	look("pending")
	e, _, err := q.Claim(t.Context(), j.ID, queuetest.Params())
	must(t, err)
	look("claimed")
	must(t, q.Finish(t.Context(), j.ID, e.Job.Attempt.Fence, queuetest.Outcome(job.Completed)))
	look("finished")
	var left int
	must(t, db.QueryRow(t.Context(), `select count(*) from job_credential`).Scan(&left))
	if left > 0 {
		t.Errorf("%d sealed credentials outlive their job", left)
	}
}
