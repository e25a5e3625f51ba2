package flags

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Finding is something about a choice of flags that somebody should know before the start.
type Finding struct {
	Flag   string `json:"flag"` // without dashes; empty: none by itself
	Text   string `json:"text"` // what is wrong and why
	Remedy string `json:"remedy,omitempty"`
	Fatal  bool   `json:"fatal"` // ComfyUI would not start, or not as was meant
}

// String returns the finding as one line.
func (f Finding) String() string {
	line := f.Text
	if f.Flag != "" {
		line = "--" + f.Flag + ": " + line
	}
	if f.Remedy != "" {
		line += " " + f.Remedy
	}
	return line
}

// Place is where ComfyUI will run.
type Place struct {
	Dir   string            // ComfyUI's folder
	Known map[string]string // what its own cli_args.py knows, as Scan gives it; nil: not known
}

// Check looks for what is wrong with a choice of flags, the fatal ones first. Paths have to be absolute; see Resolve.
func (s *Set) Check(at Place) []Finding {
	c := checker{set: s, at: at}
	c.exclusive()
	c.precision()
	c.devices()
	c.listen()
	c.folders()
	c.nodes()
	c.version()
	return FatalFirst(c.found)
}

// FatalFirst orders findings in place.
func FatalFirst(found []Finding) []Finding {
	slices.SortStableFunc(found, func(a, b Finding) int {
		switch {
		case a.Fatal == b.Fatal:
			return 0
		case a.Fatal:
			return -1
		default:
			return 1
		}
	})
	return found
}

type checker struct {
	set   *Set
	at    Place
	found []Finding
}

func (c *checker) fatal(flag, remedy, format string, args ...any) {
	c.found = append(c.found, Finding{Flag: flag, Text: fmt.Sprintf(format, args...), Remedy: remedy, Fatal: true})
}

func (c *checker) warn(flag, remedy, format string, args ...any) {
	c.found = append(c.found, Finding{Flag: flag, Text: fmt.Sprintf(format, args...), Remedy: remedy})
}

// exclusive finds two flags of one group, and flags that the agent does not take.
func (c *checker) exclusive() {
	first := map[string]string{}
	for _, f := range All() {
		if !c.set.Has(f.Name) {
			continue
		}
		if f.Refused != "" {
			c.fatal(f.Name, "Leave it out.", "is not for a ComfyUI beside an agent: %s.", f.Refused)
		}
		if f.Group == "" {
			continue
		}
		if before, twice := first[f.Group]; twice {
			c.fatal(f.Name, "Keep one of the two.", "excludes --%s: both say %s.", before, f.Group)
			continue
		}
		first[f.Group] = f.Name
	}
}

// precision finds orders about a part that contradict the order about everything.
func (c *checker) precision() {
	for _, all := range []string{"force-fp16", "force-fp32"} {
		if !c.set.Has(all) {
			continue
		}
		width := strings.TrimPrefix(all, "force-")
		for _, f := range All() {
			part := f.Group == groupUnet || f.Group == groupVAE || f.Group == groupText
			// fp8 is how weights are kept, not how one computes; it goes with either.
			if part && c.set.Has(f.Name) && !strings.HasPrefix(f.Name, width) && !strings.HasPrefix(f.Name, "fp8") {
				c.fatal(f.Name, "Keep one of the two.", "contradicts --%s, which is about the same part.", all)
			}
		}
	}
	if c.set.Has("cpu-vae") && (c.set.Has("fp16-vae") || c.set.Has("bf16-vae")) {
		c.warn("cpu-vae", "Use --fp32-vae with it, or leave the precision to ComfyUI.", "with the VAE in 16 bits is very slow on most processors.")
	}
	if c.set.Has("cpu") && c.set.Has("force-fp16") {
		c.warn("force-fp16", "Leave it out, or --cpu.", "with --cpu is very slow on most processors.")
	}
}

