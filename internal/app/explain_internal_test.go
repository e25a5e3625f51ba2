package app

import (
	"testing"

	"github.com/ahelme/comfyume/internal/config"
)

// TestDriversOwnWords: what a driver says of trouble reaches the operator as it stands.
func TestDriversOwnWords(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		driver, cause, step, text, remedy string
	}{
		{
			"serverless", "back end does not answer: The shared folder /mnt/x is not there. — Mount it here, at the path that backends.storage names.: stat /mnt/x: no such file",
			"address", "The shared folder /mnt/x is not there.", "Mount it here, at the path that backends.storage names.",
		},
		{
			"serverless", "address is not a ComfyUI server: e1 refuses the key (status 401). — Look at backends.key: it is the endpoint's own.: status 401",
			"key", "e1 refuses the key (status 401).", "Look at backends.key: it is the endpoint's own.",
		},
		{
			"agent", "back end does not answer: The agent gpu has not dialled home. — Start it.",
			"address", "The agent gpu has not dialled home.", "Start it. To let it join: comfyume backend join gpu",
		},
		{"comfyui", "back end does not answer: something new", "address", "It does not answer.", "See whether ComfyUI runs there, and its log."},
	} {
		got := explain(c.cause, gpu{Back: config.Back{Name: "gpu", Driver: c.driver}})
		if want := (why{c.step, c.text, c.cause, c.remedy}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}
