package agent

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/ahelme/comfyume/internal/agent/proc"
)

// Cause says why ComfyUI is not there, or was not.
type Cause struct {
	Code   string `json:"code"`             // short machine word, one of the Code constants
	Text   string `json:"text"`             // one sentence
	Remedy string `json:"remedy,omitempty"` // what to do
	lasts  bool   // starting again without a change gives the same
}

// The codes of causes.
const (
	CodeMachineMemory = "machine_memory"  // the system ended it because main memory ran out
	CodeGPUMemory     = "gpu_memory"      // GPU memory ran out
	CodeMissingModule = "missing_module"  // a Python module is not installed
	CodeImport        = "import_error"    // a Python module is there and can't be loaded
	CodePortTaken     = "port_taken"      // another program listens there
	CodeAddress       = "address"         // it may not or can't listen there
	CodePython        = "python_too_old"  // this Python is too old for this ComfyUI
	CodeNoPython      = "no_python"       // no Python was found
	CodeNoCUDA        = "torch_no_cuda"   // torch was built without CUDA
	CodeNoGPU         = "no_gpu"          // no GPU or no driver for it was found
	CodeOldDriver     = "gpu_driver"      // the GPU's driver is too old for this torch
	CodeGPUUnknown    = "gpu_unsupported" // this torch can't run on this GPU
	CodeGPUFault      = "gpu_fault"       // the GPU reported an error of its own
	CodeGPUBroken     = "gpu_broken"      // it did in a run, and nothing would run any more: it was started anew
	CodeFlag          = "bad_flag"        // ComfyUI does not take its command line
	CodeModelPaths    = "model_paths"     // extra_model_paths.yaml can't be read
	CodeDiskFull      = "disk_full"
	CodePermission    = "permission"
	CodeNotComfyUI    = "not_comfyui" // the folder has no ComfyUI in it
	CodeKilled        = "killed"      // somebody ended it
	CodeSignal        = "signal"      // it crashed in native code
	CodeError         = "error"       // a Python error that is none of the above
	CodeEnded         = "ended"       // it ended by itself, without an error
	CodeFrozen        = "frozen"      // it is there and gives no sign of life
	CodeStuck         = "stuck_load"  // it did not get ready
	CodeSettings      = "settings"    // the settings are wrong; it was not started
	CodeUnreachable   = "unreachable" // a ComfyUI that the agent did not start does not answer
)

// String returns the cause as one line.
func (c Cause) String() string {
	if c.Remedy == "" {
		return c.Text
	}
	return c.Text + " " + c.Remedy
}

// rule recognises a cause by what was printed. Submatches of the pattern go into the sentences as $1.
type rule struct {
	pattern *regexp.Regexp
	cause   Cause
}

// Where pip is needed, the remedy names the Python that was used.
const pip = "PYTHON -m pip install "

