package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/comfy/pyjson"
)

// answer is what a ComfyUI said to a question of ours.
type answer struct {
	waiting int
	facts   *facts // nil: only the queue was asked about
	err     error
}

// facts is what is read of /system_stats.
type facts struct {
	System struct {
		Version  string `json:"comfyui_version"`
		Torch    string `json:"pytorch_version"`
		RAMTotal int64  `json:"ram_total"`
		RAMFree  int64  `json:"ram_free"`
	} `json:"system"`
	Devices []backend.Device `json:"devices"`
	folders map[string][]string
}

func (a answer) note(st *Status) {
	st.ComfyUI.Waiting = a.waiting
	if a.facts == nil {
		return
	}
	st.ComfyUI.Version, st.ComfyUI.Torch = a.facts.System.Version, a.facts.System.Torch
	st.Devices, st.Memory = a.facts.Devices, Space{Total: a.facts.System.RAMTotal, Free: a.facts.System.RAMFree}
	if a.facts.folders != nil {
		st.Models = a.facts.folders
	}
}

// askTimeout is how long one question may take. It is longer than the silence after which a ComfyUI is called frozen.
const askTimeout = 30 * time.Second

// maxAnswer bounds what is read of an answer.
const maxAnswer = 4 << 20

// ask asks how long the queue is, and with facts also who the ComfyUI is.
func (s *Supervisor) ask(ctx context.Context, answers chan<- answer, withFacts bool) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	a := question(ctx, s.http, s.Address(), &s.pulse, withFacts)
	if a.facts != nil && s.Status().Models == nil {
		a.facts.folders = modelFolders(ctx, s.http, s.Address())
	}
	answers <- a // there is room for one, and only one question is out
}

// question asks a ComfyUI. Any answer to a request is a sign of life.
func question(ctx context.Context, c *http.Client, address string, p *pulse, withFacts bool) (a answer) {
	if withFacts {
		raw, err := get(ctx, c, address+"/system_stats")
		if err != nil {
			return answer{err: err}
		}
		p.beat()
		var f facts
		if err := json.Unmarshal(pyjson.Clean(raw), &f); err != nil || f.System.RAMTotal == 0 {
			return answer{err: errors.Join(errNotComfyUI, err)}
		}
		a.facts = &f
	}
	raw, err := get(ctx, c, address+"/prompt")
	if err != nil {
		return answer{err: err}
	}
	p.beat()
	var queue struct {
		Info struct {
			Remaining int `json:"queue_remaining"`
		} `json:"exec_info"`
	}
	if err := json.Unmarshal(raw, &queue); err != nil {
		return answer{err: errors.Join(errNotComfyUI, err)}
	}
	a.waiting = queue.Info.Remaining
	return a
}

var errNotComfyUI = errors.New("what answers there is no ComfyUI")

// modelFolders reads which folders the ComfyUI looks into for models. Versions without that route tell nothing.
func modelFolders(ctx context.Context, c *http.Client, address string) map[string][]string {
	raw, err := get(ctx, c, address+"/experiment/models")
	if err != nil {
		return nil
	}
	var list []struct {
		Name    string   `json:"name"`
		Folders []string `json:"folders"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil
	}
	folders := make(map[string][]string, len(list))
	for _, f := range list {
		folders[f.Name] = f.Folders
	}
	return folders
}

func get(ctx context.Context, c *http.Client, address string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	res, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: status %d", req.URL.Path, res.StatusCode)
	}
	return body, err
}

// client returns a client for a ComfyUI beside. It follows no redirects: a ComfyUI sends none.
func client(dial func(ctx context.Context, network, address string) (net.Conn, error)) *http.Client {
	return &http.Client{
		Transport:     &http.Transport{DialContext: dial, MaxIdleConns: 1, IdleConnTimeout: time.Minute, Proxy: nil},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// commitOf reads the commit of the git repository in dir; empty where there is none.
func commitOf(dir string) string {
	git := filepath.Join(dir, ".git")
	head := line(filepath.Join(git, "HEAD"))
	ref, named := strings.CutPrefix(head, "ref: ")
	if !named {
		return hash(head)
	}
	if c := hash(line(filepath.Join(git, filepath.FromSlash(ref)))); c != "" {
		return c
	}
	packed, err := os.ReadFile(filepath.Join(git, "packed-refs"))
	if err != nil {
		return ""
	}
	for l := range strings.Lines(string(packed)) {
		if c, found := strings.CutSuffix(strings.TrimSpace(l), " "+ref); found {
			return hash(c)
		}
	}
	return ""
}

// line reads the first line of a small file; empty when there is none.
func line(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSpace(first)
}

// hash returns s if it is a git hash.
func hash(s string) string {
	if len(s) < 40 || strings.Trim(s, "0123456789abcdef") != "" {
		return ""
	}
	return s
}
