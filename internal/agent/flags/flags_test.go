package flags

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// choice makes a set of NAME or NAME=VALUE,VALUE.
func choice(t *testing.T, words ...string) *Set {
	t.Helper()
	var s Set
	for _, w := range words {
		name, value, given := strings.Cut(w, "=")
		var values []string
		if given {
			values = strings.Split(value, ",")
		}
		if err := s.Put(name, values...); err != nil {
			t.Fatalf("%s: %v", w, err)
		}
	}
	return &s
}

func TestPut(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ flag, want string }{
		{"lowvram", "--lowvram"},
		{"lowvram=true", "--lowvram"},
		{"lowvram=false", ""},
		{"verbose", "--verbose"},
		{"verbose=debug", "--verbose DEBUG"},
		{"reserve-vram=1.5", "--reserve-vram 1.5"},
		{"cache-lru=10", "--cache-lru 10"},
		{"directml=-1", "--directml=-1"},
		{"fast=autotune,cublas_ops", "--fast autotune cublas_ops"},
		{"whitelist-custom-nodes=a,b", "--whitelist-custom-nodes a b"},
	} {
		if got := strings.Join(choice(t, c.flag).Args(), " "); got != c.want {
			t.Errorf("%s gives %q, want %q", c.flag, got, c.want)
		}
	}
	for _, c := range []struct{ flag, value, want string }{
		{"lowram", "", "did you mean lowvram?"},
		{"port", "99999", "out of range: 1 to 65535"},
		{"port", "8188.5", "not a whole number"},
		{"reserve-vram", "two", "not a number"},
		{"reserve-vram", "-1", "at least 0"},
		{"reserve-vram", "NaN", "not a number"},
		{"verbose", "DEBG", "did you mean DEBUG?"},
		{"preview-method", "taes", "did you mean taesd?"},
		{"lowvram", "perhaps", "neither true nor false"},
		{"output-directory", "", "is empty"},
		{"output-directory", "a\nb", "line break"},
	} {
		var s Set
		if err := s.Put(c.flag, c.value); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("--%s %q: %v, want %q", c.flag, c.value, err, c.want)
		}
	}
	var s Set
	if err := s.Put("port"); err == nil {
		t.Error("a port without a number was taken")
	}
	if err := s.Put("port", "1", "2"); err == nil {
		t.Error("two ports were taken")
	}
}

// TestManyComeLast: a flag that takes any number of values would swallow what follows it.
func TestManyComeLast(t *testing.T) {
	t.Parallel()
	s := choice(t, "whitelist-custom-nodes=a,b", "disable-all-custom-nodes", "preview-method=auto")
	s.Extra = []string{"--new-flag", "7"}
	want := "--disable-all-custom-nodes --preview-method auto --new-flag 7 --whitelist-custom-nodes a b"
	if got := strings.Join(s.Args(), " "); got != want {
		t.Errorf("the command line is %q, want %q", got, want)
	}
}

// problems returns the findings about flags as lines.
func problems(s *Set, at Place) (fatal, notes []string) {
	for _, f := range s.Check(at) {
		if f.Fatal {
			fatal = append(fatal, f.String())
		} else {
			notes = append(notes, f.String())
		}
	}
	return fatal, notes
}

func TestCombinations(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		flags string
		want  string // in a fatal finding; empty: there must be none
		note  string // in another finding
	}{
		{flags: "lowvram highvram", want: "--lowvram: excludes --highvram"},
		{flags: "cpu gpu-only", want: "--gpu-only: excludes --cpu"},
		{flags: "cpu lowvram", want: "excludes"},
		{flags: "force-fp16 force-fp32", want: "excludes"},
		{flags: "fp16-vae fp32-vae", want: "precision of the VAE"},
		{flags: "fp16-unet fp8_e5m2-unet", want: "excludes"},
		{flags: "force-fp16 fp32-unet", want: "--fp32-unet: contradicts --force-fp16"},
		{flags: "force-fp32 fp16-text-enc", want: "contradicts --force-fp32"},
		{flags: "force-fp16 fp16-unet"},
		{flags: "force-fp16 fp8_e4m3fn-unet"},
		{flags: "fp16-unet fp32-vae bf16-text-enc"},
		{flags: "cache-none cache-lru=5", want: "excludes"},
		{flags: "use-sage-attention use-flash-attention", want: "excludes"},
		{flags: "cuda-device=0 default-device=1", want: "leaves only one in sight"},
		{flags: "cpu cuda-device=1", note: "does nothing with --cpu"},
		{flags: "cpu reserve-vram=1", note: "does nothing with --cpu"},
		{flags: "listen=0.0.0.0", note: "without signing in"},
		{flags: "listen=localhost"},
		{flags: "listen=here", want: `"here" is no address`},
		{flags: "auto-launch", want: "not for a ComfyUI beside an agent"},
		{flags: "tls-keyfile=/x", want: "without TLS"},
		{flags: "quick-test-for-ci", want: "end right after"},
		{flags: "whitelist-custom-nodes=a", note: "does nothing by itself"},
		{flags: "front-end-version=1.2.3", want: "no version of a page"},
		{flags: "front-end-version=Comfy-Org/ComfyUI_frontend@latest"},
	} {
		fatal, notes := problems(choice(t, strings.Fields(c.flags)...), Place{})
		if c.want == "" && len(fatal) > 0 || c.want != "" && !strings.Contains(strings.Join(fatal, "\n"), c.want) {
			t.Errorf("%s: %q, want %q", c.flags, fatal, c.want)
		}
		if !strings.Contains(strings.Join(notes, "\n"), c.note) {
			t.Errorf("%s: notes %q, want %q", c.flags, notes, c.note)
		}
	}
}

