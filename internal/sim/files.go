package sim

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"image"
	"image/jpeg"
	"io"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/sim/folders"
	"github.com/ahelme/comfyume/internal/sim/media"
	"github.com/ahelme/comfyume/internal/sim/nodes"
)

// dumped is a value in Python's spacing.
func dumped(raw json.RawMessage) json.RawMessage { return nodes.Dump(nil, raw) }

// activeTypes are media types that could run something in the browser's page.
var activeTypes = []string{"text/html", "text/html-sandboxed", "application/xhtml+xml", "text/javascript", "text/css"}

func (s *ComfyUI) handleView(w http.ResponseWriter, r *http.Request, _ *life, _ []string) {
	params := query(r)
	if !params.Has("filename") {
		empty(w, http.StatusNotFound)
		return
	}
	name, typ := folders.Annotated(params.Get("filename"))
	if name == "" || name[0] == '/' || strings.Contains(name, "..") || strings.ContainsRune(name, 0) {
		empty(w, http.StatusBadRequest)
		return
	}
	if typ == "" {
		if typ = "output"; params.Has("type") {
			typ = params.Get("type")
		}
	}
	dir := s.folders.Dir(typ)
	if dir == "" {
		empty(w, http.StatusBadRequest)
		return
	}
	if params.Has("subfolder") {
		below, ok := folders.Within(dir, params.Get("subfolder"))
		if !ok {
			empty(w, http.StatusForbidden)
			return
		}
		dir = below
	}
	name = filepath.Base(name)
	path := filepath.Join(dir, name)
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
		empty(w, http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Disposition", `filename="`+strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(name)+`"`)
	channel := params.Get("channel")
	switch {
	case params.Has("preview"):
		s.viewPreview(w, path, params.Get("preview"), channel)
	case channel == "rgb" || channel == "a":
		s.viewPlane(w, path, channel)
	default:
		kind := folders.ContentType(name)
		if slices.Contains(activeTypes, kind) {
			kind = "application/octet-stream"
		}
		sendFile(w, r, path, kind)
	}
}

// picture decodes a file for /view. ok is false when the request has been answered because it is none.
func (s *ComfyUI) picture(w http.ResponseWriter, path string) (m *image.NRGBA, ok bool) {
	file, err := os.ReadFile(path)
	if err == nil {
		var p *media.Picture
		if p, err = media.Decode(file, int(s.opts.MaxValues/3)); err == nil {
			return p.Frames[0], true
		}
	}
	w.Header().Del("Content-Disposition")
	broken(w)
	return nil, false
}

func sendPicture(w http.ResponseWriter, kind string, b []byte, err error) {
	if err != nil {
		broken(w)
		return
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	_, _ = w.Write(b) // who is gone need not be told
}

func (s *ComfyUI) viewPreview(w http.ResponseWriter, path, wish, channel string) {
	m, ok := s.picture(w, path)
	if !ok {
		return
	}
	parts := strings.Split(wish, ";")
	quality := 90
	if n, err := strconv.Atoi(parts[len(parts)-1]); err == nil && n >= 0 {
		quality = n
	}
	if channel == "rgb" || parts[0] == "jpeg" {
		opaque(m)
	}
	if parts[0] != "jpeg" || strings.Contains(channel, "a") {
		b, err := media.WebP([]*image.NRGBA{m}, 0, nil)
		sendPicture(w, "image/webp", b, err)
		return
	}
	var buf bytes.Buffer
	err := jpeg.Encode(&buf, m, &jpeg.Options{Quality: max(1, min(quality, 100))})
	sendPicture(w, "image/jpeg", buf.Bytes(), err)
}

func (s *ComfyUI) viewPlane(w http.ResponseWriter, path, channel string) {
	m, ok := s.picture(w, path)
	if !ok {
		return
	}
	if channel == "rgb" {
		opaque(m)
	} else {
		for i := 0; i < len(m.Pix); i += 4 { // black, with the alpha of the file
			m.Pix[i], m.Pix[i+1], m.Pix[i+2] = 0, 0, 0
		}
	}
	b, err := media.PNG(m, nil, false)
	sendPicture(w, "image/png", b, err)
}

// opaque drops a picture's alpha channel.
func opaque(m *image.NRGBA) {
	for i := 3; i < len(m.Pix); i += 4 {
		m.Pix[i] = 255
	}
}

// upload is a form sent to the upload routes.
type upload struct {
	name    string // as the client sent it
	content []byte
	has     bool // there is an image part with a file
	fields  map[string]string
}

// readUpload reads a form. ok is false when the request has been answered.
func readUpload(w http.ResponseWriter, r *http.Request) (u upload, ok bool) {
	u.fields = map[string]string{}
	parts, err := r.MultipartReader()
	if err != nil {
		return u, true // no form: no image
	}
	for {
		part, err := parts.NextRawPart()
		if errors.Is(err, io.EOF) {
			return u, true
		}
		if err != nil {
			tooLarge(w, err)
			return u, false
		}
		content, err := io.ReadAll(part)
		if err != nil {
			tooLarge(w, err)
			return u, false
		}
		// The library would cut the directories off a file's name.
		_, params, err := mime.ParseMediaType(part.Header.Get("Content-Disposition"))
		if err != nil {
			continue
		}
		name, isFile := params["filename"]
		switch {
		case params["name"] == "image" && isFile:
			u.name, u.content, u.has = name, content, true
		case !isFile:
			u.fields[params["name"]] = string(content)
		}
	}
}

func (s *ComfyUI) handleUpload(w http.ResponseWriter, r *http.Request, _ *life, _ []string) {
	if u, ok := readUpload(w, r); ok {
		s.store(w, u, func(path string) error { return os.WriteFile(path, u.content, 0o666) })
	}
}

// store finds the place of an upload and lets write put it there.
func (s *ComfyUI) store(w http.ResponseWriter, u upload, write func(path string) error) {
	typ, given := u.fields["type"]
	if !given {
		typ = "input"
	}
	dir := s.folders.Dir(typ)
	if dir == "" {
		broken(w)
		return
	}
	if !u.has || u.name == "" {
		empty(w, http.StatusBadRequest)
		return
	}
	subfolder := u.fields["subfolder"]
	below, ok := folders.Within(dir, subfolder)
	path, inside := folders.Within(dir, filepath.Join(subfolder, u.name))
	if filepath.IsAbs(u.name) {
		inside = false
	}
	if !ok || !inside || path == dir {
		empty(w, http.StatusBadRequest)
		return
	}
	if err := os.MkdirAll(below, 0o777); err != nil {
		broken(w)
		return
	}
	name, known := u.name, false
	if o := u.fields["overwrite"]; o != "true" && o != "1" {
		name, path, known = freeName(below, u)
	}
	if !known {
		if err := write(path); err != nil {
			s.log.Info("upload not stored", "name", name, "err", err)
			broken(w)
			return
		}
	}
	out := pyjson.AppendString([]byte(`{"name": `), name)
	out = pyjson.AppendString(append(out, `, "subfolder": `...), subfolder)
	out = append(pyjson.AppendString(append(out, `, "type": `...), typ), '}')
	reply(w, http.StatusOK, out)
}

// freeName finds a name in dir that is free or holds the same bytes already.
func freeName(dir string, u upload) (name, path string, known bool) {
	sum := sha256.Sum256(u.content)
	ext := filepath.Ext(u.name)
	stem := strings.TrimSuffix(u.name, ext)
	name = u.name
	for i := 1; ; i++ {
		path = filepath.Join(dir, name)
		there, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			return name, path, false
		}
		if err == nil && sha256.Sum256(there) == sum {
			return name, path, true
		}
		if err != nil && i > 1000 {
			return name, path, false // writing will say what is wrong
		}
		name = stem + " (" + strconv.Itoa(i) + ")" + ext
	}
}

func (s *ComfyUI) handleUploadMask(w http.ResponseWriter, r *http.Request, _ *life, _ []string) {
	u, ok := readUpload(w, r)
	if !ok {
		return
	}
	ref := json.RawMessage(u.fields["original_ref"])
	if u.has && (!pyjson.Valid(ref) || pyjson.KindOf(ref) != pyjson.Object) {
		broken(w)
		return
	}
	s.store(w, u, func(path string) error {
		original, ok := s.original(ref)
		if !ok {
			return nil // nothing is written and all is well: so does the real one
		}
		masked, err := maskOnto(original, u.content, int(s.opts.MaxValues/3))
		if err != nil {
			return err
		}
		return os.WriteFile(path, masked, 0o666)
	})
}

// original reads the picture a mask is for.
func (s *ComfyUI) original(ref json.RawMessage) (file []byte, ok bool) {
	field := func(key string) string {
		v, _ := pyjson.Get(ref, key)
		return pyjson.TextOf(v)
	}
	name, typ := folders.Annotated(field("filename"))
	if name == "" || name[0] == '/' || strings.Contains(name, "..") {
		return nil, false
	}
	if typ == "" {
		if typ = field("type"); typ == "" {
			typ = "output"
		}
	}
	dir := s.folders.Dir(typ)
	if dir == "" {
		return nil, false
	}
	path, inside := folders.Within(dir, filepath.Join(field("subfolder"), name))
	if !inside {
		return nil, false
	}
	file, err := os.ReadFile(path)
	return file, err == nil
}

// maskOnto puts the alpha channel of a mask onto a picture of the same size and keeps the picture's texts.
func maskOnto(original, mask []byte, maxPixels int) ([]byte, error) {
	to, err := media.Decode(original, maxPixels)
	if err != nil {
		return nil, err
	}
	from, err := media.Decode(mask, maxPixels)
	if err != nil {
		return nil, err
	}
	m, alpha := to.Frames[0], from.Frames[0]
	if m.Rect != alpha.Rect {
		return nil, errors.New("the mask has another size than the picture")
	}
	for i := 3; i < len(m.Pix); i += 4 {
		m.Pix[i] = alpha.Pix[i]
	}
	return media.PNG(m, media.Texts(original), false)
}
