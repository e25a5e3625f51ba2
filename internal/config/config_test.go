package config_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ahelme/comfyume/internal/config"
)

// load reads text as the settings file of a folder that is forgotten after the test.
func load(t *testing.T, text string, environ []string, flags map[string]string) (*config.Loaded, error) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "comfyume.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return config.Load(config.Source{File: name, Environ: environ, Flags: flags})
}

func TestLayersLaterWins(t *testing.T) {
	t.Parallel()
	l, err := load(t, "listen: 127.0.0.1:1\nqueue: {mode: fifo, max_pending: 7}\nlimits:\n  upload: 1GiB\n",
		[]string{"COMFYUME_LISTEN=127.0.0.1:2", "COMFYUME_QUEUE_MODE=priority", "PATH=/bin", "COMFYUME_FRONTENDS=/x", "COMFYUME_PORT_80_TCP=tcp://10.0.0.1"},
		map[string]string{"listen": "127.0.0.1:3"})
	if err != nil {
		t.Fatal(err)
	}
	got := []string{
		l.Listen + " " + l.Origin("listen").String(),
		l.Queue.Mode + " " + l.Origin("queue.mode").String(),
		fmt.Sprint(l.Queue.MaxPending, " ", filepath.Base(l.Origin("queue.max_pending").String())),
		fmt.Sprint(l.Limits.Upload, " ", filepath.Base(l.Origin("limits.upload").String())),
		l.Metrics + " " + l.Origin("metrics").String(),
	}
	want := []string{
		"127.0.0.1:3 --listen", "priority COMFYUME_QUEUE_MODE", "7 comfyume.yaml:2", "1GiB comfyume.yaml:4",
		"127.0.0.1:9464 default",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if l.IsSet("metrics") || !l.IsSet("listen") {
		t.Error("IsSet does not tell a default from what was set")
	}
}

func TestEveryProblemIsReportedAtOnce(t *testing.T) {
	t.Parallel()
	_, err := load(t, `listne: 127.0.0.1:1
listen: nowhere
limits:
  uplaod: 3MB
  keep_free: much
queue: {mode: fiar, max_pending: 0}
tls: {mode: files, cert: a.pem}
store: postgres://me:secret@db/x
insecure_lan: maybe
users:
  - {name: Ann, role: boss}
  - {name: ben}
  - {name: ben}
backends:
  - {name: gpu1, url: 127.0.0.1, driver: agent, mode: plain}
  - {name: gpu2, driver: comfyui}
  - {name: gpu3, driver: serverless, url: 'https://h', mode: plain, groups: [A b], provider: {name: werda}}
listen: twice
trusted_proxies: [10.0.0.0/8, lan]
metrics: [1]
users2: 1
`, []string{"COMFYUME_QUEUE_MOOD=x"}, map[string]string{"limits.sockets_per_user": "many"})
	var problems config.Problems
	if !errors.As(err, &problems) {
		t.Fatalf("got %T %v, want Problems", err, err)
	}
	got := make([]string, 0, len(problems))
	for _, p := range problems {
		got = append(got, p.String()[strings.LastIndexByte(p.Where.File, '/')+1:])
	}
	want := []string{
		`COMFYUME_QUEUE_MOOD: there is no such setting; did you mean COMFYUME_QUEUE_MODE?`,
		`--limits-sockets-per-user: limits.sockets_per_user: "many" is not a whole number`,
		`comfyume.yaml:1: listne: there is no such setting; did you mean listen?`,
		`comfyume.yaml:2: listen: "nowhere" is not an address such as 127.0.0.1:8080`,
		`comfyume.yaml:4: limits.uplaod: there is no such setting; did you mean upload?`,
		`comfyume.yaml:5: limits.keep_free: "much" is not a size such as 512MB or 10GB`,
		`comfyume.yaml:6: queue.mode: "fiar" is none of fifo, round_robin, priority, fair; did you mean fair?`,
		`comfyume.yaml:6: queue.max_pending: 0 is too little; it has to be at least 1`,
		`comfyume.yaml:7: tls.key: is needed by tls.mode files`,
		`comfyume.yaml:8: store: write sqlite, or the address of a Redis such as redis://HOST:6379/0`,
		`comfyume.yaml:9: insecure_lan: "maybe" is neither true nor false`,
		`comfyume.yaml:11: users[0].name: "Ann" is not a name: 1 to 32 lower-case letters, digits, - and _`,
		`comfyume.yaml:11: users[0].role: "boss" is none of participant, instructor, operator`,
		`comfyume.yaml:13: users[2].name: "ben" is there twice`,
		`comfyume.yaml:15: backends[0].url: an agent dials home: it has no address here`,
		`comfyume.yaml:15: backends[0].mode: belongs to the driver serverless`,
		`comfyume.yaml:16: backends[1].url: "" is not an address such as http://127.0.0.1:8188`,
		`comfyume.yaml:17: backends[2].storage: is needed by mode plain: a balancer does not lead back to the container that has the files`,
		`comfyume.yaml:17: backends[2].provider.name: "werda" is none of verda; did you mean verda?`,
		`comfyume.yaml:17: backends[2].provider.deployment: is needed: how the provider calls it`,
		`comfyume.yaml:17: backends[2].groups[0]: "A b" is not a name: 1 to 32 lower-case letters, digits, - and _`,
		`comfyume.yaml:18: listen: is there twice`,
		`comfyume.yaml:19: trusted_proxies[1]: "lan" is neither an address nor a network such as 10.0.0.0/8`,
		`comfyume.yaml:20: metrics: is a single value`,
		`comfyume.yaml:21: users2: there is no such setting; did you mean users?`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestPlacesOfBytes(t *testing.T) {
	t.Parallel()
	const word = "s3cr3t"
	for blob, want := range map[string]string{
		"file": "", "file:///mnt/x": "", "s3://bucket/p?endpoint=h&region=eu&key=env:A&secret=file:/b": "",
		"file://host/x": "write file, or", "file:///x?" + word: "write file, or", "s3:": "write s3://", word: "write file, or",
		"s3://u:" + word + "@bucket": "keys do not stand", "s3://bucket?secret=" + word: "never written in clear",
		"s3://bucket?" + word + "=1": "and nothing else", "s3://bucket?%zz" + word: "keys do not stand",
	} {
		_, err := load(t, "blob: \""+blob+"\"\n", nil, nil)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), word)) {
			t.Errorf("blob: %s gave %v", blob, err)
		}
		if want != "" && blob != "file" {
			_, err := load(t, "backends: [{name: a, driver: agent, storage: \""+blob+"\"}]\n", nil, nil)
			if err == nil || strings.Contains(err.Error(), word) {
				t.Errorf("storage: %s gave %v", blob, err)
			}
		}
	}
	for storage, fine := range map[string]bool{"file:///o?inputs=/i": true, "file:///o?inputs=i": false, "file:///o?other=/i": false} {
		if _, err := load(t, "backends: [{name: a, driver: serverless, url: http://x, mode: plain, storage: \""+storage+"\"}]\n", nil, nil); (err == nil) != fine {
			t.Errorf("storage: %s gave %v", storage, err)
		}
	}
	_, err := load(t, "backends: [{name: a, driver: serverless, url: http://x, mode: plain, storage: \"s3://bucket/x\"}]\n", nil, nil)
	if err == nil || !strings.Contains(err.Error(), "ComfyUI itself writes to folders only") {
		t.Errorf("a bucket for mode plain gave %v", err)
	}
}

