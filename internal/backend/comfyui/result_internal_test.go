package comfyui

import (
	"testing"

	"github.com/ahelme/comfyume/internal/job"
)

// TestMessagesDecideHowARunEnded: a server calls a run that ended at a cycle a success.
func TestMessagesDecideHowARunEnded(t *testing.T) {
	t.Parallel()
	for entry, want := range map[string]job.State{
		`{"status": {"status_str": "success", "completed": true, "messages": [["execution_start", {}], ["execution_success", {}]]}}`: job.Completed,
		`{"status": {"status_str": "success", "completed": true, "messages": [["execution_start", {}], ["execution_error", {}]]}}`:   job.Failed,
		`{"status": {"status_str": "error", "completed": false, "messages": [["execution_interrupted", {}]]}}`:                       job.Cancelled,
		`{"status": {"status_str": "error", "completed": false, "messages": []}}`:                                                    job.Failed,
		`{"outputs": {}}`: job.Completed,
	} {
		if got := readEntry([]byte(entry)).State; got != want {
			t.Errorf("%s is %s, want %s", entry, got, want)
		}
	}
}
