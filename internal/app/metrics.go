package app

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/queueapi"
)

// queueMetrics tells how deep the queue is and how jobs ended.
type queueMetrics struct{ q *queue.Service }

// workerMetrics tells of the workers of the queue manager's interface.
type workerMetrics struct{ f *queueapi.Face }

var reports = prometheus.NewDesc("comfyume_worker_rejected_reports_total",
	"Reports of workers about jobs that were not theirs any more, and were kept out.", nil, nil)

// Describe implements prometheus.Collector.
func (workerMetrics) Describe(out chan<- *prometheus.Desc) { out <- reports }

// Collect implements prometheus.Collector.
func (m workerMetrics) Collect(out chan<- prometheus.Metric) {
	out <- prometheus.MustNewConstMetric(reports, prometheus.CounterValue, float64(m.f.Late()))
}

var (
	jobsNow   = prometheus.NewDesc("comfyume_queue_jobs", "Open jobs.", []string{"state"}, nil)
	jobsEnded = prometheus.NewDesc("comfyume_queue_ended_jobs_total", "Jobs that ended since the start.", []string{"state"}, nil)
	results   = prometheus.NewDesc("comfyume_queue_rejected_results_total",
		"Results that came late, twice or for a cancelled job, and were kept out.", []string{"reason"}, nil)
)

// Describe implements prometheus.Collector.
func (queueMetrics) Describe(out chan<- *prometheus.Desc) {
	out <- jobsNow
	out <- jobsEnded
	out <- results
}

// Collect implements prometheus.Collector.
func (m queueMetrics) Collect(out chan<- prometheus.Metric) {
	c := m.q.Counts()
	for state, n := range map[string]int{"pending": c.Pending, "running": c.Running} {
		out <- prometheus.MustNewConstMetric(jobsNow, prometheus.GaugeValue, float64(n), state)
	}
	for state, n := range map[string]int{"completed": c.Completed, "failed": c.Failed, "cancelled": c.Cancelled} {
		out <- prometheus.MustNewConstMetric(jobsEnded, prometheus.CounterValue, float64(n), state)
	}
	r := m.q.Rejected()
	for reason, n := range map[string]int64{"late": r.Late, "doubled": r.Doubled, "cancelled": r.Cancelled} {
		out <- prometheus.MustNewConstMetric(results, prometheus.CounterValue, float64(n), reason)
	}
}
