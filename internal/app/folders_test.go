package app_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image/png"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/app"
	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/sim"
)

// TestServersThatShareAFolder: two servers that write to one folder, as operators set them up to have all pictures in one
// place, number their files alike. Everybody gets what they asked for all the same, under the names that they asked for.
func TestServersThatShareAFolder(t *testing.T) {
	t.Parallel()
	shared := t.TempDir()
	o := options(t, map[string]string{"limits.keep_free": "1MB", "queue.max_running_per_user": "8"})
	for _, name := range []string{"gpu1", "gpu2"} {
		o.Settings.Backends = append(o.Settings.Backends, config.Back{Name: name, Driver: "comfyui", URL: simulatedAs(t, sim.Options{Output: shared})})
	}
	err := run(t, o, func(s *app.Studio) {
		p := ann(t, o, s)
		sizes := map[string]int{}
		for i := range 8 {
			status, text := p.do("POST", "/prompt", "application/json", strings.NewReader(fmt.Sprintf(`{"prompt": {
				"1": {"class_type": "EmptyImage", "inputs": {"width": %d, "height": 16, "batch_size": 1, "color": 255}},
				"2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "mine"}}}}`, 16+16*i)))
			var accepted struct {
				ID string `json:"prompt_id"`
			}
			if err := json.Unmarshal(text, &accepted); err != nil || status != http.StatusOK {
				t.Fatalf("the prompt gave %d %s", status, text)
			}
			sizes[accepted.ID] = 16 + 16*i
		}
		type entry struct {
			Outputs map[string]struct {
				Images []struct{ Filename, Subfolder string }
			}
		}
		var history map[string]entry
		for deadline := time.Now().Add(30 * time.Second); len(history) < len(sizes); <-time.After(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d of %d are over", len(history), len(sizes))
			}
			_, text := p.do("GET", "/history", "", nil)
			if err := json.Unmarshal(text, &history); err != nil {
				t.Fatal(err)
			}
		}
		for id, width := range sizes {
			images := history[id].Outputs["2"].Images
			if len(images) != 1 || images[0].Subfolder != "" || !strings.HasPrefix(images[0].Filename, "mine_0000") {
				t.Fatalf("told as %+v", images)
			}
			_, picture := p.do("GET", "/view?type=output&filename="+url.QueryEscape(images[0].Filename), "", nil)
			if c, err := png.DecodeConfig(bytes.NewReader(picture)); err != nil || c.Width != width {
				t.Errorf("the picture of width %d has %d, %v", width, c.Width, err)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if all, err := filepath.Glob(filepath.Join(shared, "comfyume-*-0", "mine_00001_.png")); err != nil || len(all) != 8 {
		t.Errorf("%d of 8 pictures are in folders of their own, %v", len(all), err)
	}
}
