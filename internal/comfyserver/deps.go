package comfyserver

import (
	"context"
	"encoding/json"
	"io"

	"github.com/ahelme/comfyume/internal/comfyserver/room"
	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/identity"
	"github.com/ahelme/comfyume/internal/job"
)

// Deps are the parts a Server stands on. All are required but those that say otherwise.
type Deps struct {
	Queue     Queue
	Bus       Bus
	Files     Files
	Home      Home
	Pictures  Pictures
	Catalog   func(group string) Catalog // what a group of people can run
	Checker   Checker
	Packs     Packs     // may be nil: custom nodes bring no web files
	Templates Templates // may be nil: the studio has no templates of its own
}

// Bus carries what happens to people's sessions.
type Bus interface {
	room.Bus
	Publish(event.Event)
}

// Queue is the durable queue as its owner sees it. Everything it returns belongs to user.
type Queue interface {
	// Submit accepts a job durably. existing: the same person sent the same before, and j is that job.
	Submit(ctx context.Context, s job.Submission) (j job.Job, existing bool, err error)
	// Remaining counts open jobs. It is cheap.
	Remaining(user string) int
	// Open lists open jobs: those that run first, then those that wait, in order.
	Open(ctx context.Context, user string) ([]job.Job, error)
	// Requests is what was asked with these jobs.
	Requests(ctx context.Context, user string, ids []job.ID) (map[job.ID]job.Request, error)
	// Find returns the job that user knows by promptID. Missing when there is none.
	Find(ctx context.Context, user, promptID string) (job.Job, error)
	// Entry is Find with what was asked and how it ended.
	Entry(ctx context.Context, user, promptID string) (job.Entry, error)
	// EachHistory calls fn for finished jobs, oldest first. It holds nothing open while fn runs.
	EachHistory(ctx context.Context, user string, q job.HistoryQuery, fn func(job.Entry) error) error
	// Jobs lists jobs and says how many there are in all.
	Jobs(ctx context.Context, user string, q job.ListQuery) ([]job.Job, int, error)
	// RemovePending takes jobs out that wait, ClearPending all of them. They return those they took out.
	RemovePending(ctx context.Context, user string, promptIDs []string) ([]job.Job, error)
	ClearPending(ctx context.Context, user string) ([]job.Job, error)
	DeleteHistory(ctx context.Context, user string, promptIDs []string) error
	ClearHistory(ctx context.Context, user string) error
	// Hold keeps a waiting job from running, or lets it go; ToFront puts one before its owner's others. They take ids
	// of anybody's jobs.
	Hold(ctx context.Context, id job.ID, on bool) (job.Job, error)
	ToFront(ctx context.Context, id job.ID) (job.Job, error)
	// Stop asks for the running job with promptID to be interrupted, or for all running ones when it is empty.
	Stop(ctx context.Context, user, promptID string) ([]job.Job, error)
}

// Files are the person's inputs, outputs and temporary files.
type Files interface {
	// Upload stores a file. With overwrite false a name that is taken by other bytes becomes "name (1).ext"; the
	// same bytes give the same name. Invalid: the name can't be used; code file.CodeOutside: it leads out of the
	// person's files.
	Upload(ctx context.Context, user string, ref file.Ref, overwrite bool, r io.Reader) (file.Info, error)
	// Open opens a file. Missing when there is none.
	Open(ctx context.Context, user string, ref file.Ref) (file.Info, io.ReadSeekCloser, error)
	Stat(ctx context.Context, user string, ref file.Ref) (file.Info, error)
	// Room says why the disk takes no more uploads, nil while it does.
	Room(ctx context.Context) error
	// List lists files of one type, newest first.
	List(ctx context.Context, user, typ string) ([]file.Info, error)
}

