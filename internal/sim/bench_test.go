//go:build unix

package sim_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"testing"

	"github.com/ahelme/comfyume/internal/benchtest"
	"github.com/ahelme/comfyume/internal/sim"
)

// BenchmarkTextJob is one PrimitiveString → PreviewAny job from POST to the frame that ends it, over HTTP and
// WebSocket: what a benchmark of the studio spends on its fake back end. cpu-µs/op counts client and server.
func BenchmarkTextJob(b *testing.B) {
	_, base := start(b, sim.Options{})
	c := dial(b, base, "bench")
	c.next(b)
	begin := benchtest.Processor(b)
	n := 0
	for b.Loop() {
		n++
		body := fmt.Sprintf(`{"client_id":"bench","prompt":{"1":{"class_type":"PrimitiveString","inputs":{"value":"text %d"}},`+
			`"2":{"class_type":"PreviewAny","inputs":{"source":["1",0]}}}}`, n)
		response, err := http.Post(base+"/prompt", "application/json", bytes.NewReader([]byte(body)))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode != http.StatusOK {
			b.Fatal(response.Status, err)
		}
		response.Body.Close()
		for !bytes.Contains(c.next(b).body, []byte(`{"type": "executing", "data": {"node": null`)) {
		}
	}
	b.ReportMetric(float64((benchtest.Processor(b)-begin).Microseconds())/float64(n), "cpu-µs/op")
}

// BenchmarkPictureJob is one EmptyImage → SaveImage job of 64 × 64 pixels.
func BenchmarkPictureJob(b *testing.B) {
	_, base := start(b, sim.Options{})
	c := dial(b, base, "prepare")
	c.next(b)
	n := 0
	for b.Loop() {
		n++
		run(b, base, c, `{"1":{"class_type":"EmptyImage","inputs":{"width":64,"height":64,"batch_size":1,"color":`+
			strconv.Itoa(n)+`}},"2":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"b"}}}`)
	}
}
