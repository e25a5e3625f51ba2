package comfyserver

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/comfyserver/room"
	"github.com/ahelme/comfyume/internal/fault"
)

// studioJS is our one extension of the editor: who is signed in, the place in the queue, what the GPU does, and
// the graph a new workspace opens on. It uses the editor's own extension points and changes nothing of the page.
//
//go:embed web/studio.js
var studioJS []byte

// studioTag is studioJS's ETag.
var studioTag = func() string {
	sum := sha256.Sum256(studioJS)
	return `"` + hex.EncodeToString(sum[:8]) + `"`
}()

// extensions answers GET /extensions: the scripts that the editor loads.
func (s *Server) extensions(w http.ResponseWriter, c *call) error {
	list := []string{"/extensions/comfyume/studio.js"}
	if s.Packs != nil {
		list = append(list, s.Packs.Scripts(c.person.Group)...)
	}
	return writeJSON(w, http.StatusOK, pyjson.AppendStrings(nil, list))
}

// studioFile answers what our extension asks for.
func (s *Server) studioFile(w http.ResponseWriter, c *call) error {
	switch c.params.get("name") {
	case "studio.js":
		h := w.Header()
		h.Set("ETag", studioTag)
		if matches(c.Header.Get("If-None-Match"), studioTag) {
			w.WriteHeader(http.StatusNotModified)
			return nil
		}
		h.Set("Content-Type", "text/javascript; charset=utf-8")
		_, _ = w.Write(studioJS) // an error means that the client left
		return nil
	case "state.json":
		return s.studioState(w, c)
	case "here.json":
		return s.here(w, c)
	case "starter.json":
		w.Header().Set("Cache-Control", "no-store")
		return writeJSON(w, http.StatusOK, s.starter(c))
	}
	return missing("There is no such file.")
}

// studioState answers who is signed in and how their jobs stand, and makes the session hear of changes.
func (s *Server) studioState(w http.ResponseWriter, c *call) error {
	if err := s.seed(c); err != nil {
		return err
	}
	s.touch(c)
	w.Header().Set("Cache-Control", "no-store")
	return encode(w, struct {
		User    string  `json:"user"`
		Group   string  `json:"group,omitempty"`
		Role    string  `json:"role"`
		SignOut string  `json:"sign_out"`
		Nodes   bool    `json:"nodes"`                 // some back end has been seen
		Touch   float64 `json:"touch_every,omitempty"` // seconds after which it is told again that somebody is there
		room.State
	}{
		c.user(), c.person.Group, string(c.person.Role), s.options.SignOut, len(s.catalog(c).Folders()) > 0, s.touchEvery(),
		s.hub.Follow(c.user(), c.query().Get("clientId")),
	})
}

// seed tells the person's room of jobs of before a restart, while there may be some that nobody told it of.
func (s *Server) seed(c *call) error {
	const settled = 2 * time.Minute
	if time.Since(s.started) > settled || s.Queue.Remaining(c.user()) == 0 {
		return nil
	}
	open, err := s.Queue.Open(c.Context(), c.user())
	if err != nil {
		return err
	}
	s.hub.Seed(c.user(), open)
	return nil
}

// packFile answers with a web file of a custom node. The page's own ones, below core, are the frontend's.
func (s *Server) packFile(w http.ResponseWriter, c *call) error {
	pack, name := c.params.get("pack"), c.params.get("name")
	if pack == "core" && s.options.Fallback != nil {
		s.options.Fallback.ServeHTTP(w, c.Request)
		return nil
	}
	if s.Packs == nil || outside(name) {
		return missing("There is no such file.")
	}
	content, hash, err := s.Packs.File(c.Context(), c.person.Group, pack, name)
	if err != nil {
		if fault.Is(err, fault.Missing) {
			return missing("There is no such file.")
		}
		return err
	}
	defer content.Close()
	h := w.Header()
	h.Set("Content-Type", contentType(name))
	h.Set("X-Content-Type-Options", "nosniff")
	if hash != "" {
		h.Set("ETag", `"`+strings.Trim(hash, `"`)+`"`)
	}
	return serveContent(w, c, time.Time{}, content)
}

// starter is the workflow that a new workspace opens on: the operator's choice, else one for a model that is there,
// else one that needs none.
func (s *Server) starter(c *call) json.RawMessage {
	if s.options.Starter != nil {
		return s.options.Starter
	}
	has := func(classes ...string) bool {
		for _, class := range classes {
			if s.catalog(c).Class(class, nil) == nil {
				return false
			}
		}
		return true
	}
	if models, _ := s.catalog(c).Models("checkpoints"); len(models) > 0 &&
		has("CheckpointLoaderSimple", "CLIPTextEncode", "EmptyLatentImage", "KSampler", "VAEDecode", "SaveImage") {
		return textToImage(preferred(models))
	}
	if has("EmptyImage", "ImageCompositeMasked", "SaveImage") {
		return plainPicture()
	}
	return empty // the editor's own
}

// preferred chooses among checkpoints: small general ones run everywhere.
func preferred(models []string) string {
	for _, hint := range []string{"v1-5", "sd_xl_base", "sdxl", "sd15"} {
		for _, m := range models {
			if strings.Contains(strings.ToLower(path.Base(m)), hint) {
				return m
			}
		}
	}
	return models[0]
}
