// Package backend is the contract of a GPU source: what the dispatcher may ask of a driver and what a driver
// owes it. Drivers live in sub-packages; the shared suite is backendtest.
package backend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/ahelme/comfyume/internal/job"
)

// Driver speaks to one back end. It is safe for concurrent use.
type Driver interface {
	// Probe asks the back end who it is and what it can run. It is light when nothing changed. It does not wake one that
	// sleeps, but answers from what is known and says so in Snapshot.Cold; only a first look, when nothing is known at
	// all, may wake it. Errors are of the classes below.
	Probe(ctx context.Context) (Snapshot, error)
	// ClientID returns the client id for the next run. The driver may hold a socket open under it, so that Prepare of
	// a task with this id waits for nothing; other ids work as well.
	ClientID() string
	// Prepare readies a run without starting it: uploads inputs, sees to a socket. The prompt has not been sent when
	// it returns. Close of the returned Run undoes it. Should the socket of the task's client id not be free for it any
	// more, the run goes under another one: it is found again by its run id alone.
	Prepare(ctx context.Context, t Task) (Run, error)
	// Resume takes up a run that may have been posted before a restart of ours. ErrUnknownRun: the back end was
	// reached and knows nothing of it.
	Resume(ctx context.Context, t Task) (Run, error)
	// Cancel takes a run off the back end that nobody here holds any more: one left behind by a lost attempt. It is
	// tried again in the background until the back end answers or the driver is closed.
	Cancel(runID string)
	// WebFile reads one file of a custom node's web directory, path as in the back end's /extensions list.
	WebFile(ctx context.Context, path string) (io.ReadCloser, string, error)
	// Free asks the back end to give up memory when idle.
	Free(ctx context.Context, unloadModels, freeMemory bool) error
	// Close cuts every socket. Runs that were not closed go on at the back end and can be resumed by another
	// driver.
	Close() error
}

// Run is one attempt on a back end.
type Run interface {
	// Start posts the prompt (unless resumed) and blocks until the run is over. posted is called once, right
	// after the back end accepted the prompt. update is called in order, from one goroutine, and may block: the
	// driver then reads no further. The last update has been handled when Start returns. When ctx ends Start
	// returns its cause and the run goes on at the back end.
	Start(ctx context.Context, posted func(), update func(Update) error) (Result, error)
	// Fetch opens an output file of this run on the back end. ErrLost: the back end was restarted since the run began.
	// A fault of kind Missing: it is there as before, and does not have the file.
	Fetch(ctx context.Context, f FileRef) (io.ReadCloser, error)
	// Epoch is the back end's Snapshot.Epoch under which the run was prepared.
	Epoch() string
	// Interrupt asks the back end to stop this run and no other. Start then returns Cancelled, soon when the run
	// had not begun, else when the back end gets to it.
	Interrupt(ctx context.Context) error
	// Close forgets the run: a run that was posted and is not over is taken off the back end, its history entry
	// there is deleted, its socket closed. It does not wait for the back end. Idempotent.
	Close() error
}

// Task is what a driver needs to run one attempt. The graph is already the back end's: file inputs carry
// content-addressed names, output nodes the owner's salt.
type Task struct {
	Job       job.ID
	Attempt   job.Attempt
	Prompt    json.RawMessage
	ExtraData json.RawMessage // with credentials of paid nodes where allowed
	Targets   []string
	Outputs   []string // output nodes that are to give something; nil: not known
	Core      bool     // all nodes ship with ComfyUI: none says anything after the run's end
	Uploads   []Upload
	Previews  bool // somebody watches: ask for previews
}

// Upload is one input file the back end must have before the run.
type Upload struct {
	Name      string // content-addressed, no directories
	Subfolder string
	Size      int64
	Open      func() (io.ReadCloser, error)
}

// Update is one frame of a run as the back end sent it, still in the back end's ids and names.
type Update struct {
	Type   string          // JSON frames: the type word
	Node   string          // node the frame is about; of a binary frame that does not say: the one that runs
	Data   json.RawMessage // JSON frames: the data object
	Binary []byte          // binary frames: the whole frame; nil for JSON frames
}

// Notice is the type of an update that is no frame of the back end, but a sentence for the run's owner: Data is
// {"text": "…"}. A driver sends one when a run takes longer for a reason that the back end does not tell, such as that
// it has to be woken first.
const Notice = "comfyume_notice"

