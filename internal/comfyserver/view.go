package comfyserver

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/file"
)

// annotated takes " [input]", " [output]" or " [temp]" off the end of a name.
func annotated(name string) (bare, typ string) {
	for _, t := range [...]string{file.Output, file.Input, file.Temp} {
		if bare, ok := strings.CutSuffix(name, "["+t+"]"); ok {
			return strings.TrimSuffix(bare, " "), t
		}
	}
	return name, ""
}

// viewRef reads which file GET /view asks for.
func viewRef(c *call) (file.Ref, error) {
	values := c.query()
	if !values.Has("filename") {
		return file.Ref{}, missing("The query needs filename.")
	}
	name, typ := annotated(values.Get("filename"))
	if name == "" || strings.HasPrefix(name, "/") || strings.Contains(name, "..") {
		return file.Ref{}, invalid("bad_name", "This is no name of a file.")
	}
	if typ == "" {
		if typ = values.Get("type"); typ == "" {
			typ = file.Output
		}
	}
	if typ != file.Input && typ != file.Output && typ != file.Temp {
		return file.Ref{}, invalid(file.CodeBadType, "type must be input, output or temp.")
	}
	folder := values.Get("subfolder")
	if strings.HasPrefix(folder, "/") || outside(folder) {
		return file.Ref{}, errOutside()
	}
	if folder = path.Clean(folder); folder == "." {
		folder = ""
	}
	return file.Ref{Type: typ, Subfolder: folder, Name: path.Base(name)}, nil
}

// outside reports whether a relative path climbs above where it starts.
func outside(p string) bool {
	p = path.Clean(p)
	return p == ".." || strings.HasPrefix(p, "../")
}

func errOutside() error {
	return fault.New(fault.Denied, "This leads out of your files.").WithCode(file.CodeOutside)
}

// asDenied makes an error for a path that leads out of the person's files a 403, which is how the routes that read
// answer it.
func asDenied(err error) error {
	if f, ok := errors.AsType[*fault.Error](err); ok && f.Code == file.CodeOutside {
		return errOutside()
	}
	return err
}

// view answers GET /view: one of the person's files, as it is or as a preview or channel of it.
func (s *Server) view(w http.ResponseWriter, c *call) error {
	ref, err := viewRef(c)
	if err != nil {
		return err
	}
	info, content, err := s.Files.Open(c.Context(), c.user(), ref)
	if err != nil {
		return asDenied(err)
	}
	defer content.Close()
	values := c.query()
	channel := values.Get("channel")
	switch {
	case values.Has("preview"):
		format, quality := previewForm(values.Get("preview"), channel)
		return s.transformed(w, c, info, format+strconv.Itoa(quality), func() ([]byte, string, error) {
			return s.Pictures.Preview(c.Context(), content, format, quality)
		})
	case channel == "rgb" || channel == "a":
		return s.transformed(w, c, info, channel, func() ([]byte, string, error) {
			b, err := s.Pictures.Channel(c.Context(), content, channel)
			return b, "image/png", err
		})
	}
	return serveFile(w, c, info, content)
}

// previewForm reads the query's preview: "webp;90", "jpeg", …
func previewForm(text, channel string) (format string, quality int) {
	parts := strings.Split(text, ";")
	format = parts[0]
	if format != "webp" && format != "jpeg" || strings.Contains(channel, "a") {
		format = "webp"
	}
	quality = 90
	if n, err := strconv.Atoi(parts[len(parts)-1]); err == nil && n >= 0 {
		quality = min(max(n, 1), 100)
	}
	return format, quality
}

