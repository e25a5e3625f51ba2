// Package telemetry sets up what the program says about itself: structured log lines and the registry of metrics.
package telemetry

import (
	"io"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/ahelme/comfyume/internal/fault"
)

// The forms of log lines.
const (
	Text = "text"
	JSON = "json"
)

// Logger returns a logger that writes lines of a form to w, from level on, and the level, which may be changed
// while the program runs.
func Logger(w io.Writer, form, level string) (*slog.Logger, *slog.LevelVar, error) {
	var at slog.LevelVar
	if err := at.UnmarshalText([]byte(level)); err != nil {
		return nil, nil, fault.Wrap(fault.Invalid, err, "%q is not a level of the log.", level).
			WithRemedy("Use debug, info, warn or error.")
	}
	o := &slog.HandlerOptions{Level: &at}
	switch form {
	case Text:
		return slog.New(slog.NewTextHandler(w, o)), &at, nil
	case JSON:
		o.ReplaceAttr = spell
		return slog.New(slog.NewJSONHandler(w, o)), &at, nil
	default:
		return nil, nil, fault.New(fault.Invalid, "%q is not a form of the log.", form).WithRemedy("Use text or json.")
	}
}

// spell writes durations as the other form does: "1.5s" says more than a count of nanoseconds.
func spell(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}

// Metrics is a registry of its own, so that two studios in one program do not mix.
type Metrics struct{ *prometheus.Registry }

// NewMetrics returns a registry that already tells of the process and of Go.
func NewMetrics(version string) (*Metrics, error) {
	m := &Metrics{prometheus.NewRegistry()}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "comfyume_build_info", Help: "Always 1; the label names the version.",
		ConstLabels: prometheus.Labels{"version": version},
	})
	info.Set(1)
	for _, c := range []prometheus.Collector{
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewGoCollector(), info,
	} {
		if err := m.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Handler answers with all metrics in Prometheus' form.
func (m *Metrics) Handler(log *slog.Logger) http.Handler {
	return promhttp.HandlerFor(m, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError)})
}
