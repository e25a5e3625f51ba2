// Package handover is where a back end leaves the outputs of a run and the studio takes them from, and where inputs are
// the other way round: a folder on shared storage, or a bucket. Neither side trusts that a file which appeared is whole: a manifest with sizes and hashes is
// written last, and every byte is checked against it.
//
// Names of outputs never become names of files, so no name can lead out of a run; files are called by a hash of theirs.
package handover

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ahelme/comfyume/internal/fault"
)

// Place keeps the outputs of runs until they were taken. It is safe for concurrent use, and by several programs on
// several machines. All places here are Probers and Sweepers too; one that is an io.Closer holds idle connections.
//
// Errors are faults: Invalid (a run or an entry that is not well formed, codes handover_run and handover_entry),
// Missing (see Manifest), Unavailable for trouble of the storage, each with its remedy: disk_full,
// handover_readonly, handover_damaged (the bytes are not those of the manifest), and those of package bucket.
type Place interface {
	// Put stores what r gives as the output called name of a run. When it returns the bytes are durable. The name may
	// hold slashes and whatever a node made of it; putting it again takes the place of what was there. An error of r
	// comes back as it is (errors.Is works), and nothing is kept.
	Put(ctx context.Context, run, name string, r io.Reader) (Entry, error)
	// Seal says that all outputs of a run are there, by a manifest that appears at once and whole. It is the last that
	// is written; a run without outputs is sealed too.
	Seal(ctx context.Context, run string, entries []Entry) error
	// Manifest waits for the manifest of a run, looking often at first and every two seconds later, until ctx ends.
	// Missing says then how it looks: code handover_wrong_mount (what is mounted here is not what the back end writes
	// to), handover_unfinished (outputs are there, the manifest is not) or handover_nothing (nothing of the run is).
	Manifest(ctx context.Context, run string) ([]Entry, error)
	// Open opens an output of a sealed run. Its size and hash are checked while it is read: io.EOF comes only when both
	// are right, an error of code handover_damaged otherwise. Where a network file system still shows an old state, Open
	// waits, until ctx ends and a minute at the most. One that is not there is trouble of the storage, Unavailable with
	// the codes of Manifest: it was, when e was made.
	Open(ctx context.Context, run string, e Entry) (io.ReadCloser, error)
	// Delete forgets a run and all of its outputs. One that is not there is no error.
	Delete(ctx context.Context, run string) error
	// Runs lists the runs that nobody wrote to since olderThan, for clean-up. What this package did not make is not
	// listed.
	Runs(ctx context.Context, olderThan time.Time) ([]string, error)
}

// Prober tells whether two programs look at the same place, whatever each calls it.
type Prober interface {
	// ID returns what the place is marked with, and marks it when nobody has. Two programs that read different ids look
	// at different places. Equal ids may be those of a copy: Leave and Sees tell.
	ID(ctx context.Context) (string, error)
	// Leave leaves a fresh mark and returns its token for the other side's Sees. Marks go with Sweep.
	Leave(ctx context.Context) (token string, err error)
	// Sees looks for a mark that another program left, until ctx ends. Missing, code handover_wrong_mount: it is not
	// there.
	Sees(ctx context.Context, token string) error
}

// Sweeper clears away what belongs to no run: half-written files and uploads, and old marks.
type Sweeper interface {
	// Sweep deletes what was left so before olderThan and returns how many pieces went.
	Sweep(ctx context.Context, olderThan time.Time) (int, error)
}

// Entry is one output in a manifest.
type Entry struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // lower-case hex
}

// Options are what a place may need beside its address.
type Options struct {
	Transport http.RoundTripper // to a bucket; nil: the usual one
	Log       *slog.Logger      // may be nil
}

// New opens the place at address: file:///mnt/sfs/outputs or s3://bucket/prefix?endpoint=HOST (see package bucket for what
// the address may say). Nothing is looked at before it is used. Keys of a bucket come from the environment
// (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) or from where the address refers to; they never stand in it.
func New(address string) (Place, error) { return Open(address, Options{}) }

