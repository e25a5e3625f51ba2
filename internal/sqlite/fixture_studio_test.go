package sqlite_test

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/account"
	"github.com/ahelme/comfyume/internal/agents"
	"github.com/ahelme/comfyume/internal/blob"
	"github.com/ahelme/comfyume/internal/catalog"
	"github.com/ahelme/comfyume/internal/deliver"
	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/fleet"
	"github.com/ahelme/comfyume/internal/identity"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/sqlite"
	"github.com/ahelme/comfyume/internal/usage"
	"github.com/ahelme/comfyume/internal/workspace"
)

// studio is the part of a fixture that is not the queue: people, what they carry, their files, and what back ends told.
type studio struct {
	People    []account.Record
	Groups    []account.Group
	Session   account.SessionRecord
	Tokens    []account.TokenRecord
	Codes     []account.Code
	Link      account.LinkRecord
	Files     map[string][]workspace.Stored // by type, newest first
	Usage     workspace.Usage
	Delivered file.Info // of the running job's slot
	Resolved  file.Info // by where it came from
	Snapshots map[string]string
	Packs     []fleet.PackFile
	Script    string
	Members   map[string][]byte
	Requests  []catalog.Request
	Hours     []usage.Hour
	Learned   []usage.Learned
	Agents    []agents.Agent
}

// What the fixtures' studio is made of.
var (
	fixtureTime   = time.UnixMilli(1764000000000).UTC()
	fixtureHash   = account.Hash{1, 2, 3}
	fixtureUpload = file.Ref{Type: file.Input, Subfolder: "pasted", Name: "photo.png"}
	fixtureOrigin = deliver.Origin{BackEnd: "gpu", Epoch: "start", Ref: file.Ref{Type: file.Output, Name: "ComfyUI_00041_.png"}}
	fixtureScript = "app.registerExtension({})"
)

func fixtureSlot(id job.ID) deliver.Slot { return deliver.Slot{Job: id, Node: "9", Key: "images"} }

// fill writes a row of everything; running is a job of ann that has its attempt.
func fill(t *testing.T, db *sqlite.DB, running job.Job) {
	t.Helper()
	ctx := t.Context()
	people := sqlite.NewAccounts(db)
	must(t, people.CreateGroup(ctx, account.Group{Name: "class-a", Title: "Class A", Created: fixtureTime}))
	must(t, people.CreateUser(ctx, account.Record{
		User:   account.User{Name: "ann", Group: "class-a", Role: identity.Participant, Proof: "password", Created: fixtureTime},
		Secret: "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaA",
	}))
	must(t, people.CreateUser(ctx, account.Record{User: account.User{Name: "root", Role: identity.Operator, Suspended: true, Created: fixtureTime}}))
	end := fixtureTime.AddDate(100, 0, 0)
	_, err := people.AddSession(ctx, account.SessionRecord{Hash: fixtureHash, Session: account.Session{
		ID: "s1", User: "ann", Device: "Firefox on Linux", Address: "192.0.2.7", Via: "link", Created: fixtureTime, Seen: fixtureTime, Expires: end,
	}}, 10)
	must(t, err)
	must(t, people.AddToken(ctx, account.TokenRecord{Hash: fixtureHash, Token: account.Token{
		ID: "t1", User: "ann", Label: "notebook", Scope: account.ScopeComfy, Created: fixtureTime,
	}}, 10))
	must(t, people.AddLink(ctx, account.LinkRecord{Hash: fixtureHash, User: "ann", By: "root", Created: fixtureTime, Expires: end}))
	must(t, people.AddCode(ctx, account.Code{Code: "ABCD-EFGH", Group: "class-a", By: "root", Places: 12, Created: fixtureTime, Expires: end}))

	files := sqlite.NewFiles(db)
	for _, content := range []string{"a photo", "another one"} {
		_, err := files.PlaceFile(ctx, workspace.Placement{
			User: "ann", Ref: fixtureUpload, Key: blob.NewFileKey("ann"), Sum: sumOf(content), Modified: fixtureTime,
		})
		must(t, err)
	}
	_, _, err = files.Deliver(ctx, deliver.Delivery{
		User: "ann", Fence: running.Attempt.Fence, Attempt: 1, Slot: fixtureSlot(running.ID), From: fixtureOrigin,
		Want: deliver.ParseName(fixtureOrigin.Ref, ""), Blob: blob.NewFileKey("ann"), Sum: sumOf("a result"), Modified: fixtureTime,
	})
	must(t, err)

	told := sqlite.NewCatalog(db)
	must(t, told.SaveSnapshot(ctx, "gpu", []byte("a snapshot")))
	must(t, told.SaveMember(ctx, "added", []byte("a back end")))
	must(t, told.AddRequest(ctx, catalog.Want{Kind: catalog.WantModel, Folder: "loras", Name: "x.safetensors"}, "class-a", fixtureTime))
	sum := sha256.Sum256([]byte(fixtureScript))
	must(t, told.SavePackFile(ctx, fleet.PackFile{
		BackEnd: "gpu", Pack: "nodes", Path: "js/nodes.js", Hash: hex.EncodeToString(sum[:]), Listed: true,
	}, []byte(fixtureScript)))

	must(t, sqlite.NewUsage(db).Save(ctx, usage.Snapshot{
		Hours:   []usage.Hour{{Start: fixtureTime, User: "ann", Group: "class-a", Jobs: 2, GPU: time.Minute, Spent: 7}},
		Learned: []usage.Learned{{Key: []byte("a hash"), Body: []byte("runs")}},
	}))

	home := sqlite.NewAgents(db)
	for n, name := range []string{"lab-1", "lab-2"} { // the second has not joined yet
		must(t, home.AddCode(ctx, agents.CodeRecord{Hash: agents.Hash{byte(n)}, Name: name, By: "root", Expires: end}))
	}
	must(t, home.UseCode(ctx, agents.Hash{0}, fixtureTime, func(c agents.CodeRecord) (agents.Record, error) {
		about := agents.About{Machine: "gpu-room", Version: "v1", OS: "windows/amd64"}
		return agents.Record{Key: agents.Hash{9}, Agent: agents.Agent{Name: c.Name, By: c.By, About: about, Joined: fixtureTime}}, nil
	}))
}