// devices finds flags about GPUs that have no effect or no sense together.
func (c *checker) devices() {
	if c.set.Has("cuda-device") && c.set.Has("default-device") {
		c.fatal("default-device", "Keep one of the two.", "goes with several GPUs in sight, and --cuda-device leaves only one in sight.")
	}
	if c.set.Has("cpu") {
		for _, name := range []string{
			"cuda-device", "default-device", "directml", "oneapi-device-selector", "reserve-vram", "cuda-malloc", "async-offload",
			"disable-smart-memory", "supports-fp8-compute",
		} {
			if c.set.Has(name) {
				c.warn(name, "Leave it out, or --cpu.", "does nothing with --cpu, which uses no GPU.")
			}
		}
	}
	if c.set.Has("gpu-only") && c.set.Has("cpu-vae") {
		c.warn("cpu-vae", "Leave one of the two out.", "puts the VAE on the processor in spite of --gpu-only.")
	}
	if c.set.Has("highvram") && c.set.Has("disable-smart-memory") {
		c.warn("disable-smart-memory", "Leave one of the two out.", "moves models out of GPU memory, and --highvram leaves them there.")
	}
	if c.set.Has("mmap-torch-files") && c.set.Has("disable-mmap") {
		c.warn("disable-mmap", "Leave one of the two out where you can.", "is about safetensors only; --mmap-torch-files maps the older kinds of file.")
	}
}

// listen checks the addresses.
func (c *checker) listen() {
	if !c.set.Has("listen") {
		return
	}
	value := c.set.Get("listen")
	if value == "" {
		value = "0.0.0.0,::"
	}
	for one := range strings.SplitSeq(value, ",") {
		addr, err := netip.ParseAddr(strings.Trim(one, "[]"))
		switch {
		case one == "localhost":
		case err != nil:
			c.fatal("listen", "Write addresses such as 127.0.0.1, separated by commas without spaces.", "%q is no address.", one)
		case !addr.IsLoopback():
			c.warn("listen", "Leave it out: the agent needs 127.0.0.1 only.", "lets everybody who reaches %s use this ComfyUI without signing in.", one)
		}
	}
}

// folders looks at what paths name.
func (c *checker) folders() {
	for _, f := range All() {
		for _, path := range c.set.Values(f.Name) {
			switch f.Kind {
			case File:
				if err := readable(path, false); err != nil {
					c.fatal(f.Name, "", "%s.", err)
				}
			case Folder:
				c.folder(f.Name, path)
			}
		}
	}
	out := c.set.Get("output-directory")
	for _, name := range []string{"input-directory", "temp-directory"} {
		if other := c.set.Get(name); out != "" && other != "" && filepath.Clean(other) == filepath.Clean(out) {
			c.fatal(name, "Give each a folder of its own.", "is the same folder as --output-directory.")
		}
	}
	if temp := c.set.Get("temp-directory"); temp != "" {
		doomed := filepath.Join(temp, "temp") // main.py deletes it at each start
		for _, name := range []string{"output-directory", "input-directory", "user-directory", "base-directory"} {
			if other := c.set.Get(name); other != "" && within(other, doomed) {
				c.fatal(name, "Choose another folder.", "is in %s, which ComfyUI deletes at each start.", doomed)
			}
		}
	}
}

// folder checks one folder: that it is there, and that ComfyUI can write into it.
func (c *checker) folder(flag, path string) {
	if err := readable(path, true); err != nil {
		remedy := ""
		if os.IsNotExist(err) {
			remedy = fmt.Sprintf("Make it (mkdir -p %s), or see whether a disk is not mounted.", path)
		}
		c.fatal(flag, remedy, "%s.", say(err, path))
		return
	}
	switch flag {
	case "front-end-root":
		return // is only read
	case "base-directory":
		nodes := filepath.Join(path, "custom_nodes")
		used := !c.set.Has("disable-all-custom-nodes") || c.set.Has("whitelist-custom-nodes")
		if used && readable(nodes, true) != nil {
			c.fatal(flag, fmt.Sprintf("Make it: mkdir -p %s.", nodes), "has no folder custom_nodes, without which ComfyUI does not start.")
		}
	}
	if err := writable(path); err != nil {
		c.fatal(flag, "Give it to the user that the agent runs as.", "%s can't be written to: %s.", path, err)
	}
}

