package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/agent/flags"
	"github.com/ahelme/comfyume/internal/agent/modelpaths"
	"github.com/ahelme/comfyume/internal/fault"
)

// Check looks for what would keep a ComfyUI from starting, or from doing what was meant: its flags, its folders,
// extra_model_paths.yaml, its Python. The fatal findings come first.
func Check(ctx context.Context, o *Own) []flags.Finding {
	found := o.Flags.Check(flags.Place{Dir: o.Dir, Known: flags.Scan(o.Dir)})
	found = append(found, checkModelPaths(o)...)
	found = append(found, checkPython(ctx, o)...)
	return flags.FatalFirst(found)
}

// checkModelPaths reads the files that ComfyUI reads: the one in its folder, and those of the flag.
func checkModelPaths(o *Own) []flags.Finding {
	const flag = "extra-model-paths-config"
	files := o.Flags.Values(flag)
	if own := filepath.Join(o.Dir, "extra_model_paths.yaml"); isFile(own) {
		files = append([]string{own}, files...)
	}
	var found []flags.Finding
	for _, file := range files {
		if !isFile(file) {
			continue // the flag's own check names it
		}
		for _, p := range modelpaths.Check(file) {
			found = append(found, flags.Finding{Text: p.String(), Remedy: p.Remedy, Fatal: p.Fatal})
		}
	}
	return found
}

// checkPython finds a Python that can't run this ComfyUI.
func checkPython(ctx context.Context, o *Own) []flags.Finding {
	python, err := FindPython(o.Dir, o.Python)
	if err != nil {
		c := causeFromError(CodeNoPython, err)
		return []flags.Finding{{Text: c.Text, Remedy: c.Remedy, Fatal: true}}
	}
	in, err := inspect(ctx, python, o.Dir, o.Env)
	if err != nil {
		return []flags.Finding{{Text: fmt.Sprintf("The Python at %s does not run: %v.", python.Path, err), Remedy: "Name another one with --python FILE.", Fatal: true}}
	}
	var found []flags.Finding
	fatal := func(remedy, format string, args ...any) {
		found = append(found, flags.Finding{Text: fmt.Sprintf(format, args...), Remedy: remedy, Fatal: true})
	}
	if oldest := oldestPython(o.Dir); in.Version[0] != 3 || in.Version[1] < oldest {
		fatal("Install a newer one (3.12 is a good choice) and name it with --python FILE.",
			"The Python at %s is %d.%d.%d, and this ComfyUI needs 3.%d or newer.", python.Path, in.Version[0], in.Version[1], in.Version[2], oldest)
		return found
	}
	noGPU := o.Flags.Has("cpu") || o.Flags.Has("directml")
	switch {
	case in.Torch == "":
		fatal("If it is not the Python that ComfyUI was installed for, name that one with --python FILE; else: "+python.Path+" -m pip install torch torchvision torchaudio -r requirements.txt.",
			"The Python at %s has no torch.", python.Path)
	case in.CUDA == "" && in.Other == "" && !noGPU && runtime.GOOS != "darwin" && in.Torch != "?":
		fatal("Install one for your GPU ("+python.Path+" -m pip install torch torchvision torchaudio --index-url https://download.pytorch.org/whl/cu128), or use the processor: --comfyui-cpu.",
			"The torch of %s (%s) was built without CUDA, so that no GPU can be used.", python.Path, in.Torch)
	}
	if len(in.Missing) > 0 && in.Torch != "" {
		found = append(found, flags.Finding{
			Text:   fmt.Sprintf("The Python at %s lacks what this ComfyUI's requirements.txt names: %s.", python.Path, strings.Join(in.Missing, ", ")),
			Remedy: "In ComfyUI's folder: " + python.Path + " -m pip install -r requirements.txt.",
		})
	}
	return found
}

// causeFromError makes a cause of a fault, or of another error with the code.
func causeFromError(code string, err error) Cause {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		if f.Code != "" {
			code = f.Code
		}
		return Cause{Code: code, Text: f.Public, Remedy: f.Remedy, lasts: true}
	}
	return Cause{Code: code, Text: err.Error(), lasts: true}
}

// reach returns the first of ComfyUI's addresses by which this machine reaches it.
func reach(listen string) string {
	first := "127.0.0.1"
	for i, one := range strings.Split(listen, ",") {
		one = strings.Trim(one, "[]")
		addr, err := netip.ParseAddr(one)
		switch {
		case one == "localhost":
			return "127.0.0.1"
		case err != nil:
			continue
		case addr.IsUnspecified() && addr.Is4():
			return "127.0.0.1"
		case addr.IsUnspecified():
			return "::1"
		case addr.IsLoopback():
			return one
		case i == 0:
			first = one
		}
	}
	return first
}

// holder tells which program listens at host already; empty: none.
func holder(host string) string {
	c, err := net.DialTimeout("tcp", host, time.Second)
	if err != nil {
		return ""
	}
	c.Close() //nolint:errcheck // it only had to open
	who := listener(host)
	if who == "" {
		return "Another program"
	}
	return who
}