func TestFolders(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	for _, name := range []string{"out", "temp/temp/inner", "base", "base2/custom_nodes"} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.FromSlash(name)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, filepath.FromSlash(name)) }
	for _, c := range []struct{ flags, want string }{
		{"output-directory=" + at("out"), ""},
		{"output-directory=" + at("none"), "there is no " + at("none") + ". Make it (mkdir -p"},
		{"output-directory=" + file, "is not a folder"},
		{"extra-model-paths-config=" + at("none.yaml"), "there is no"},
		{"extra-model-paths-config=" + dir, "is a folder, not a file"},
		{"base-directory=" + at("base"), "has no folder custom_nodes"},
		{"base-directory=" + at("base") + " disable-all-custom-nodes", ""},
		{"base-directory=" + at("base2"), ""},
		{"output-directory=" + at("out") + " input-directory=" + at("out"), "is the same folder as --output-directory"},
		{"temp-directory=" + at("temp") + " output-directory=" + at("temp/temp/inner"), "which ComfyUI deletes at each start"},
		{"disable-all-custom-nodes whitelist-custom-nodes=pak", "there is no pak in"},
	} {
		place := Place{}
		if strings.Contains(c.flags, "whitelist") {
			place.Dir = at("base2")
		}
		fatal, _ := problems(choice(t, strings.Fields(c.flags)...), place)
		if c.want == "" && len(fatal) > 0 || !strings.Contains(strings.Join(fatal, "\n"), c.want) {
			t.Errorf("%s: %q, want %q", c.flags, fatal, c.want)
		}
	}
}

func TestUnwritableFolder(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 { // root may write everywhere but into /proc
		fatal, _ := problems(choice(t, "output-directory=/proc"), Place{})
		if len(fatal) != 1 || !strings.Contains(fatal[0], "can't be written to") {
			t.Skipf("this system lets root write into /proc: %q", fatal)
		}
		return
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	if fatal, _ := problems(choice(t, "output-directory="+dir), Place{}); len(fatal) != 1 || !strings.Contains(fatal[0], "can't be written to") {
		t.Errorf("a folder without the right to write: %q", fatal)
	}
}

// TestOtherVersions: what a ComfyUI has is read from its own source.
func TestOtherVersions(t *testing.T) {
	t.Parallel()
	known := scan(`
parser.add_argument("--listen", type=str, default="127.0.0.1")
group.add_argument("--async-offload", action="store_true", help="…")
parser.add_argument("--brand-new", type=int)
`)
	if want := []string{"async-offload", "brand-new", "listen"}; len(known) != len(want) {
		t.Fatalf("found %v, want %v", known, want)
	}
	at := Place{Dir: "/comfy", Known: known}
	for _, c := range []struct {
		flags, extra, want string
	}{
		{"listen=127.0.0.1", "--brand-new=3", ""},
		{"cache-none", "", "the ComfyUI in /comfy has no such flag"},
		{"async-offload=2", "", "takes no value"},
		{"async-offload", "", ""},
		{"listen=127.0.0.1", "--brand-nww", "did you mean brand-new?"},
	} {
		s := choice(t, c.flags)
		if c.extra != "" {
			s.Extra = []string{c.extra}
		}
		fatal, _ := problems(s, at)
		if c.want == "" && len(fatal) > 0 || !strings.Contains(strings.Join(fatal, "\n"), c.want) {
			t.Errorf("%s %s: %q, want %q", c.flags, c.extra, fatal, c.want)
		}
	}
	if scan("nothing here") != nil {
		t.Error("a file without flags says that there are none, rather than that they are not known")
	}
}

func TestSets(t *testing.T) {
	t.Parallel()
	s := choice(t, "output-directory=out", "port=1")
	c := s.Clone()
	c.Resolve(string(filepath.Separator) + "home")
	if got := c.Get("output-directory"); got != filepath.Join(string(filepath.Separator)+"home", "out") {
		t.Errorf("resolved to %s", got)
	}
	if s.Get("output-directory") != "out" {
		t.Error("a clone shares its values")
	}
	names := Names()
	slices.Sort(names)
	if len(slices.Compact(names)) != len(All()) {
		t.Error("a flag is there twice")
	}
	for _, f := range All() {
		if f.Doc == "" || f.Section == "" || strings.HasSuffix(f.Doc, ".") {
			t.Errorf("--%s: doc %q, section %q", f.Name, f.Doc, f.Section)
		}
		if f.Kind == Choice && len(f.Choices) == 0 {
			t.Errorf("--%s has no choices", f.Name)
		}
	}
}