func sumOf(content string) blob.Sum {
	return blob.Sum{Size: int64(len(content)), SHA256: sha256.Sum256([]byte(content))}
}

// readStudio reads it all back; running is the first of ann's open jobs.
func readStudio(t *testing.T, db *sqlite.DB, running job.Job) (s studio) {
	t.Helper()
	ctx := t.Context()
	people := sqlite.NewAccounts(db)
	users, err := people.Users(ctx, "")
	must(t, err)
	for _, u := range users {
		r, err := people.User(ctx, u.Name)
		must(t, err)
		s.People = append(s.People, r)
	}
	s.Groups, err = people.Groups(ctx)
	must(t, err)
	s.Session, _, err = people.Session(ctx, fixtureHash)
	must(t, err)
	s.Tokens, err = people.Tokens(ctx, "ann")
	must(t, err)
	s.Codes, err = people.Codes(ctx, "class-a")
	must(t, err)
	s.Link, _, err = people.UseLink(ctx, fixtureHash, fixtureTime, time.Minute)
	must(t, err)

	files := sqlite.NewFiles(db)
	s.Files = map[string][]workspace.Stored{}
	for _, typ := range []string{file.Input, file.Output} {
		list, err := files.Files(ctx, "ann", typ)
		must(t, err)
		for _, info := range list {
			stored, err := files.File(ctx, "ann", info.Ref)
			must(t, err)
			s.Files[typ] = append(s.Files[typ], stored)
		}
	}
	s.Usage, err = files.FileUsage(ctx, "ann")
	must(t, err)
	s.Delivered, err = files.Delivered(ctx, "ann", running.Attempt.Fence, fixtureSlot(running.ID), fixtureOrigin)
	must(t, err)
	s.Resolved, err = files.Resolve(ctx, "ann", fixtureSlot("another job"), fixtureOrigin)
	must(t, err)

	told := sqlite.NewCatalog(db)
	if s.Members, err = told.LoadMembers(ctx); len(s.Members) == 0 { // in fixtures of before
		s.Members = nil
	}
	must(t, err)
	s.Requests, err = told.Requests(ctx)
	must(t, err)
	snapshots, err := told.LoadSnapshots(ctx)
	must(t, err)
	s.Snapshots = map[string]string{}
	for name, body := range snapshots {
		s.Snapshots[name] = string(body)
	}
	s.Packs, err = told.LoadPacks(ctx)
	must(t, err)
	script, err := told.PackContent(ctx, s.Packs[0].Hash)
	must(t, err)
	s.Script = string(script)

	took := sqlite.NewUsage(db)
	s.Hours, err = took.Hours(ctx, fixtureTime)
	must(t, err)
	s.Learned, err = took.Learned(ctx)
	must(t, err)
	s.Agents, err = sqlite.NewAgents(db).Agents(ctx)
	must(t, err)
	return s
}

// goOn holds that no name comes twice: the counters of names went on.
func goOn(t *testing.T, db *sqlite.DB, s studio) {
	t.Helper()
	placed, err := sqlite.NewFiles(db).PlaceFile(t.Context(), workspace.Placement{
		User: "ann", Ref: fixtureUpload, Key: blob.NewFileKey("ann"), Sum: sumOf("a third one"), Modified: time.Now(),
	})
	must(t, err)
	for _, old := range s.Files[file.Input] {
		if old.Info.Name == placed.Info.Name {
			t.Errorf("%s was given twice", placed.Info.Name)
		}
	}
}

// TestFixtureIsWhole: a table without a row in the fixture is one that no later migration is tried on.
func TestFixtureIsWhole(t *testing.T) {
	t.Parallel()
	present := open(t, fixtureCopy(t, "schema-"+presentSchema(t)))
	rows, err := present.Query(t.Context(), `select name from sqlite_schema where type = 'table' and name not like 'sqlite_%'`)
	must(t, err)
	tables, err := texts(rows)
	must(t, err)
	if !slices.Contains(tables, "job") {
		t.Fatalf("tables: %q", tables)
	}
	for _, table := range tables {
		var n int
		must(t, present.Read().QueryRow(`select count(*) from `+table).Scan(&n))
		if n == 0 {
			t.Errorf("the fixture has no row of %s", table)
		}
	}
}
