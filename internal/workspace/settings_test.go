package workspace_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/workspace"
)

func settings(t testing.TB, h *home, user string) string {
	t.Helper()
	raw, err := h.Settings(user)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// TestSettings follows the recording userdata_and_settings.jsonl.
func TestSettings(t *testing.T) {
	t.Parallel()
	h := newHome(t, workspace.HomeOptions{})
	is := func(want string) {
		t.Helper()
		if diff := cmp.Diff(want, settings(t, h, "ann")); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
	is(`{}`)
	set := func(object string) {
		t.Helper()
		if err := h.MergeSettings("ann", []byte(object)); err != nil {
			t.Error(err)
		}
	}
	set(`{"Comfy.B": 1, "Comfy.A": {"x": [1]}}`)
	if err := h.SetSetting("ann", "Comfy.C", []byte(` "v" `)); err != nil {
		t.Error(err)
	}
	is(`{"Comfy.B":1,"Comfy.A":{"x": [1]},"Comfy.C":"v"}`)
	set(`{"Comfy.A": 18446744073709551617.50, "<&>\u2028": 1e400}`)
	is(`{"Comfy.B":1,"Comfy.A":18446744073709551617.50,"Comfy.C":"v","<&>\u2028":1e400}`)
	set(`{"Comfy.B": 2, "Comfy.B": 3}`)
	set(`{}`)
	is(`{"Comfy.B":3,"Comfy.A":18446744073709551617.50,"Comfy.C":"v","<&>\u2028":1e400}`)
	if v, err := h.Setting("ann", "Comfy.C"); string(v) != `"v"` || err != nil {
		t.Errorf("one setting is %s, %v", v, err)
	}
	if v, err := h.Setting("ann", "None.Such"); v != nil || err != nil {
		t.Errorf("a setting that is not there is %s, %v", v, err)
	}
	for _, bad := range []string{``, `[]`, `null`, `"x"`, `{"a":}`, `{"a":1}{`, `{"a":NaN}`, `{"a"`, `{"a":1`} {
		if err := h.MergeSettings("ann", []byte(bad)); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s gave %v", bad, err)
		}
		if err := h.SetSetting("ann", "x", []byte(bad)); !fault.Is(err, fault.Invalid) && bad != `[]` && bad != `null` && bad != `"x"` {
			t.Errorf("a value %s gave %v", bad, err)
		}
	}
	if err := h.MergeSettings("ann", []byte(`{"big":"`+strings.Repeat("x", 5<<20)+`"}`)); code(err) != "too_large" {
		t.Errorf("5 MB of settings gave %v", err)
	}
	if got := settings(t, h, "bob"); got != "{}" {
		t.Errorf("bob's settings are %s", got)
	}
	// They are a document as well.
	if got := h.read(t, "ann", "comfy.settings.json"); !strings.Contains(got, `"Comfy.B":3`) {
		t.Errorf("the document is %s", got)
	}
	h.write(t, "ann", "comfy.settings.json", "{\n    \"Comfy.D\": 4\n}\n")
	is(`{"Comfy.D":4}`)
}

func TestDamagedSettings(t *testing.T) {
	t.Parallel()
	h := newHome(t, workspace.HomeOptions{})
	for _, damage := range []string{"", "{\"a\":", "\x00\x00", "[]", strings.Repeat("x", 9<<20)} {
		h.write(t, "ann", "comfy.settings.json", damage)
		if got := settings(t, h, "ann"); got != "{}" {
			t.Errorf("damaged settings are %.40s", got)
		}
	}
	if err := h.SetSetting("ann", "a", []byte("1")); err != nil {
		t.Error(err)
	}
	if got := settings(t, h, "ann"); got != `{"a":1}` {
		t.Errorf("after a change the settings are %s", got)
	}
	if got := h.read(t, "ann", "comfy.settings.damaged.json"); len(got) != 9<<20 {
		t.Errorf("what was damaged has %d bytes", len(got))
	}
}

func FuzzSettings(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":1}`, `{"a":{"b":[1,"\u00e9",null]}}`, `{"a":1,"a":2}`, `{"\ud800":1}`, `[`, ` {"x" : 1e5 } `} {
		f.Add(s)
	}
	h := newHome(f, workspace.HomeOptions{})
	f.Fuzz(func(t *testing.T, object string) {
		if err := os.RemoveAll(filepath.Join(h.dir, "ann")); err != nil {
			t.Fatal(err)
		}
		if err := h.MergeSettings("ann", []byte(object)); err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Fatal(err)
			}
			return
		}
		once := settings(t, h, "ann")
		if err := h.MergeSettings("ann", []byte(once)); err != nil {
			t.Fatalf("%q became %q, which gave %v", object, once, err)
		}
		if twice := settings(t, h, "ann"); twice != once {
			t.Fatalf("%q became %q and then %q", object, once, twice)
		}
	})
}

func TestTemplates(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, body := range map[string]string{
		"Start here.json": "{1}", "Start here.jpg": "jpg", ".hidden.json": "{}", "notes.txt": "x", "class-a/Portrait.json": "{2}",
		"class-a/Portrait.webp": "webp", "class-b/Secret.json": "{3}", "folder.json/x": "",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tpl := workspace.NewTemplates(dir)
	studio := workspace.Pack{Name: workspace.Studio, Names: []string{"Start here"}}
	for group, want := range map[string][]workspace.Pack{
		"": {studio}, "none": {studio}, "..": {studio}, "studio": {studio},
		"class-a": {{Name: "class-a", Names: []string{"Portrait"}}, studio},
	} {
		got, err := tpl.Templates(group)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("for %q, %v, -want +got:\n%s", group, err, diff)
		}
	}
	for _, c := range []struct{ group, pack, name, want string }{
		{"", "studio", "Start here.json", "{1}"},
		{"", "studio", "Start here.jpg", "jpg"},
		{"class-a", "class-a", "Portrait.json", "{2}"},
		{"class-a", "class-a", "Portrait.webp", "webp"},
		{"class-a", "class-b", "Secret.json", ""},
		{"", "", "Start here.json", ""},
		{"", "studio", "class-b/Secret.json", ""},
		{"", "studio", "../Start here.json", ""},
		{"..", "..", "x.json", ""},
		{"", "studio", ".hidden.json", ""},
		{"", "studio", "notes.txt", ""},
		{"", "studio", "folder.json", ""},
		{"", "studio", "none.json", ""},
		{"", "studio", "", ""},
	} {
		_, r, err := tpl.Template(c.group, c.pack, c.name)
		if c.want == "" {
			if !fault.Is(err, fault.Missing) {
				t.Errorf("%+v gave %v", c, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%+v gave %v", c, err)
			continue
		}
		b := make([]byte, 100)
		n, err := r.Read(b)
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if string(b[:n]) != c.want || err != nil {
			t.Errorf("%+v holds %q, %v", c, b[:n], err)
		}
	}
	none := workspace.NewTemplates(filepath.Join(dir, "none"))
	if got, err := none.Templates("class-a"); len(got) != 0 || err != nil {
		t.Errorf("a folder that is missing has %v, %v", got, err)
	}
	if _, _, err := none.Template("", "studio", "a.json"); !fault.Is(err, fault.Missing) {
		t.Errorf("a folder that is missing gave %v", err)
	}
}