func TestFileThatIsNotYAMLNamesItsLine(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"listen: 127.0.0.1:1\n\tqueue: x\n":    "comfyume.yaml:2: is not YAML: a tab at the start of the line; use spaces",
		"queue:\n  mode: fifo\n \t max_p: 1\n": "comfyume.yaml:3: is not YAML: a tab at the start of the line; use spaces",
		"name: x\n listen: 127.0.0.1:1\n":      "comfyume.yaml:2: is not YAML: mapping values are not allowed in this context; is a line",
		"name: [x\nlisten: 127.0.0.1:1\n":      "comfyume.yaml:1: is not YAML: did not find expected ',' or ']'",
	} {
		if _, err := load(t, text, nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

func TestMissingFile(t *testing.T) {
	t.Parallel()
	gone := filepath.Join(t.TempDir(), "gone.yaml")
	if _, err := config.Load(config.Source{File: gone}); err == nil {
		t.Error("a file that was asked for and is not there is an error")
	}
	l, err := config.Load(config.Source{File: gone, Optional: true})
	if err != nil || l.File != "" {
		t.Errorf("an optional file may be missing: %v", err)
	}
}

func TestPathsInTheFileStartAtItsFolder(t *testing.T) {
	t.Parallel()
	l, err := load(t, "data: d\ntls: {mode: files, cert: c.pem, key: /abs/k.pem}\nfrontend: ./page\n", nil, map[string]string{"tls.cert": "here.pem"})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(l.File)
	want := []string{filepath.Join(dir, "d"), "here.pem", "/abs/k.pem", filepath.Join(dir, "page")}
	if diff := cmp.Diff(want, []string{l.Data, l.TLS.Cert, l.TLS.Key, l.Frontend}); diff != "" {
		t.Error(diff)
	}
}

func TestReferenceIsTheDefault(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := config.WriteReference(&b); err != nil {
		t.Fatal(err)
	}
	l, err := load(t, b.String(), nil, nil)
	if err != nil {
		t.Fatalf("the reference is not a settings file: %v\n%s", err, &b)
	}
	want := config.Default()
	want.Data, l.Data = "", ""
	want.TrustedProxies, want.Users, want.Backends = []string{}, []config.User{}, []config.Back{}
	want.Packs = config.Packs{Allow: []string{}, Deny: []string{}}
	if diff := cmp.Diff(want, l.Config, cmp.AllowUnexported(config.Secret{})); diff != "" {
		t.Error(diff)
	}
	for _, key := range []string{"max_pending_per_user:", "#  - name:", "#    url:", "COMFYUME_QUEUE_MODE"} {
		if !strings.Contains(b.String(), key) {
			t.Errorf("the reference does not name %s", key)
		}
	}
}

func TestShownSettingsReadBackTheSame(t *testing.T) {
	t.Parallel()
	first, err := load(t, `name: "Lab: the #1"
users: [{name: ann, group: class-a}, {name: op, role: operator}]
trusted_proxies: [10.0.0.0/8]
backends: [{name: gpu1, url: "http://10.0.0.5:8188", key: "env:GPU_KEY"}]
queue: {mode: fifo}
packs: {allow: [A], deny: [B], routes: {A: [/a/, /b/]}}
`, nil, map[string]string{"data": "/srv/data"})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := first.Write(&b); err != nil {
		t.Fatal(err)
	}
	second, err := load(t, b.String(), nil, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, &b)
	}
	if diff := cmp.Diff(first.Config, second.Config, cmp.AllowUnexported(config.Secret{})); diff != "" {
		t.Errorf("%s\n%s", diff, &b)
	}
	if !strings.Contains(b.String(), "# --data") {
		t.Errorf("does not say where data came from:\n%s", &b)
	}
}

func TestSecretsStayHidden(t *testing.T) {
	t.Setenv("CONFIG_TEST_KEY", "open sesame")
	s, err := config.ParseSecret("env:CONFIG_TEST_KEY")
	if err != nil {
		t.Fatal(err)
	}
	if v, err := s.Reveal(); err != nil || v != "open sesame" {
		t.Fatalf("Reveal gave %q, %v", v, err)
	}
	asJSON, err := json.Marshal(map[string]any{"key": s})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprintf("%v %+v %#v %s", s, s, s, s), string(asJSON)} {
		if strings.Contains(text, "sesame") || !strings.Contains(text, "***") {
			t.Errorf("shows as %s", text)
		}
	}
	_, err = load(t, "backends: [{name: g, url: 'http://h', key: hunter2}]", nil, nil)
	if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "never written in clear") {
		t.Errorf("a secret in clear gave %v", err)
	}
	missing, err := config.ParseSecret("env:CONFIG_TEST_NOT_THERE")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := missing.Reveal(); err == nil {
		t.Error("a secret that is not there is an error")
	}
}