// Result is how a run ended, in the back end's ids and names.
type Result struct {
	State    job.State       // Completed, Failed (the graph's own failure) or Cancelled (interrupted)
	Outputs  json.RawMessage // history entry's outputs
	Messages json.RawMessage // history entry's status.messages
	Meta     json.RawMessage // history entry's meta
	Gap      bool            // frames of the run may have been missed
}

// FileRef names a file on a back end.
type FileRef struct {
	Filename  string `json:"filename"`
	Subfolder string `json:"subfolder"`
	Type      string `json:"type"` // output, temp, input
}

// Snapshot is what a back end told about itself. ObjectInfo, Models, Embeddings, Extensions and WebTexts come
// together: all of them when something among them changed since the last Probe of this driver, none otherwise.
type Snapshot struct {
	Version    string // ComfyUI's version
	Epoch      string // changes when the back end was restarted
	Devices    []Device
	System     json.RawMessage     // whole answer of /system_stats
	ObjectInfo json.RawMessage     // whole answer of /object_info, made valid JSON; nil when unchanged since the last Probe
	Models     map[string][]string // by folder
	Embeddings []string
	Extensions []string                   // web files of custom nodes, as listed
	WebTexts   map[string]json.RawMessage // i18n, workflow_templates, global_subgraphs, … by route, raw
	QueueOther int                        // runs in its queue that are not this driver's
	// Cold is a sentence when the back end sleeps: a probe does not wake it, and the next run has to. What a back end
	// that was never awake can run is not known then. Empty: it is awake.
	Cold  string
	Taken time.Time
}

// Device is one GPU of a back end. Sizes in bytes.
type Device struct {
	Name      string `json:"name"`
	Type      string `json:"type"`
	VRAMTotal int64  `json:"vram_total"`
	VRAMFree  int64  `json:"vram_free"`
}

// Refresher is a driver that can be told that what its back end can run has changed, so that the next Probe reads it
// anew. A driver without it finds out in its own time.
type Refresher interface{ Refresh() }

// Router is a driver that can ask its back end for what custom nodes answer at addresses of their own.
type Router interface {
	// Route sends a GET. The answer's body is the caller's to close; contentType is what the back end says of it.
	// Missing: it has nothing there. Redirects are not followed.
	Route(ctx context.Context, path, query string) (body io.ReadCloser, contentType string, err error)
}

// Error classes of a driver. A driver wraps its cause in exactly one of them. ErrCrashed is an ErrLost, too.
var (
	ErrUnreachable = errors.New("back end does not answer")                   // try elsewhere or later
	ErrNotComfyUI  = errors.New("address is not a ComfyUI server")            // configuration
	ErrTooOld      = errors.New("ComfyUI is older than the oldest supported") // configuration
	ErrUnknownRun  = errors.New("back end knows nothing of this run")         // new attempt
	ErrLost        = errors.New("run was lost on the back end")               // restarted, crashed, frozen: new attempt
	ErrCrashed     = fmt.Errorf("%w: it died while it worked at it", ErrLost) // it may be the job: a new attempt elsewhere
	ErrFrozen      = errors.New("back end stopped answering in mid-run")      // new attempt elsewhere
	ErrForeign     = errors.New("back end is busy with somebody else's runs")
	ErrMemory      = errors.New("back end ran out of GPU memory") // a back end with more of it may do
	ErrBroken      = errors.New("the GPU of the back end failed") // it has to be started anew: a new attempt elsewhere
)

// Refused is the back end's 400 to a prompt: the graph's own fault, in the back end's ids.
type Refused struct {
	Body json.RawMessage // {"error":{…},"node_errors":{…}}
}

func (r *Refused) Error() string { return "back end refused the graph" }

// Status is what is known of a configured back end now.
type Status struct {
	Name   string
	Driver Driver
	Ready  bool
	Reason string // why it is not ready, in a sentence for people

	Parallel int           // runs at the same time; 0: 1
	Groups   []string      // whose jobs it runs; empty: everybody's
	Price    float64       // of an hour in which it works; 0: it is ours
	Prefer   int           // the higher one gets a job first; among equals, the cheaper one
	Memory   int64         // bytes of its largest device; 0: not known
	MaxRun   time.Duration // a run that takes longer is stopped; 0: never
	Wake     time.Duration // how long waking usually takes; 0: not known
	Trial    bool          // it comes back from a quarantine: one job first
	Cold     string        // a sentence when it sleeps and the next run has to wake it; empty: it is awake
}
