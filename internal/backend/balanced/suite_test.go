package balanced_test

import (
	"bytes"
	"context"
	"encoding/json"
	"image"
	"image/png"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/backendtest"
	"github.com/ahelme/comfyume/internal/backend/balanced"
	"github.com/ahelme/comfyume/internal/sim"
	"github.com/ahelme/comfyume/internal/sim/fleet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// endpoint is a simulated fleet with a shared folder.
type endpoint struct {
	*fleet.Fleet
	url, outputs, inputs string
	options              balanced.Options
	storage              string
}

// serve starts a fleet of replicas inside this process. shared says whether they have their folders in common.
func serve(t *testing.T, o fleet.Options, gpu sim.Options, shared bool) *endpoint {
	t.Helper()
	dir := t.TempDir()
	e := &endpoint{outputs: filepath.Join(dir, "outputs"), inputs: filepath.Join(dir, "inputs")}
	for _, d := range []string{e.outputs, e.inputs} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	o.Dir = filepath.Join(dir, "replicas")
	gpu.Probes = true
	o.Launch = fleet.Local(gpu, func(_ int, s *sim.Options) {
		if shared {
			s.Output, s.Input = e.outputs, e.inputs
		}
	})
	var err error
	if e.Fleet, err = fleet.New(o); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- e.Serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error("Serve:", err)
		}
	})
	e.url = "http://" + l.Addr().String()
	e.storage = "file://" + e.outputs + "?inputs=" + e.inputs
	e.options = balanced.Options{Studio: "suite", LookEvery: 40 * time.Millisecond, LostAfter: 2 * time.Second, VisibleFor: 2 * time.Second, RequestTimeout: 2 * time.Second}
	return e
}

func (e *endpoint) open(t *testing.T) backend.Driver {
	t.Helper()
	d, err := balanced.New(e.url, e.storage, e.options)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

const empty = `"1":{"class_type":"EmptyImage","inputs":{"width":64,"height":48,"batch_size":1,"color":255}}`

// graphs are those of servers with probe nodes.
func graphs(t *testing.T, h backendtest.Harness) backendtest.Harness {
	t.Helper()
	h.Text = json.RawMessage(`{"1":{"class_type":"ProbeText","inputs":{"text":"hello"}}}`)
	h.Picture = json.RawMessage(`{` + empty + `,"2":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"suite/picture"}}}`)
	h.Slow = json.RawMessage(`{` + empty + `,"2":{"class_type":"ProbeSlow","inputs":{"image":["1",0],"steps":300,"seconds":0.05,"preview":true}},
		"3":{"class_type":"PreviewImage","inputs":{"images":["2",0]}}}`)
	h.Fail = json.RawMessage(`{` + empty + `,"2":{"class_type":"ProbeFail","inputs":{"image":["1",0],"message":"boom"}},"3":{"class_type":"PreviewImage","inputs":{"images":["2",0]}}}`)
	h.Refused = json.RawMessage(`{"2":{"class_type":"SaveImage","inputs":{"filename_prefix":"x"}}}`)
	h.Input = json.RawMessage(`{"1":{"class_type":"LoadImage","inputs":{"image":"comfyume_suite.png"}},"2":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"suite/input"}}}`)
	h.InputName = "comfyume_suite.png"
	var b bytes.Buffer
	if err := png.Encode(&b, image.NewNRGBA(image.Rect(0, 0, 16, 16))); err != nil {
		t.Fatal(err)
	}
	h.InputBody = b.Bytes()
	h.Previews = true
	h.Blind = "no request leads back to the replica that has the run; a web socket finds it by chance, and later"
	// Restart stays nil: replicas come and go all the time, and none of them is the back end.
	return h
}

// TestSuite holds the driver to the contract, behind two replicas of which any may answer.
func TestSuite(t *testing.T) {
	t.Parallel()
	for _, version := range []string{sim.Classic, sim.Modern} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			e := serve(t, fleet.Options{Replicas: 2, Warm: 2, PerReplica: 8, FreeSockets: true}, sim.Options{Version: version}, true)
			backendtest.Run(t, graphs(t, backendtest.Harness{Open: e.open}))
		})
	}
}