// say puts the common reasons into words.
func say(err error, path string) string {
	switch {
	case os.IsNotExist(err):
		return "there is no " + path
	case os.IsPermission(err):
		return path + " may not be read"
	default:
		return err.Error()
	}
}

// readable reports why path is not a file or folder that can be read.
func readable(path string, folder bool) error {
	info, err := os.Stat(path)
	switch {
	case err != nil && !folder:
		return fmt.Errorf("%s", say(err, path))
	case err != nil:
		return err
	case folder && !info.IsDir():
		return fmt.Errorf("%s is not a folder", path)
	case !folder && info.IsDir():
		return fmt.Errorf("%s is a folder, not a file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("%s", say(err, path))
	}
	return f.Close()
}

// writable tries to write: rights alone don't tell of a file system that is read-only or full.
func writable(folder string) error {
	f, err := os.CreateTemp(folder, ".comfyume-*")
	if err != nil {
		if pe, ok := err.(*os.PathError); ok {
			return pe.Err
		}
		return err
	}
	name := f.Name()
	if err := f.Close(); err != nil {
		return err
	}
	return os.Remove(name)
}

// within reports whether path is folder or below it.
func within(path, folder string) bool {
	rel, err := filepath.Rel(folder, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

// frontEnd is how main.py wants a version of the page.
var frontEnd = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9-]{0,38}/[a-zA-Z0-9_.-]+@(v?\d+\.\d+\.\d+[-._a-zA-Z0-9]*|latest|prerelease)$`)

// nodes checks what is said about custom nodes and the page.
func (c *checker) nodes() {
	if names := c.set.Values("whitelist-custom-nodes"); len(names) > 0 {
		if !c.set.Has("disable-all-custom-nodes") {
			c.warn("whitelist-custom-nodes", "Add --disable-all-custom-nodes.", "does nothing by itself: all custom nodes are loaded anyway.")
		}
		base := c.at.Dir
		if b := c.set.Get("base-directory"); b != "" {
			base = b
		}
		folder := filepath.Join(base, "custom_nodes")
		entries, err := os.ReadDir(folder)
		var have []string
		for _, e := range entries {
			have = append(have, e.Name())
		}
		// More folders of custom nodes may come by extra_model_paths.yaml: then a name that is not here may be there.
		more := c.set.Has("extra-model-paths-config")
		for _, name := range names {
			if err == nil && !more && !slices.Contains(have, name) {
				c.fatal("whitelist-custom-nodes", "", "there is no %s in %s%s.", name, folder, Meant(name, have))
			}
		}
	}
	if v := c.set.Get("front-end-version"); v != "" && !frontEnd.MatchString(v) {
		c.fatal("front-end-version", "Write it like Comfy-Org/ComfyUI_frontend@1.27.10.", "%q is no version of a page.", v)
	}
}

// version finds flags that this very ComfyUI does not have.
func (c *checker) version() {
	if c.at.Known == nil {
		return
	}
	for _, name := range Names() {
		what, known := c.at.Known[name]
		switch {
		case !c.set.Has(name):
		case !known:
			c.fatal(name, "Leave it out, or bring ComfyUI up to date.", "the ComfyUI in %s has no such flag.", c.at.Dir)
		case len(c.set.Values(name)) > 0 && strings.Contains(what, "store_true"):
			c.fatal(name, "Leave the value out.", "takes no value in the ComfyUI in %s.", c.at.Dir)
		}
	}
	names := make([]string, 0, len(c.at.Known))
	for name := range c.at.Known {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, arg := range c.set.Extra {
		name, _, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
		if _, known := c.at.Known[name]; strings.HasPrefix(arg, "--") && !known {
			c.fatal("", "", "the ComfyUI in %s has no flag %s%s.", c.at.Dir, arg, Meant(name, names))
		}
	}
}
