package cli_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/ahelme/comfyume/internal/cli"
	"github.com/ahelme/comfyume/internal/config"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"comfyume": func() { os.Exit(cli.Main(context.Background(), os.Args[1:], cli.OS())) },
	})
}

// TestScripts runs the commands as people type them, without a server.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exitcode": exitCode,
		},
	})
}

// exitCode runs a command and compares its exit code: exitcode N command arguments…
func exitCode(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		failed, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = failed.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code is %d, want %d", got, want)
	}
}

// program runs commands of one studio and keeps what they print.
type program struct {
	t   *testing.T
	dir string
}

// run runs a command and returns its exit code and what it printed.
func (p program) run(args ...string) (code int, stdout, stderr string) {
	p.t.Helper()
	var out, errs bytes.Buffer
	sys := cli.System{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Environ: []string{"HOME=" + p.dir}}
	code = cli.Main(p.t.Context(), append(args, "--data", filepath.Join(p.dir, "data")), sys)
	return code, out.String(), errs.String()
}

// must runs a command that has to succeed and returns its one line.
func (p program) must(args ...string) string {
	p.t.Helper()
	code, out, errs := p.run(args...)
	if code != 0 {
		p.t.Fatalf("%q ended with %d: %s", args, code, errs)
	}
	return strings.TrimSpace(out)
}

// serve starts a try-out studio and returns its sign-in links by name. It is stopped at the end of the test.
func (p program) serve(args ...string) map[string]string {
	p.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	out, in := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		sys := cli.System{Stdin: strings.NewReader(""), Stdout: in, Stderr: io.Discard, Environ: []string{"HOME=" + p.dir}}
		code := cli.Main(ctx, append([]string{
			"serve", "--demo", "--listen", "127.0.0.1:0", "--metrics", "", "--data", filepath.Join(p.dir, "data"),
		}, args...), sys)
		ended <- code
		in.CloseWithError(fmt.Errorf("serve ended with %d", code))
	}()
	p.t.Cleanup(func() {
		stop()
		if code := <-ended; code != 0 {
			p.t.Errorf("serve ended with %d", code)
		}
	})
	links := map[string]string{}
	lines := bufio.NewScanner(out)
	for len(links) < 5 && lines.Scan() {
		if f := strings.Fields(lines.Text()); len(f) == 3 && strings.Contains(f[2], "/link/") {
			links[f[1]] = f[2]
		}
	}
	if err := lines.Err(); err != nil {
		p.t.Fatal(err)
	}
	go io.Copy(io.Discard, out) //nolint:errcheck // ends when serve does
	return links
}

func TestCommandsBesideAServer(t *testing.T) {
	t.Parallel()
	p := program{t, t.TempDir()}
	links := p.serve()
	for _, name := range []string{"operator", "instructor", "ann", "ben", "cleo"} {
		if links[name] == "" {
			t.Errorf("no link for %s in %v", name, links)
		}
	}
	browser := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := browser.Get(links["ann"])
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusSeeOther || res.Header.Get("Set-Cookie") == "" {
		t.Errorf("the link gave %s", res.Status)
	}
	address, _, _ := strings.Cut(links["ann"], "/link/")
	if got := p.must("status"); !strings.Contains(got, "ready") || !strings.Contains(got, address) {
		t.Errorf("status says %s", got)
	}
	p.must("user", "add", "dora", "--group", "demo")
	if got := p.must("user", "link", "dora"); !strings.HasPrefix(got, address+"/link/") {
		t.Errorf("the link is %s", got)
	}
	if got := p.must("queue", "show"); !strings.HasPrefix(got, "mode     fair") {
		t.Errorf("the queue says %s", got)
	}
	token := p.must("token", "new", "operator")
	afar := []string{"--server", address, "--token", token}
	if got := p.must(append([]string{"user", "list"}, afar...)...); !strings.Contains(got, "dora") {
		t.Errorf("with a token: %s", got)
	}
	anns := p.must("token", "new", "ann")
	if code, _, errs := p.run("user", "list", "--server", address, "--token", anns); code != 1 || !strings.Contains(errs, "may not do this") {
		t.Errorf("a participant lists accounts: %d %s", code, errs)
	}
	if code, _, errs := p.run("user", "list", "--server", address, "--token", "cm_wrong"); code != 1 || errs == "" {
		t.Errorf("a wrong token: %d %s", code, errs)
	}
	if code, _, errs := p.run("serve", "--listen", "127.0.0.1:0", "--metrics", ""); code != 1 || !strings.Contains(errs, "uses the data folder") {
		t.Errorf("a second server: %d %s", code, errs)
	}
}

