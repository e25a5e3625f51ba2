package report_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/internal/agent/report"
	"github.com/ahelme/comfyume/internal/fault"
)

// over has work told over a line and returns what arrives.
func over(t *testing.T, work func(ctx context.Context, tell report.Sink) (any, error)) (states []string, result string, err error) {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		report.Serve(w, r, slog.New(slog.DiscardHandler), work)
	}))
	defer srv.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := report.Read(resp.Body, func(e report.Event) { states = append(states, e.State+e.Text) })
	return states, string(raw), err
}

func TestWorkIsTold(t *testing.T) {
	t.Parallel()
	states, result, err := over(t, func(_ context.Context, tell report.Sink) (any, error) {
		for range 100 { // told once: the next one says it again
			tell(report.Event{State: "fetching", At: 1, Total: 2})
		}
		tell(report.Event{State: "working", Text: " line"})
		tell(report.Event{State: "working", Text: " line 2"})
		return map[string]int{"size": 2}, nil
	})
	if want := []string{"fetching", "working line", "working line 2"}; err != nil || !slices.Equal(states, want) || result != `{"size":2}` {
		t.Errorf("%v, %s, %v", states, result, err)
	}
}

// TestErrorsKeepTheirKind: what went wrong there is the same here, and nothing of a cause crosses the line.
func TestErrorsKeepTheirKind(t *testing.T) {
	t.Parallel()
	_, _, err := over(t, func(context.Context, report.Sink) (any, error) {
		return nil, fault.Wrap(fault.Denied, errors.New("/secret/path"), "It may not.").WithCode("no").WithRemedy("Ask.")
	})
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || f.Kind != fault.Denied || f.Code != "no" || f.Public != "It may not." || f.Remedy != "Ask." {
		t.Errorf("err = %#v", err)
	}
	_, _, err = over(t, func(context.Context, report.Sink) (any, error) { return nil, errors.New("/secret/path") })
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("an error of nobody's: %v", err)
	}
}

// TestHostileLines: what an agent sends that is no answer is one sentence, and takes no memory.
func TestHostileLines(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]io.Reader{
		"nothing":     strings.NewReader(""),
		"half":        strings.NewReader(`{"state": "fetching"}` + "\n" + `{"state": "do`),
		"no JSON":     strings.NewReader("<html>\n"),
		"no end":      io.LimitReader(endless{}, 1<<30),
		"no error":    strings.NewReader(`{"state": "failed"}` + "\n"),
		"only a type": strings.NewReader("[]\n"),
	} {
		if _, err := report.Read(r, nil); !fault.Is(err, fault.Unavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'a'
	}
	return len(p), nil
}
