// Package agent keeps a ComfyUI: it starts one with checked settings, watches it, starts it again when it crashed or
// froze, says why, and keeps its log. It joins the ComfyUI to a studio: by dialling home, or by answering one request a
// job. A ComfyUI that somebody else started is watched in the same way and left alone.
package agent

import (
	"context"
	"net"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
)

// ComfyUI is the ComfyUI beside the agent. It is safe for concurrent use.
type ComfyUI interface {
	// Dial opens a connection to it. A fault of kind Unavailable says why there is none now.
	Dial(ctx context.Context) (net.Conn, error)
	// Address is where it is, such as http://127.0.0.1:8188.
	Address() string
	// Dir is its folder; empty where the agent did not start it.
	Dir() string
	// Status tells how it is.
	Status() Status
	// Restart ends it and starts it again, and returns when it is ready, or with why it is not. A ComfyUI that the agent
	// did not start gives a fault of kind Conflict.
	Restart(ctx context.Context, why string) error
}

// OverDial returns the address of a ComfyUI for HTTP over the connections that its Dial opens: TLS, where there is any, is
// theirs.
func OverDial(c ComfyUI) string {
	if host, secure := strings.CutPrefix(c.Address(), "https://"); secure {
		return "http://" + host
	}
	return c.Address()
}

// The states of a ComfyUI.
const (
	Starting   = "starting"   // it was started and does not answer yet
	Ready      = "ready"      // it answers
	Restarting = "restarting" // it was ended on purpose and is started again
	Crashed    = "crashed"    // it ended, or can't be started; next_try says when it is tried again
	Frozen     = "frozen"     // it gives no sign of life
	Stopped    = "stopped"    // it was not started, or ended with the agent
)

// Status is what the agent tells a studio. Sizes are in bytes.
type Status struct {
	Version  string              `json:"version"`            // of the agent
	Name     string              `json:"name,omitempty"`     // under which it joined
	Stopping bool                `json:"stopping,omitempty"` // it ends once its ComfyUI is idle: nothing new should be sent
	ComfyUI  State               `json:"comfyui"`
	Devices  []backend.Device    `json:"devices,omitempty"`
	Memory   Space               `json:"memory"` // main memory
	Disks    []Disk              `json:"disks,omitempty"`
	Models   map[string][]string `json:"model_folders,omitempty"` // folders by the kind of model
	Notes    []string            `json:"notes,omitempty"`         // what was accepted and is worth knowing
	Clock    time.Time           `json:"clock"`                   // the machine's time, for comparing
}

// State is how a ComfyUI is.
type State struct {
	State     string     `json:"state"`
	Since     time.Time  `json:"since"`
	PID       int        `json:"pid,omitempty"`
	Address   string     `json:"address"`
	Version   string     `json:"version,omitempty"`
	Commit    string     `json:"commit,omitempty"` // of its folder's git repository
	Python    string     `json:"python,omitempty"`
	Torch     string     `json:"torch,omitempty"`
	Restarts  int        `json:"restarts"` // how often it was started again since the agent began
	Waiting   int        `json:"waiting"`  // runs in its queue, with the one that runs
	OOM       int        `json:"out_of_memory"`
	LastCause *Cause     `json:"last_cause,omitempty"` // why it was not there the last time
	CauseAt   *time.Time `json:"cause_at,omitempty"`
	NextTry   *time.Time `json:"next_try,omitempty"`
	Owned     bool       `json:"owned"` // the agent started it and can start it again
}

// Death says what became of a run that was there since a time and is gone, as backend.Ended does. Nil: nobody knows, since
// the agent did not start it.
func (s State) Death(since time.Time) error {
	if !s.Owned {
		return nil
	}
	var e backend.Ended
	if c := s.LastCause; c != nil && s.CauseAt != nil {
		e = backend.Ended{At: *s.CauseAt, Code: c.Code, Text: c.Text, Remedy: c.Remedy}
	}
	return e.Since(since)
}

// Space is how much there is of something.
type Space struct {
	Total int64 `json:"total"`
	Free  int64 `json:"free"`
}

// Disk is the file system a folder is on.
type Disk struct {
	Folder string `json:"folder"`
	For    string `json:"for"` // output, models, log, …
	Space
}