// rules are tried from the top on the lines from the newest back, so that the last word counts and, within a line, the
// narrower rule. Sources: ComfyUI's main.py and model_management.py, PyTorch's and CPython's messages.
var rules = []rule{
	{
		regexp.MustCompile(`(?i)(OutOfMemoryError|CUDA out of memory|CUDA error: out of memory|HIP out of memory|MPS backend out of memory|XPU out of memory|Allocation on device|DefaultCPUAllocator: not enough memory.*CUDA)`),
		Cause{Code: CodeGPUMemory, Text: "ComfyUI ran out of GPU memory.", Remedy: "Start it with --comfyui-lowvram or --comfyui-novram, keep some free with --comfyui-reserve-vram 1, or run smaller models on it."},
	},
	{
		regexp.MustCompile(`(?i)Torch not compiled with CUDA enabled`),
		Cause{Code: CodeNoCUDA, Text: "The torch that is installed was built without CUDA.", Remedy: "Install one with CUDA (" + pip + "torch torchvision torchaudio --index-url https://download.pytorch.org/whl/cu128), or start with --comfyui-cpu.", lasts: true},
	},
	{
		regexp.MustCompile(`(?i)(NVIDIA driver on your system is too old|CUDA driver version is insufficient|CUDA_ERROR_SYSTEM_DRIVER_MISMATCH|unsupported toolchain)`),
		Cause{Code: CodeOldDriver, Text: "The GPU's driver is too old for the torch that is installed.", Remedy: "Bring the NVIDIA driver up to date, or install a torch for an older CUDA.", lasts: true},
	},
	{
		regexp.MustCompile(`(?i)(Found no NVIDIA driver|No CUDA GPUs are available|no CUDA-capable device|No HIP GPUs are available|CUDA unknown error)`),
		Cause{Code: CodeNoGPU, Text: "ComfyUI found no GPU, or no driver for it.", Remedy: "See whether nvidia-smi lists it (in a container: whether it was given the GPU), or start with --comfyui-cpu.", lasts: true},
	},
	{
		regexp.MustCompile(`(?i)no kernel image is available for execution`),
		Cause{Code: CodeGPUUnknown, Text: "The torch that is installed has no code for this GPU.", Remedy: "Install a torch built for it; new GPUs need a newer one, old ones an older one.", lasts: true},
	},
	{
		regexp.MustCompile(`(?i)(CUDA error: [a-z -]+|device-side assert|GPU has fallen off the bus|uncorrectable ECC)`),
		Cause{Code: CodeGPUFault, Text: "The GPU reported an error: $1.", Remedy: "If it comes again: look at dmesg and nvidia-smi; a restart of the machine helps a GPU that has hung."},
	},
	{
		regexp.MustCompile(`ModuleNotFoundError: No module named '(torch)'`),
		Cause{Code: CodeMissingModule, Text: "Python has no module $1, so this is not the Python that ComfyUI was installed for.", Remedy: "Name the right one with --python, or install: " + pip + "torch torchvision torchaudio -r requirements.txt.", lasts: true},
	},
	{
		regexp.MustCompile(`ModuleNotFoundError: No module named '([\w.]+)'`),
		Cause{Code: CodeMissingModule, Text: "Python has no module $1.", Remedy: "In ComfyUI's folder: " + pip + "-r requirements.txt; for a custom node its own requirements.txt.", lasts: true},
	},
	{
		regexp.MustCompile(`((?:ImportError|OSError): .*(?:cannot import name|cannot open shared object|DLL load failed|undefined symbol|WinError 126|GLIBC).*)`),
		Cause{Code: CodeImport, Text: "A Python module can't be loaded: $1.", Remedy: "Its version does not go with the others: " + pip + "--upgrade -r requirements.txt.", lasts: true},
	},
	{
		regexp.MustCompile(`(?i)(?:Errno (?:98|48)|WinError 10048)\b|address already in use`),
		Cause{Code: CodePortTaken, Text: "Another program listens at ComfyUI's port.", Remedy: "End it, or choose another port with --comfyui-port N."},
	},
	{
		regexp.MustCompile(`(?i)error while attempting to bind on address|could not bind|Errno (?:99|49)\]|getaddrinfo failed`),
		Cause{Code: CodeAddress, Text: "ComfyUI can't listen at its address.", Remedy: "Leave out --comfyui-listen, and choose a port above 1023.", lasts: true},
	},
	{
		regexp.MustCompile(`main\.py: error: (.*)`),
		Cause{Code: CodeFlag, Text: "ComfyUI does not take its command line: $1.", Remedy: "See --comfyui-… of comfyume agent --help, and extra arguments.", lasts: true},
	},
	{
		regexp.MustCompile(`can't open file '?(.*main\.py)`),
		Cause{Code: CodeNotComfyUI, Text: "There is no ComfyUI: $1 is missing.", Remedy: "Name ComfyUI's folder with --comfyui-dir.", lasts: true},
	},
	{
		regexp.MustCompile(`(?:SyntaxError: .*|TypeError: unsupported operand type\(s\) for \|.*|ImportError: cannot import name '\w+' from 'typing'.*|AttributeError: module '(?:enum|typing|asyncio)' has no attribute.*)`),
		Cause{Code: CodePython, Text: "This Python is too old for this ComfyUI.", Remedy: "Use Python 3.10 or newer (3.12 is a good choice) and name it with --python.", lasts: true},
	},
	{
		regexp.MustCompile(`yaml\.(?:scanner|parser|constructor)\.\w+`),
		Cause{Code: CodeModelPaths, Text: "An extra_model_paths.yaml is not YAML.", Remedy: "comfyume agent --check names the line.", lasts: true},
	},
	{
		regexp.MustCompile(`(?i)\[Errno 28\]|No space left on device|database or disk is full`),
		Cause{Code: CodeDiskFull, Text: "The disk is full.", Remedy: "Make room, or move --comfyui-output-directory and --comfyui-temp-directory to another disk."},
	},
	{
		regexp.MustCompile(`PermissionError: (.*)`),
		Cause{Code: CodePermission, Text: "ComfyUI was not allowed to: $1.", Remedy: "Give the file or folder to the user that the agent runs as.", lasts: true},
	},
	{
		regexp.MustCompile(`^MemoryError|(?i)std::bad_alloc|not enough memory: you tried to allocate|The paging file is too small`),
		Cause{Code: CodeMachineMemory, Text: "ComfyUI ran out of main memory.", Remedy: machineMemory},
	},
}