// Home holds the person's documents and settings. Paths have slashes and start at the person's own root. Denied, or code
// file.CodeOutside: the path leads out of it.
type Home interface {
	// ListUserdata lists a folder, with everything below it when recurse is set. Paths are relative to the root.
	ListUserdata(user, dir string, recurse bool) ([]file.Entry, error)
	OpenUserdata(user, path string) (file.Entry, io.ReadSeekCloser, error)
	// WriteUserdata stores a document whole or not at all. Conflict: it is there and overwrite is false.
	WriteUserdata(ctx context.Context, user, path string, r io.Reader, overwrite bool) (file.Entry, error)
	DeleteUserdata(user, path string) error
	MoveUserdata(user, from, to string, overwrite bool) (file.Entry, error)
	// Settings is one object with dotted keys, {} when nothing was set.
	Settings(user string) (json.RawMessage, error)
	// MergeSettings sets every key of an object.
	MergeSettings(user string, object json.RawMessage) error
	SetSetting(user, key string, value json.RawMessage) error
}

// Pictures turns pictures into what GET /view and POST /upload/mask give.
type Pictures interface {
	// Preview encodes src as format (webp or jpeg) into w. It returns the content type.
	Preview(ctx context.Context, src io.Reader, format string, quality int) (body []byte, contentType string, err error)
	// Channel returns a PNG with the colours of src without its alpha ("rgb"), or with its alpha alone ("a").
	Channel(ctx context.Context, src io.Reader, channel string) (png []byte, err error)
	// Mask returns a PNG of original with the alpha of mask. Text in original is kept.
	Mask(ctx context.Context, original, mask io.Reader) (png []byte, err error)
}

// Catalog is what the back ends can run, merged and cached.
type Catalog interface {
	// ObjectInfo is the whole description, with inputs as the person's choices where nodes take uploads.
	ObjectInfo(inputs []string) Encoded
	// Class is one node's description, nil when there is no such class.
	Class(name string, inputs []string) json.RawMessage
	// Models lists the files of a model folder. ok is false when there is no such folder.
	Models(folder string) (names []string, ok bool)
	Folders() []string
	Embeddings() []string
	// WebText is what the back ends gave for a route such as "i18n", nil when none did.
	WebText(route string) json.RawMessage
	// SystemStats is fit for participants: no arguments, no paths.
	SystemStats() json.RawMessage
}

// Encoded is a JSON answer ready to be sent.
type Encoded struct {
	JSON []byte
	Gzip []byte // may be nil
	ETag string // with its quotes
}

// Checker says whether the person may run a graph here, and whether it can run.
type Checker interface {
	// Check validates a prompt, which is a JSON object, as ComfyUI would, but refuses only what is certain. targets
	// are the output nodes to run, nil for all; has tells whether the person has a file. The error is for what has
	// no ComfyUI form, such as a node that is not allowed here.
	Check(ctx context.Context, p identity.Person, prompt json.RawMessage, targets []string, has func(file.Ref) bool) (Verdict, error)
}

// Verdict is what validation found.
type Verdict struct {
	Outputs    []string        // output nodes that will run
	Refusal    json.RawMessage // whole body of the 400 answer; nil when the graph is accepted
	NodeErrors json.RawMessage // object; output nodes that are left out although the graph is accepted
	Profile    job.Profile     // what the schedule has to know of the graph
}

// Packs are the web files of the back ends' custom nodes, kept so that they work while the back ends sleep.
type Packs interface {
	// Scripts lists the addresses of scripts that a group's pages load, such as /extensions/PACK/js/main.js.
	Scripts(group string) []string
	// File opens one file below /extensions/PACK/. Missing when there is none, or the pack is switched off.
	File(ctx context.Context, group, pack, path string) (content io.ReadSeekCloser, hash string, err error)
}

// Templates are workflows that the operator gives everybody, or a group.
type Templates interface {
	// Templates lists workflow names (without .json) by the heading they are shown under.
	Templates(group string) ([]TemplatePack, error)
	// Template reads one file of a pack: NAME.json, or the picture beside it.
	Template(group, pack, name string) (file.Entry, io.ReadSeekCloser, error)
}

// TemplatePack is a heading in the template browser with its workflows.
type TemplatePack struct {
	Name  string
	Names []string
}
