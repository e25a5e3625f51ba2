package modelpaths

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"models/checkpoints", "models/loras", "models/clip", "models/ipadapter", "loras"} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.FromSlash(name)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	base := "  base_path: " + filepath.Join(dir, "models") + "\n"
	for name, c := range map[string]struct {
		text  string
		want  []string // LINE fatal|note KEY: text, in order; empty: nothing is wrong
		never string
	}{
		"good":                   {text: "studio:\n" + base + "  is_default: true\n  checkpoints: checkpoints\n  loras: |\n    loras\n  clip: clip\n"},
		"relative to the file":   {text: "studio:\n  loras: loras\n"},
		"two sections":           {text: "a:\n" + base + "  loras: loras\nb:\n  loras: loras\n"},
		"known to custom nodes":  {text: "studio:\n" + base + "  ipadapter: ipadapter\n"},
		"a slip":                 {text: "studio:\n" + base + "  lora: loras\n", want: []string{"3 note studio.lora: ComfyUI knows no folder type of this name, so that no loader of its own looks there; did you mean loras?"}},
		"another word":           {text: "studio:\n" + base + "  ckpt: checkpoints\n", want: []string{"did you mean checkpoints?"}},
		"capitals":               {text: "studio:\n" + base + "  LoRAs: loras\n", want: []string{"did you mean loras?"}},
		"no alias":               {text: "studio:\n" + base + "  diffusion: loras\n", want: []string{"ComfyUI knows no folder type of this name"}},
		"unknown":                {text: "studio:\n" + base + "  zzzzzzzz: loras\n", want: []string{"3 note studio.zzzzzzzz: ComfyUI knows no folder type"}, never: "did you mean"},
		"a list":                 {text: "studio:\n" + base + "  loras:\n    - loras\n    - more\n", want: []string{"4 fatal studio.loras: is a list, and ComfyUI wants text."}},
		"a list in one line":     {text: "studio:\n" + base + "  loras: [loras]\n", want: []string{"3 fatal studio.loras: is a list"}},
		"dashes in text":         {text: "studio:\n" + base + "  loras: |\n    - loras\n", want: []string{`note studio.loras: "- loras" is taken as it stands`, "there is no folder"}},
		"a section too deep":     {text: "studio:\n" + base + "  loras:\n    loras: x\n", want: []string{"fatal studio.loras: is a section"}},
		"nothing":                {text: "studio:\n" + base + "  loras:\n", want: []string{"3 fatal studio.loras: names no folder"}},
		"a number":               {text: "studio:\n" + base + "  loras: 7\n", want: []string{"3 fatal studio.loras: 7 is not text"}},
		"not there":              {text: "studio:\n" + base + "  vae: vae\n", want: []string{"3 note studio.vae: there is no folder " + filepath.Join(dir, "models", "vae")}},
		"a file":                 {text: "studio:\n  loras: file\n", want: []string{"2 note studio.loras: " + filepath.Join(dir, "file") + " is no folder."}},
		"base not there":         {text: "studio:\n  base_path: /none/such\n  loras: loras\n", want: []string{"2 note studio.base_path: there is no folder /none/such.", "3 note studio.loras: there is no folder /none/such/loras."}},
		"a variable":             {text: "studio:\n  base_path: $COMFYUME_TEST_NONE/x\n", want: []string{"names a variable that is not set", "there is no folder"}},
		"base of a list":         {text: "studio:\n  base_path: [a]\n", want: []string{"2 fatal studio.base_path: has to be the path of one folder."}},
		"default maybe":          {text: "studio:\n" + base + "  is_default: perhaps\n  loras: loras\n", want: []string{`"perhaps" is neither true nor false`}},
		"twice":                  {text: "studio:\n" + base + "  loras: loras\n  loras: loras\n", want: []string{"4 note studio.loras: is there twice"}},
		"no section":             {text: "loras: loras\n", want: []string{"1 fatal loras: has a value where a section with folders belongs."}},
		"an empty section":       {text: "studio:\nother:\n" + base + "  loras: loras\n", want: []string{"1 note studio: is an empty section"}},
		"a list of sections":     {text: "- studio\n", want: []string{"1 fatal : is no list of sections"}},
		"empty":                  {text: "# nothing\n", want: []string{"0 fatal : is empty"}},
		"not YAML":               {text: "studio:\n\tloras: x\n", want: []string{"fatal : is not YAML"}},
		"an alias of YAML":       {text: "a: &a\n" + base + "  loras: loras\nb: *a\n"},
		"everything at the same": {text: "studio:\n" + base + "  lora: [x]\n  vae: vae\n", want: []string{"did you mean loras?", "is a list", "there is no folder"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sub := strings.ReplaceAll(name, " ", "-") + ".yaml"
			file := filepath.Join(dir, sub)
			if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, p := range Check(file) {
				kind := map[bool]string{true: "fatal", false: "note"}[p.Fatal]
				got = append(got, fmt.Sprintf("%d %s %s: %s", p.Line, kind, p.Key, p.Text))
				if p.Remedy == "" && p.Line > 0 {
					t.Errorf("no remedy: %s", p)
				}
				if !strings.HasPrefix(p.String(), file) {
					t.Errorf("it does not say which file: %s", p)
				}
			}
			if len(got) != len(c.want) {
				t.Fatalf("found %q, want %q", got, c.want)
			}
			for i, want := range c.want {
				if !strings.Contains(got[i], want) {
					t.Errorf("found %q, want %q", got[i], want)
				}
				if c.never != "" && strings.Contains(got[i], c.never) {
					t.Errorf("found %q, which says %q", got[i], c.never)
				}
			}
		})
	}
}

func TestFileThatIsNot(t *testing.T) {
	t.Parallel()
	p := Check(filepath.Join(t.TempDir(), "none.yaml"))
	if len(p) != 1 || !p[0].Fatal || !strings.Contains(p[0].Text, "can't be read: no such file") {
		t.Errorf("%v", p)
	}
	big := filepath.Join(t.TempDir(), "big.yaml")
	if err := os.WriteFile(big, []byte(strings.Repeat("# x\n", maxFile/4+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if p := Check(big); len(p) != 1 || !strings.Contains(p[0].Text, "more than") {
		t.Errorf("%v", p)
	}
}

// TestOnlyTwoAliases: what ComfyUI takes for another name is these two and nothing else.
func TestOnlyTwoAliases(t *testing.T) {
	t.Parallel()
	if a := Aliases(); len(a) != 2 || a["unet"] != "diffusion_models" || a["clip"] != "text_encoders" {
		t.Errorf("the aliases are %v", a)
	}
	for wrong, right := range mistaken() {
		known := Aliases()[right] != ""
		for _, k := range Kinds() {
			known = known || k == right
			if k == wrong {
				t.Errorf("%s is a folder type of ComfyUI and no mistake", wrong)
			}
		}
		if !known {
			t.Errorf("%s is said to be meant by %s, and is no folder type", right, wrong)
		}
	}
}

func FuzzCheck(f *testing.F) {
	f.Add("studio:\n  base_path: /x\n  loras: |\n    a\n    b\n")
	f.Add("a: &a [*a]\n")
	f.Add("a: {b: {c: d}}\n? [x]\n: y\n")
	f.Fuzz(func(t *testing.T, text string) {
		file := filepath.Join(t.TempDir(), "x.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		Check(file)
	})
}