// transformed answers with something made from a file. How it was made is part of its tag, so that it is made once.
func (s *Server) transformed(w http.ResponseWriter, c *call, info file.Info, how string, render func() ([]byte, string, error)) error {
	h := w.Header()
	etag := fmt.Sprintf(`"%s-%s"`, shortHash(info), how)
	h.Set("ETag", etag)
	if matches(c.Header.Get("If-None-Match"), etag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	body, typ, err := render()
	if err != nil {
		return err
	}
	h.Set("Content-Type", typ)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Disposition", disposition("", info.Name))
	h.Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // an error means that the client left
	return nil
}

func shortHash(info file.Info) string {
	if len(info.Hash) >= 32 {
		return info.Hash[:32]
	}
	return strconv.FormatInt(info.Size, 36) + "-" + strconv.FormatInt(info.Modified.UnixNano(), 36)
}

// serveFile answers with a file of the person. Active content is never run in the page's origin.
func serveFile(w http.ResponseWriter, c *call, info file.Info, content io.ReadSeeker) error {
	h := w.Header()
	typ := contentType(info.Name)
	h.Set("Content-Type", typ)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("ETag", `"`+shortHash(info)+`"`)
	h.Set("Content-Disposition", disposition("", info.Name))
	if active(typ) {
		h.Add("Vary", "Sec-Fetch-Dest")
		if base, _, _ := strings.Cut(typ, ";"); base != "image/svg+xml" || c.Header.Get("Sec-Fetch-Dest") != "image" {
			h.Set("Content-Type", "application/octet-stream")
			h.Set("Content-Disposition", disposition("attachment", info.Name))
			h.Set("Cache-Control", "no-store")
			h.Del("ETag")
			info.Modified = time.Time{} // no validator either
		}
	}
	// The file itself goes in, so that the kernel can send it.
	return serveContent(w, c, info.Modified, content)
}

// disposition names a download. Characters beyond ASCII go in the second, encoded form.
func disposition(kind, name string) string {
	var b strings.Builder
	if kind != "" {
		b.WriteString(kind + "; ")
	}
	b.WriteString(`filename="`)
	plain := true
	for _, r := range name {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r > '~':
			plain = false
			b.WriteByte('_')
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	if !plain {
		b.WriteString("; filename*=UTF-8''")
		for _, c := range []byte(name) {
			if c < unicode.MaxASCII && (c == '.' || c == '-' || c == '_' || '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z') {
				b.WriteByte(c)
			} else {
				fmt.Fprintf(&b, "%%%02X", c)
			}
		}
	}
	return b.String()
}

// types are the content types that matter here, so that an answer does not depend on the machine's own table.
var types = map[string]string{
	".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp", ".gif": "image/gif",
	".bmp": "image/bmp", ".tif": "image/tiff", ".tiff": "image/tiff", ".avif": "image/avif", ".svg": "image/svg+xml",
	".ico": "image/vnd.microsoft.icon", ".mp4": "video/mp4", ".m4v": "video/mp4", ".webm": "video/webm", ".mov": "video/quicktime",
	".mkv": "video/x-matroska", ".avi": "video/x-msvideo", ".mp3": "audio/mpeg", ".wav": "audio/wav", ".flac": "audio/flac",
	".ogg": "audio/ogg", ".opus": "audio/ogg", ".m4a": "audio/mp4", ".aac": "audio/aac", ".glb": "model/gltf-binary",
	".gltf": "model/gltf+json", ".obj": "model/obj", ".stl": "model/stl", ".json": "application/json", ".txt": "text/plain; charset=utf-8",
	".md": "text/markdown; charset=utf-8", ".csv": "text/csv; charset=utf-8", ".html": "text/html", ".htm": "text/html",
	".xhtml": "application/xhtml+xml", ".xml": "application/xml", ".js": "text/javascript", ".mjs": "text/javascript",
	".css": "text/css", ".pdf": "application/pdf", ".zip": "application/zip", ".wasm": "application/wasm", ".woff2": "font/woff2",
	".eml": "message/rfc822", ".mht": "message/rfc822", ".mhtml": "message/rfc822",
}

func contentType(name string) string {
	ext := strings.ToLower(path.Ext(name))
	if t := types[ext]; t != "" {
		return t
	}
	if t := mime.TypeByExtension(ext); t != "" {
		return t
	}
	return "application/octet-stream"
}

// active reports whether a browser would run content of a type.
func active(typ string) bool {
	base, _, _ := strings.Cut(typ, ";")
	switch base {
	case "text/html", "text/html-sandboxed", "application/xhtml+xml", "text/javascript", "application/javascript",
		"application/x-javascript", "application/ecmascript", "text/ecmascript", "text/css", "image/svg+xml",
		"text/xml", "application/xml", "message/rfc822", "text/x-component", "application/pdf+xml":
		return true
	}
	return strings.HasSuffix(base, "+xml")
}
