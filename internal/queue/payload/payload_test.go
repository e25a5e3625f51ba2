package payload

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ahelme/comfyume/internal/job"
)

func packerFor(t testing.TB) *Packer {
	t.Helper()
	p, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func TestPayloadsComeBack(t *testing.T) {
	t.Parallel()
	p := packerFor(t)
	raw := rapid.Custom(func(t *rapid.T) json.RawMessage {
		if rapid.Bool().Draw(t, "nil") {
			return nil
		}
		return bytes.Repeat(rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "bytes"), rapid.IntRange(1, 100).Draw(t, "times"))
	})
	list := rapid.Custom(func(t *rapid.T) []string {
		if rapid.Bool().Draw(t, "nil") {
			return nil
		}
		return rapid.SliceOf(rapid.String()).Draw(t, "texts")
	})
	rapid.Check(t, func(t *rapid.T) {
		req := job.Request{Prompt: raw.Draw(t, "prompt"), ExtraData: raw.Draw(t, "extra"), Targets: list.Draw(t, "targets"), Outputs: list.Draw(t, "outputs")}
		got, err := p.ReadRequest(p.Request(req))
		if diff := cmp.Diff(req, got); diff != "" || err != nil {
			t.Fatalf("%v\n%s", err, diff)
		}
		out := job.Outcome{Outputs: raw.Draw(t, "outputs"), Messages: raw.Draw(t, "messages"), Meta: raw.Draw(t, "meta"), ExecSeconds: rapid.Float64().Draw(t, "seconds")}
		back, err := p.ReadOutcome(p.Outcome(out))
		if diff := cmp.Diff(out, back); diff != "" || err != nil {
			t.Fatalf("%v\n%s", err, diff)
		}
	})
}

// FuzzPayload: damaged bytes give an error, never more.
func FuzzPayload(f *testing.F) {
	p := packerFor(f)
	f.Add(p.Request(job.Request{Prompt: bytes.Repeat([]byte(`{"a":1}`), 300), Targets: []string{"1", "2"}}))
	f.Add(p.Outcome(job.Outcome{Outputs: []byte(`{}`)}))
	f.Add([]byte{})
	f.Add([]byte{plain, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Add([]byte{packed, 1, 2, 3})
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > 0 && body[0] == packed {
			body = body[:min(len(body), 1<<12)] // what unpacks to a gigabyte is not the point here
		}
		req, err := p.ReadRequest(body)
		if err == nil {
			again, err := p.ReadRequest(p.Request(req))
			if err != nil || !cmp.Equal(req, again) {
				t.Errorf("%v: %v, then %v", err, req, again)
			}
		}
		if _, err := p.ReadOutcome(body); err != nil {
			return
		}
	})
}