// TestANameThatWasSomebodysIsNotFree: who joins a class chooses a name alone, and must not come into what a removed
// person of that name left behind.
func TestANameThatWasSomebodysIsNotFree(t *testing.T) {
	t.Parallel()
	p := program{t, t.TempDir()}
	address, _, _ := strings.Cut(p.serve()["ann"], "/link/")
	send := func(user, kind, path, body string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, address+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", kind)
		if user != "" {
			req.Header.Set("X-API-Key", p.must("token", "new", user))
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	join := p.must("group", "code", "demo")
	joins := func(name string) int {
		t.Helper()
		return send("", "application/x-www-form-urlencoded", strings.TrimPrefix(join, address), "name="+name)
	}
	leave := map[string][3]string{
		"ann": {"multipart/form-data; boundary=x", "/upload/image", "--x\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a.txt\"\r\n\r\nmine\r\n--x--\r\n"},
		"ben": {"application/json", "/userdata/workflows%2Fmine.json", "{}"},
		"cleo": {"application/json", "/prompt", `{"prompt":{"1":{"class_type":"EmptyImage","inputs":{"width":8,"height":8,"batch_size":1,"color":1}},` +
			`"2":{"class_type":"PreviewImage","inputs":{"images":["1",0]}}}}`},
	}
	for name, what := range leave {
		if code := send(name, what[0], what[1], what[2]); code != http.StatusOK {
			t.Fatalf("%s leaves nothing: %d", name, code)
		}
	}
	for !strings.Contains(p.must("job", "list"), "completed") {
		select {
		case <-t.Context().Done():
			t.Fatal("the job does not end")
		case <-time.After(10 * time.Millisecond):
		}
	}
	for name := range leave {
		p.must("user", "remove", name)
		if code := joins(name); code != http.StatusConflict {
			t.Errorf("somebody else joined as %s: %d", name, code)
		}
		p.must("user", "add", name)
		p.must("user", "remove", name, "--files")
		if code := joins(name); code != http.StatusOK {
			t.Errorf("the name %s leads to nothing and is not free: %d", name, code)
		}
	}
}

// TestEmptyStudio starts a studio as somebody does who has read nothing: it says what it lacks, and how that is mended.
func TestEmptyStudio(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	log, in := io.Pipe()
	go func() {
		sys := cli.System{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: in, Environ: []string{"HOME=" + home}}
		code := cli.Main(ctx, []string{
			"serve", "--listen", "127.0.0.1:0", "--metrics", "", "--data", filepath.Join(home, "data"),
		}, sys)
		in.CloseWithError(fmt.Errorf("serve ended with %d", code))
	}()
	var said strings.Builder
	for lines := bufio.NewScanner(log); lines.Scan(); {
		said.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), `"msg":"ready"`) {
			stop()
		}
	}
	for _, want := range []string{"comfyume user add NAME", "serve --backend URL", "comfyume frontend install"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, &said)
		}
	}
}

func TestAFlagForEverySetting(t *testing.T) {
	t.Parallel()
	_, help, _ := program{t, t.TempDir()}.run("serve", "--help")
	for _, s := range config.Settings() {
		if !strings.Contains(help, "--"+config.FlagName(s.Path)) {
			t.Errorf("serve has no flag for %s", s.Path)
		}
	}
}