// Open is New with options.
func Open(address string, o Options) (Place, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	u, err := url.Parse(address)
	switch {
	case err == nil && u.Scheme == "file" && u.Host == "" && u.RawQuery == "" && filepath.IsAbs(filepath.FromSlash(u.Path)):
		return newFolder(filepath.FromSlash(u.Path), o), nil
	case err == nil && u.Scheme == "s3":
		return newObjects(address, o)
	default: // it may have a key in it
		return nil, fault.New(fault.Invalid, "The storage address is neither a folder nor a bucket.").WithCode("handover_address").
			WithRemedy("Write file:///mnt/sfs/outputs, or s3://bucket/prefix?endpoint=HOST.")
	}
}

// RunName makes the name of a run of a studio. Several studios may share a place, and each clears away its own runs.
func RunName(studio, run string) string { return studio + "_" + run }

// RunOf reports whether name was made by RunName for studio.
func RunOf(studio, name string) bool { return strings.HasPrefix(name, studio+"_") }

// inputWord begins what comes after the studio in names of inputs. A run's id never begins so.
const inputWord = "in-"

// InputName makes the name under which a studio keeps one input of jobs. A run of the place is then one input, whichever
// jobs want it. key is a word that follows from the input and is known to nobody else.
func InputName(studio, key string) string {
	sum := sha256.Sum256([]byte(key))
	return RunName(studio, inputWord+hex.EncodeToString(sum[:20]))
}

// IsInput reports whether name was made by InputName, and thus is of no run's outputs.
func IsInput(name string) bool {
	return checkRun(name) == nil && strings.HasPrefix(name[strings.LastIndexByte(name, '_')+1:], inputWord)
}

// Bounds of what is read from a place: the other side may be hostile or broken.
const (
	maxRun      = 100
	maxName     = 1024
	maxEntries  = 20_000
	maxManifest = 16 << 20
	hashLength  = 64 // of a SHA-256 in hex
)

// checkRun refuses names of runs that could be anything else than one folder.
func checkRun(run string) error {
	ok := run != "" && len(run) <= maxRun
	for i := 0; ok && i < len(run); i++ {
		c := run[i]
		ok = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
	}
	if !ok {
		return fault.New(fault.Invalid, "%q is no name of a run: 1 to %d letters, digits, - and _.", run, maxRun).WithCode("handover_run")
	}
	return nil
}

func checkName(name string) error {
	if name == "" || len(name) > maxName || !utf8.ValidString(name) {
		return fault.New(fault.Invalid, "An output has the name %.40q: it has to be text of 1 to %d bytes.", name, maxName).
			WithCode("handover_entry")
	}
	return nil
}

func (e Entry) check() error {
	if err := checkName(e.Name); err != nil {
		return err
	}
	sum, err := hex.DecodeString(e.SHA256)
	if err != nil || len(sum)*2 != hashLength || e.SHA256 != strings.ToLower(e.SHA256) || e.Size < 0 {
		return fault.New(fault.Invalid, "The output %.40q has no size and hash: %d, %.70q.", e.Name, e.Size, e.SHA256).
			WithCode("handover_entry")
	}
	return nil
}

// wrongMount is the error of a place that is not the one the other side writes to.
func wrongMount(cause error, format string, args ...any) error {
	return fault.Wrap(fault.Missing, cause, format, args...).WithCode("handover_wrong_mount").
		WithRemedy("Mount the same share on both sides, the studio's and the back end's, and compare: %s.", MountHint)
}

// asTrouble makes of what is not there, though somebody put it, trouble of the storage.
func asTrouble(err error) error {
	e, ok := errors.AsType[*fault.Error](err)
	if !ok || e.Kind != fault.Missing {
		return err
	}
	trouble := *e
	trouble.Kind = fault.Unavailable
	return &trouble
}

// MountHint is what to compare on two machines whose shared folder is not the same.
const MountHint = "findmnt -T FOLDER has to name the same server and export on both"

// IsWrongMount reports whether err says that the two sides do not look at the same place.
func IsWrongMount(err error) bool {
	e, ok := errors.AsType[*fault.Error](err)
	return ok && e.Code == "handover_wrong_mount"
}