const machineMemory = "Give the machine or container more memory, run smaller models on it, or keep less with --comfyui-cache-none."

// lookBack is how many of the last lines may tell the cause.
const lookBack = 80

// causeOf tells why a ComfyUI ended, from how it ended and what it printed. python stands in remedies.
func causeOf(exit proc.Exit, lines []Line, python string) Cause {
	if exit.OOM {
		return Cause{Code: CodeMachineMemory, Text: "The system ended ComfyUI because the machine or its container ran out of memory.", Remedy: machineMemory}
	}
	lines = spoken(lines)
	if exit.Signal == "SIGKILL" {
		return Cause{Code: CodeKilled, Text: "Somebody or something outside ended ComfyUI (SIGKILL).", Remedy: "If nobody did: dmesg may tell that memory ran out."}
	}
	// A signal from inside tells more than the last line, unless that line is why it was raised.
	if c, ok := recognise(lines); ok {
		c.Remedy = strings.ReplaceAll(c.Remedy, "PYTHON", python)
		return c
	}
	switch {
	case exit.Signal == "SIGILL":
		return Cause{Code: CodeSignal, Text: "ComfyUI crashed in native code (SIGILL): a module uses instructions that this processor does not have.", Remedy: "Install builds of torch and its neighbours for this processor.", lasts: true}
	case exit.Signal == "SIGTERM" || exit.Signal == "SIGINT" || exit.Signal == "SIGHUP":
		return Cause{Code: CodeKilled, Text: fmt.Sprintf("Somebody or something outside ended ComfyUI (%s).", exit.Signal)}
	case exit.Signal != "":
		return Cause{Code: CodeSignal, Text: fmt.Sprintf("ComfyUI crashed in native code (%s).", exit.Signal), Remedy: "If it comes again: start it with --comfyui-disable-all-custom-nodes to see whether a custom node is the trouble."}
	case exit.Code == 0:
		return Cause{Code: CodeEnded, Text: "ComfyUI ended by itself, without an error.", Remedy: "A custom node may have restarted it; the log has its last lines."}
	}
	if last := lastError(lines); last != "" {
		return Cause{Code: CodeError, Text: fmt.Sprintf("ComfyUI ended with an error: %s.", strings.TrimSuffix(last, ".")), Remedy: "The log has what was before it."}
	}
	return Cause{Code: CodeError, Text: fmt.Sprintf("ComfyUI ended with %s.", exit), Remedy: "The log has its last lines."}
}

// spoken returns the last lines that ComfyUI printed itself.
func spoken(lines []Line) []Line {
	var own []Line
	for _, l := range lines {
		if !strings.HasPrefix(l.Text, "[agent] ") {
			own = append(own, l)
		}
	}
	return own[max(0, len(own)-lookBack):]
}

// fatalFrom returns where the error that ended the program begins: its last traceback. What came before, such as a
// custom node that could not be loaded, was survived.
func fatalFrom(lines []Line) []Line {
	for i, l := range slices.Backward(lines) {
		if strings.HasPrefix(l.Text, "Traceback (most recent call last)") {
			return lines[i:]
		}
	}
	return lines[max(0, len(lines)-5):] // a sentence without one, such as that of argparse
}

func recognise(lines []Line) (Cause, bool) {
	for _, l := range slices.Backward(fatalFrom(lines)) {
		for _, r := range rules {
			if m := r.pattern.FindStringSubmatch(l.Text); m != nil {
				c := r.cause
				if len(m) > 1 {
					c.Text = strings.ReplaceAll(c.Text, "$1", strings.TrimSuffix(clip(m[1]), "."))
				}
				return c, true
			}
		}
	}
	return Cause{}, false
}

// errorLine is the last line of a Python traceback: NAME: text, where NAME ends so that it is seen to be one.
var errorLine = regexp.MustCompile(`^[\w.]*(?:Error|Exception|Exit|Interrupt|Warning)\b.*`)

func lastError(lines []Line) string {
	for _, l := range slices.Backward(lines) {
		if errorLine.MatchString(l.Text) {
			return clip(l.Text)
		}
	}
	return ""
}

// clip shortens what goes into a sentence.
func clip(s string) string {
	const longest = 200
	s = strings.TrimSpace(s)
	if r := []rune(s); len(r) > longest {
		return string(r[:longest]) + "…"
	}
	return s
}
