package agent

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// TestMain also plays Python: a test starts this binary as a simulated ComfyUI.
func TestMain(m *testing.M) {
	switch {
	case slices.Contains(os.Args, inspectScript):
		fmt.Println(`comfyume:{"version":[3,12,1],"torch":"2.9.0","cuda":"12.8","other":"","absent":[]}`)
		os.Exit(0)
	case slices.Contains(os.Args, "main.py"):
		os.Exit(pretend())
	case slices.Contains(os.Args, "grandchild"):
		select {}
	}
	goleak.VerifyTestMain(m)
}

// pretend is a simulated ComfyUI as a process of its own. What it is told to do comes by requests, and how it begins by
// the file "begin" in its folder.
func pretend() int {
	how, err := os.ReadFile("begin")
	if err != nil {
		how = nil
	}
	fmt.Fprintln(os.Stderr, "argv", strings.Join(os.Args[1:], " "))
	for _, name := range []string{"COMFYUME_SECRET", "HOME"} {
		fmt.Fprintln(os.Stderr, "env", name, os.Getenv(name))
	}
	if text := string(how); text != "" {
		fmt.Fprintln(os.Stdout, text)
		return 1
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt)
	mux := http.NewServeMux()
	mux.HandleFunc("/system_stats", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"system":{"comfyui_version":"0.3.64","ram_total":8},"devices":[{"name":"cpu","type":"cpu"}]}`)
	})
	mux.HandleFunc("/prompt", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"exec_info":{"queue_remaining":0}}`) })
	mux.HandleFunc("/exit", func(_ http.ResponseWriter, r *http.Request) {
		fmt.Fprint(os.Stderr, r.FormValue("say")) // without a line's end: the last words count too
		code, err := strconv.Atoi(r.FormValue("code"))
		if err != nil {
			panic(err)
		}
		os.Exit(code)
	})
	mux.HandleFunc("/child", func(w http.ResponseWriter, _ *http.Request) {
		child := exec.Command(os.Args[0], "grandchild")
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		if err := child.Start(); err != nil {
			panic(err)
		}
		fmt.Fprint(w, child.Process.Pid)
	})
	at := slices.Index(os.Args, "--port")
	go http.ListenAndServe("127.0.0.1:"+os.Args[at+1], mux) //nolint:errcheck // the agent notices
	<-interrupted
	fmt.Fprintln(os.Stderr, "Stopped server")
	return 0
}