func TestWarnsOfWhatDoesNothing(t *testing.T) {
	t.Parallel()
	l, err := load(t, "", []string{"COMFYUME_E2E_BINARY=x"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"the environment has COMFYUME_E2E_BINARY, which is no setting"}, l.Warnings); diff != "" {
		t.Error(diff)
	}
}

func TestSizes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]config.Size{
		"512MB": 512_000_000, "10 GB": 10_000_000_000, "1.5GiB": 3 << 29, "4096": 4096, "1kb": 1000, "0B": 0,
	} {
		if got, err := config.ParseSize(text); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "MB", "-1MB", "1XB", "99999999TB", "1e30GB", "NaN", "0x10"} {
		if got, err := config.ParseSize(text); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", text, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		want := config.Size(rapid.Int64Min(0).Draw(t, "size"))
		if got, err := config.ParseSize(want.String()); err != nil || got != want {
			t.Fatalf("%d prints as %s and reads as %d, %v", want, want, got, err)
		}
	})
}

func FuzzLoad(f *testing.F) {
	f.Add("listen: 127.0.0.1:1\nusers: [{name: a}]\n")
	f.Add("a: &x [*x]\n")
	f.Add("queue: {mode: [}\n")
	f.Add("backends:\n  - ")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		name := filepath.Join(dir, "comfyume.yaml")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := config.Load(config.Source{File: name})
		if (l == nil) == (err == nil) {
			t.Fatalf("got %v, %v", l, err)
		}
	})
}

func TestPackRoutes(t *testing.T) {
	t.Parallel()
	if _, err := load(t, "packs: {deny: [Bad], routes: {Some-Pack: [/some_pack/, /api/some_pack/v2/]}}", nil, nil); err != nil {
		t.Error(err)
	}
	for _, route := range []string{"some_pack", "/", "//x", "/a/../b", "/a?b", "/ws", "/prompt", "/studio/x", "/admin/", "/a b"} {
		_, err := load(t, fmt.Sprintf("packs: {routes: {P: [%q]}}", route), nil, nil)
		if err == nil || !strings.Contains(err.Error(), "packs.routes.P") {
			t.Errorf("%s: %v", route, err)
		}
	}
}
