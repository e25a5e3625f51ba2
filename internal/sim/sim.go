// Package sim is a simulated ComfyUI: one server over HTTP and WebSocket that behaves like a real one, down to
// the bodies of its errors and the order of its frames, and runs graphs without a GPU. Picture, mask, text and
// file nodes work for real, loaders and samplers act as if. Knobs make it slow, small, faulty or mortal. It is
// the fake back end of tests and benchmarks, the demo, and what a class is rehearsed with.
//
// It stands outside of the studio and knows nothing of people: like a real ComfyUI it has one user.
package sim

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/sim/executor"
	"github.com/ahelme/comfyume/internal/sim/folders"
	"github.com/ahelme/comfyume/internal/sim/nodes"
)

// Versions of ComfyUI this package can stand for. From Modern on there are /api/jobs and strict prompt ids.
const (
	Classic = "0.3.64"
	Modern  = "0.38.1"
)

// Options are the identity, the folders and the knobs of a simulated server. The zero value is a quick, healthy
// server of version Classic that keeps its files in a folder of its own, which Close removes.
type Options struct {
	Version string // Classic (also when empty), Modern or any other; it decides which routes there are

	// The folders, as the flags of a real server name them. Base holds those that are not given; when it is empty
	// too, a temporary folder is used.
	Base, Output, Input, Temp, User string
	ModelFolder                     string // folder with folders of models, of which only the names are read
	FrontEndRoot                    string // a built editor to serve at /; empty: a page that says what this is

	// Models are the names of models by folder. Nil: those the editors' first graphs and basic templates ask for.
	Models map[string][]string
	Probes bool // have the nodes ProbeSlow, ProbeFail, ProbeOOM and ProbeText

	LoadTime time.Duration // how long a model takes to load the first time
	StepTime time.Duration // how long a step of a sampler takes
	// VideoMemory is what the device has, in bytes. Zero: 24 GiB. Models that don't fit push others out;
	// pictures that don't fit end in an out-of-memory error.
	VideoMemory int64
	MaxValues   float64 // most numbers one batch of pictures may hold; zero: 400 million
	NoPreviews  bool    // samplers send no previews
	MaxUpload   int64   // largest body of a request, in bytes; zero: 100 MiB

	// Chances from 0 to 1 that a run ends in that trouble.
	FailRate, OOMRate, CrashRate, FreezeRate float64
	// NoTriggers switches off trouble on demand: the words sim:fail, sim:oom, sim:gpu, sim:crash, sim:freeze and
	// sim:slow=DURATION in any text of a graph. After sim:gpu all runs fail until a restart; sim:crash-mute dies of it before it has told that the run began, and
	// sim:crash-post before it has answered that it took it.
	NoTriggers   bool
	FailNodes    []string        // classes that always raise
	RestartAfter time.Duration   // how long the server is gone after a crash
	FreezeFor    time.Duration   // how long a freeze lasts; zero: until Thaw
	OnCrash      func()          // called instead of the simulated crash; a program can end itself here
	OnRun        func(id string) // called when a run begins, with its prompt id; nil: nobody wants to know

	Latency        time.Duration // added to every request and every frame
	BytesPerSecond int64         // limit for what each request receives; zero: none
	// EagerFrames lets the frames of a run overtake the answer of its POST, as on a busy real server.
	EagerFrames bool

	Seed uint64 // makes the chances above repeatable; zero: different each time
	Log  *slog.Logger
}

// ComfyUI is a running simulated server. It is safe for concurrent use.
type ComfyUI struct {
	opts     Options
	log      *slog.Logger
	folders  *folders.Folders
	classes  *nodes.Registry
	scratch  string // own folder, removed at the end
	routes   *router
	modern   bool
	born     time.Time
	settings sync.Mutex // guards the settings and user files on disk
	user     *userFiles

	validator *executor.Validator

	rngMu sync.Mutex
	rng   *rand.Rand

	closed context.Context
	close  context.CancelFunc
	parts  sync.WaitGroup
	ending sync.Once
	ended  error

	mu   sync.Mutex
	life *life         // nil while the server is down
	gate chan struct{} // closed when a freeze is over; nil when there is none
}

