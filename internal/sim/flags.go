package sim

import (
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// Flags are the options of the command that starts a simulated ComfyUI, as plain values. The folders are named
// like the flags of a real ComfyUI.
type Flags struct {
	// Listen is the address to serve on; empty: 127.0.0.1:8188.
	Listen string
	// BaseDirectory holds the folders input, output, temp, user and models that are not named themselves; empty:
	// a temporary folder that is removed at the end.
	BaseDirectory string
	// OutputDirectory, InputDirectory, TempDirectory and UserDirectory replace single folders. TempDirectory gets
	// a folder temp inside, which is emptied.
	OutputDirectory, InputDirectory, TempDirectory, UserDirectory string
	// ModelsDirectory has folders of models (checkpoints, loras, …) whose names are offered; nothing is read of
	// them. Empty: the names that the editors' first graphs and basic templates ask for.
	ModelsDirectory string
	// FrontEndRoot is a folder with a built editor to serve at /.
	FrontEndRoot string
	// ComfyVersion is the version of ComfyUI to stand for; empty: 0.3.64. From 0.4 on there is /api/jobs.
	ComfyVersion string
	// LoadTime is how long a model takes to load the first time.
	LoadTime time.Duration
	// StepTime is how long a step of a sampler takes.
	StepTime time.Duration
	// VideoMemory is the memory of the device, such as 24GiB, 80G or 8000000000; empty: 24GiB.
	VideoMemory string
	// FailRate, OOMRate, CrashRate and FreezeRate are the chances from 0 to 1 that a run ends so.
	FailRate, OOMRate, CrashRate, FreezeRate float64
	// FailNodes are classes that always fail.
	FailNodes []string
	// RestartAfter is how long the server is gone after a crash.
	RestartAfter time.Duration
	// ExitOnCrash ends the program at a crash, with status 137, instead of coming back.
	ExitOnCrash bool
	// FreezeFor is how long a freeze lasts; 0: for ever.
	FreezeFor time.Duration
	// NoTriggers switches the words sim:fail, sim:oom, sim:crash, sim:freeze and sim:slow=5s in prompts off.
	NoTriggers bool
	// NoPreviews switches previews off.
	NoPreviews bool
	// Probes adds the nodes ProbeSlow, ProbeFail, ProbeOOM and ProbeText.
	Probes bool
	// Latency is added to every request and frame.
	Latency time.Duration
	// BytesPerSecond limits how fast answers are sent; 0: no limit.
	BytesPerSecond int64
	// EagerFrames lets frames of a run overtake the answer of its POST.
	EagerFrames bool
	// Seed makes the chances repeatable; 0: different each time.
	Seed uint64
}

// DefaultListen is the address of a simulated server, that of a real one.
const DefaultListen = "127.0.0.1:8188"

// Options translates the flags. Every problem names its flag.
func (f Flags) Options() (Options, error) {
	o := Options{
		Version: f.ComfyVersion, Base: f.BaseDirectory, Output: f.OutputDirectory, Input: f.InputDirectory,
		Temp: f.TempDirectory, User: f.UserDirectory, ModelFolder: f.ModelsDirectory, FrontEndRoot: f.FrontEndRoot,
		Probes: f.Probes, LoadTime: f.LoadTime, StepTime: f.StepTime, NoPreviews: f.NoPreviews,
		FailRate: f.FailRate, OOMRate: f.OOMRate, CrashRate: f.CrashRate, FreezeRate: f.FreezeRate,
		NoTriggers: f.NoTriggers, FailNodes: f.FailNodes, RestartAfter: f.RestartAfter, FreezeFor: f.FreezeFor,
		Latency: f.Latency, BytesPerSecond: f.BytesPerSecond, EagerFrames: f.EagerFrames, Seed: f.Seed,
	}
	for name, rate := range map[string]float64{
		"fail-rate": f.FailRate, "oom-rate": f.OOMRate, "crash-rate": f.CrashRate, "freeze-rate": f.FreezeRate,
	} {
		if !(rate >= 0 && rate <= 1) {
			return o, fault.New(fault.Invalid, "--%s is %v; it must be from 0 to 1.", name, rate)
		}
	}
	for name, d := range map[string]time.Duration{
		"load-time": f.LoadTime, "step-time": f.StepTime, "restart-after": f.RestartAfter, "freeze-for": f.FreezeFor,
		"latency": f.Latency,
	} {
		if d < 0 {
			return o, fault.New(fault.Invalid, "--%s is %v; it must not be negative.", name, d)
		}
	}
	if f.BytesPerSecond < 0 {
		return o, fault.New(fault.Invalid, "--bytes-per-second is %d; it must not be negative.", f.BytesPerSecond)
	}
	if f.FrontEndRoot != "" {
		if _, err := os.Stat(f.FrontEndRoot); err != nil {
			return o, fault.Wrap(fault.Invalid, err, "--front-end-root names %s, which can't be read.", f.FrontEndRoot)
		}
	}
	if f.VideoMemory != "" {
		n, err := parseBytes(f.VideoMemory)
		if err != nil || n <= 0 {
			return o, fault.New(fault.Invalid, "--vram is %q; write a size such as 24GiB.", f.VideoMemory)
		}
		o.VideoMemory = n
	}
	if f.ExitOnCrash {
		o.OnCrash = func() { os.Exit(137) }
	}
	return o, nil
}

// parseBytes reads a size: a number, and perhaps a unit of 1000 (K, M, G, T, with or without B) or 1024 (KiB, …).
func parseBytes(s string) (int64, error) {
	s = strings.TrimSpace(s)
	number := strings.TrimRight(s, "KMGTiBkmgtb ")
	unit := strings.ToUpper(strings.TrimSpace(s[len(number):]))
	factor, step := 1.0, 1000.0
	if strings.Contains(unit, "I") {
		step = 1024
	}
	for _, letter := range []string{"K", "M", "G", "T"} {
		factor *= step
		if strings.HasPrefix(unit, letter) {
			v, err := strconv.ParseFloat(number, 64)
			return int64(v * factor), err
		}
	}
	v, err := strconv.ParseFloat(number, 64)
	return int64(v), err
}
