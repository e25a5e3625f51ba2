package agent

import (
	"strings"
	"testing"

	"github.com/ahelme/comfyume/internal/agent/proc"
)

// lines makes log lines of text.
func lines(text string) []Line {
	var all []Line
	for i, l := range strings.Split(strings.Trim(text, "\n"), "\n") {
		all = append(all, Line{N: uint64(i + 1), Text: l})
	}
	return all
}

func TestCauses(t *testing.T) {
	t.Parallel()
	const trace = "Traceback (most recent call last):\n  File \"/comfy/main.py\", line 149, in <module>\n    import execution\n"
	for _, c := range []struct {
		name   string
		exit   proc.Exit
		output string
		code   string
		want   string // in the sentence
		remedy string
	}{
		{"memory of the machine", proc.Exit{Code: -1, Signal: "SIGKILL", OOM: true}, "loading", CodeMachineMemory, "ran out of memory", "more memory"},
		{"killed", proc.Exit{Code: -1, Signal: "SIGKILL"}, trace + "torch.OutOfMemoryError: CUDA out of memory.", CodeKilled, "SIGKILL", ""},
		{"memory of the GPU", proc.Exit{Code: 1}, trace + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.6 GiB", CodeGPUMemory, "GPU memory", "--comfyui-lowvram"},
		{"memory in Python", proc.Exit{Code: 1}, trace + "MemoryError", CodeMachineMemory, "main memory", ""},
		{"a module", proc.Exit{Code: 1}, trace + "ModuleNotFoundError: No module named 'aiohttp'", CodeMissingModule, "no module aiohttp", "/py -m pip install -r requirements.txt"},
		{"torch", proc.Exit{Code: 1}, trace + "ModuleNotFoundError: No module named 'torch'", CodeMissingModule, "not the Python that ComfyUI was installed for", "--python"},
		{"a library", proc.Exit{Code: 1}, trace + "ImportError: libcudart.so.12: cannot open shared object file: No such file or directory", CodeImport, "libcudart.so.12", ""},
		{"a port", proc.Exit{Code: 1}, trace + "OSError: [Errno 98] error while attempting to bind on address ('127.0.0.1', 8188): address already in use", CodePortTaken, "listens", "--comfyui-port"},
		{"a port on Windows", proc.Exit{Code: 1}, trace + "OSError: [WinError 10048] only one usage of each socket address", CodePortTaken, "", ""},
		{"a port of the system", proc.Exit{Code: 1}, trace + "PermissionError: [Errno 13] error while attempting to bind on address ('127.0.0.1', 80): permission denied", CodeAddress, "can't listen", "1023"},
		{"Python too old", proc.Exit{Code: 1}, trace + "TypeError: unsupported operand type(s) for |: 'type' and 'NoneType'", CodePython, "too old", "3.12"},
		{"torch without CUDA", proc.Exit{Code: 1}, trace + "AssertionError: Torch not compiled with CUDA enabled", CodeNoCUDA, "without CUDA", "--comfyui-cpu"},
		{"no driver", proc.Exit{Code: 1}, trace + "RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU", CodeNoGPU, "no GPU", "nvidia-smi"},
		{"an old driver", proc.Exit{Code: 1}, trace + "RuntimeError: The NVIDIA driver on your system is too old (found version 11040).", CodeOldDriver, "driver", ""},
		{"a new GPU", proc.Exit{Code: 1}, trace + "RuntimeError: CUDA error: no kernel image is available for execution on the device", CodeGPUUnknown, "no code for this GPU", ""},
		{"a broken GPU", proc.Exit{Code: 1}, trace + "RuntimeError: CUDA error: an illegal memory access was encountered", CodeGPUFault, "an illegal memory access", ""},
		{"a flag", proc.Exit{Code: 2}, "usage: main.py [-h]\nmain.py: error: unrecognized arguments: --foo", CodeFlag, "unrecognized arguments: --foo", ""},
		{"no main.py", proc.Exit{Code: 2}, "python: can't open file '/x/main.py': [Errno 2] No such file or directory", CodeNotComfyUI, "/x/main.py", ""},
		{"a full disk", proc.Exit{Code: 1}, trace + "OSError: [Errno 28] No space left on device", CodeDiskFull, "disk is full", ""},
		{"rights", proc.Exit{Code: 1}, trace + "PermissionError: [Errno 13] Permission denied: '/data/user'", CodePermission, "/data/user", ""},
		{"YAML", proc.Exit{Code: 1}, trace + "yaml.scanner.ScannerError: mapping values are not allowed here", CodeModelPaths, "", "--check"},
		{"native code", proc.Exit{Code: -1, Signal: "SIGSEGV"}, "Loading model", CodeSignal, "SIGSEGV", "custom node"},
		{"an old processor", proc.Exit{Code: -1, Signal: "SIGILL"}, "", CodeSignal, "instructions", ""},
		{"somebody", proc.Exit{Code: -1, Signal: "SIGTERM"}, "", CodeKilled, "SIGTERM", ""},
		{"another error", proc.Exit{Code: 1}, trace + "AttributeError: 'NoneType' object has no attribute 'x'", CodeError, "AttributeError: 'NoneType' object has no attribute 'x'.", ""},
		{"silence", proc.Exit{Code: 3}, "", CodeError, "exit code 3", ""},
		{"of itself", proc.Exit{Code: 0}, "Stopped server", CodeEnded, "by itself", ""},
		// What was survived is not what ended it.
		{
			"a custom node that failed before",
			proc.Exit{Code: 1},
			"Traceback (most recent call last):\n  File \"x\"\nModuleNotFoundError: No module named 'insightface'\n\nCannot import /custom_nodes/x\n" + trace + "OSError: [Errno 98] address already in use",
			CodePortTaken, "", "",
		},
		{
			"an error while handling another",
			proc.Exit{Code: 1},
			trace + "KeyError: 'a'\n\nDuring handling of the above exception, another exception occurred:\n\n" + trace + "torch.cuda.OutOfMemoryError: Allocation on device 0 would exceed allowed memory.",
			CodeGPUMemory, "", "",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := causeOf(c.exit, lines(c.output), "/py")
			if got.Code != c.code || !strings.Contains(got.Text, c.want) || !strings.Contains(got.Remedy, c.remedy) {
				t.Errorf("%s: %q %q, want %s, %q, %q", got.Code, got.Text, got.Remedy, c.code, c.want, c.remedy)
			}
			if !strings.HasSuffix(got.Text, ".") || strings.Contains(got.Text+got.Remedy, "$1") || strings.Contains(got.Remedy, "PYTHON") {
				t.Errorf("not a sentence: %q %q", got.Text, got.Remedy)
			}
		})
	}
}

// TestCauseIsShort: what a program prints must not flood a status.
func TestCauseIsShort(t *testing.T) {
	t.Parallel()
	c := causeOf(proc.Exit{Code: 1}, lines("Traceback (most recent call last):\nValueError: "+strings.Repeat("x", 10_000)), "/py")
	if len(c.Text) > 400 {
		t.Errorf("a cause of %d bytes", len(c.Text))
	}
}