// NewComfyUI starts a server. Close ends it.
func NewComfyUI(o Options) (*ComfyUI, error) {
	o = o.withDefaults()
	s := &ComfyUI{opts: o, log: o.Log, classes: nodes.NewRegistry(o.Probes), modern: hasJobs(o.Version), born: time.Now()}
	seed := o.Seed
	if seed == 0 {
		seed = rand.Uint64()
	}
	s.rng = rand.New(rand.NewPCG(seed, seed))
	if err := s.checkNames(); err != nil {
		return nil, err
	}
	if err := s.openFolders(); err != nil {
		return nil, err
	}
	if o.ModelFolder != "" {
		models, err := readModels(o.ModelFolder)
		if err != nil {
			return nil, fault.Wrap(fault.Invalid, err, "The folder of models %s can't be read.", o.ModelFolder)
		}
		s.opts.Models = models
	}
	user, err := newUserFiles(s.folders.User)
	if err != nil {
		return nil, err
	}
	s.user = user
	s.validator = &executor.Validator{Classes: s.classes, Lists: s.lists, Exists: s.folders.Exists, Modern: s.modern}
	s.closed, s.close = context.WithCancel(context.Background())
	s.routes = s.newRouter()
	if err := s.begin(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// checkNames refuses options that name what is not there, which would do nothing.
func (s *ComfyUI) checkNames() error {
	for _, name := range s.opts.FailNodes {
		if s.classes.Class(name) == nil {
			return fault.New(fault.Invalid, "There is no node %s that could fail.", name)
		}
	}
	if root := s.opts.FrontEndRoot; root != "" {
		if _, err := os.Stat(filepath.Join(root, "index.html")); err != nil {
			return fault.Wrap(fault.Invalid, err, "There is no built editor in %s.", root)
		}
	}
	return nil
}

func (o Options) withDefaults() Options {
	if o.Version == "" {
		o.Version = Classic
	}
	if o.Models == nil {
		o.Models = DefaultModels()
	}
	if o.VideoMemory == 0 {
		o.VideoMemory = 24 << 30
	}
	if o.MaxValues == 0 {
		o.MaxValues = 400e6
	}
	if o.MaxUpload == 0 {
		o.MaxUpload = 100 << 20
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

func (s *ComfyUI) openFolders() error {
	base := s.opts.Base
	if base == "" {
		dir, err := os.MkdirTemp("", "comfyume-sim-")
		if err != nil {
			return fault.Wrap(fault.Unavailable, err, "No temporary folder can be made for the simulated ComfyUI.").
				WithRemedy("Name a folder with Base.")
		}
		s.scratch, base = dir, dir
	}
	in := func(given, name string) string {
		if given == "" {
			return filepath.Join(base, name)
		}
		return given
	}
	temp := in("", "temp")
	if s.opts.Temp != "" {
		temp = filepath.Join(s.opts.Temp, "temp") // as a real server does: it empties that folder
	}
	f, err := folders.New(folders.Folders{
		Input: in(s.opts.Input, "input"), Output: in(s.opts.Output, "output"), Temp: temp, User: in(s.opts.User, "user"),
	})
	if err != nil {
		return fault.Wrap(fault.Unavailable, err, "The folders of the simulated ComfyUI can't be used.").
			WithRemedy("Check that %s can be written to.", base)
	}
	s.folders = f
	return nil
}

// Close ends the server: sockets are closed, the run is given up, and the folder it made for itself is removed. It
// may be called again and then says the same.
func (s *ComfyUI) Close() error {
	s.ending.Do(func() { s.ended = s.end() })
	return s.ended
}

func (s *ComfyUI) end() error {
	s.close()
	s.mu.Lock()
	l := s.life
	s.life = nil
	s.mu.Unlock()
	if l != nil {
		l.end()
	}
	s.parts.Wait()
	err := s.user.close()
	if s.scratch != "" {
		err = errors.Join(err, os.RemoveAll(s.scratch))
	}
	return err
}

// Run serves on a listener until ctx ends, then closes the server.
func (s *ComfyUI) Run(ctx context.Context, l net.Listener) error {
	server := &http.Server{Handler: s.Handler(), ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 75 * time.Second}
	served := make(chan error, 1)
	s.parts.Go(func() { served <- server.Serve(l) })
	select {
	case err := <-served:
		return errors.Join(err, s.Close())
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	s.close() // ends the run and the sockets, which the server does not know
	err := server.Shutdown(grace)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close()
	}
	return errors.Join(err, s.Close())
}

// Handler answers the requests of a ComfyUI server.
func (s *ComfyUI) Handler() http.Handler { return http.HandlerFunc(s.serve) }

// Folders tells where the files of the server lie.
func (s *ComfyUI) Folders() folders.Folders { return *s.folders }

// current returns the life the server leads, nil while it is down.
func (s *ComfyUI) current() *life {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.life
}

// chance reports whether something happens whose chance is p.
func (s *ComfyUI) chance(p float64) bool {
	if p <= 0 {
		return false
	}
	s.rngMu.Lock()
	defer s.rngMu.Unlock()
	return s.rng.Float64() < p
}

// letters returns n random small letters.
func (s *ComfyUI) letters(n int) string {
	const alphabet = "abcdefghijklmnopqrstupvxyz" // the real one's
	s.rngMu.Lock()
	defer s.rngMu.Unlock()
	out := make([]byte, n)
	for i := range out {
		out[i] = alphabet[s.rng.IntN(len(alphabet))]
	}
	return string(out)
}
