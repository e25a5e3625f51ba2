package comfyserver

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"path"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/file"
)

// fieldLimit bounds a form field that is no file.
const fieldLimit = 64 << 10

// upload is a form of POST /upload/image and /upload/mask.
type upload struct {
	ref       file.Ref
	overwrite bool
	original  string // original_ref of a mask
	hasImage  bool
	spool     *spool // the file
}

// uploadImage answers POST /upload/image. Any kind of file is taken. Browsers send the file before the fields that say
// where it goes, so that it waits in a spool.
func (s *Server) uploadImage(w http.ResponseWriter, c *call) error {
	u, err := s.readForm(w, c)
	if err != nil {
		return s.afterUpload(w, c, err)
	}
	defer u.spool.close()
	src, err := u.spool.reader()
	if err != nil {
		return err
	}
	info, err := s.Files.Upload(c.Context(), c.user(), u.ref, u.overwrite, src)
	if err != nil {
		return err
	}
	return uploaded(w, info)
}

// uploaded answers with the name that nodes use.
func uploaded(w http.ResponseWriter, info file.Info) error {
	b := pyjson.AppendString([]byte(`{"name": `), info.Name)
	b = pyjson.AppendString(append(b, `, "subfolder": `...), info.Subfolder)
	b = pyjson.AppendString(append(b, `, "type": `...), info.Type)
	return writeJSON(w, http.StatusOK, append(b, '}'))
}

// uploadMask answers POST /upload/mask: the alpha of the picture that comes is put onto one of the person's.
func (s *Server) uploadMask(w http.ResponseWriter, c *call) error {
	u, err := s.readForm(w, c)
	if err != nil {
		return s.afterUpload(w, c, err)
	}
	defer u.spool.close()
	ref, err := originalRef(u.original)
	if err != nil {
		return err
	}
	_, original, err := s.Files.Open(c.Context(), c.user(), ref)
	if err != nil {
		return err
	}
	defer original.Close()
	mask, err := u.spool.reader()
	if err != nil {
		return err
	}
	png, err := s.Pictures.Mask(c.Context(), original, mask)
	if err != nil {
		return err
	}
	info, err := s.Files.Upload(c.Context(), c.user(), u.ref, u.overwrite, bytes.NewReader(png))
	if err != nil {
		return err
	}
	return uploaded(w, info)
}

// originalRef reads which picture a mask is for.
func originalRef(text string) (file.Ref, error) {
	if text == "" {
		return file.Ref{}, invalid("no_original", "The form needs original_ref.")
	}
	members, err := object([]byte(text), "original_ref")
	if err != nil {
		return file.Ref{}, err
	}
	ref := file.Ref{Type: file.Output}
	for _, m := range members {
		v, _ := pyjson.Text(m.Value)
		switch m.Key {
		case "filename":
			ref.Name = v
		case "subfolder":
			ref.Subfolder = v
		case "type":
			if v != "" {
				ref.Type = v
			}
		}
	}
	if name, typ := annotated(ref.Name); typ != "" {
		ref.Name, ref.Type = name, typ
	}
	if ref.Name == "" {
		return file.Ref{}, invalid("no_original", "original_ref needs a filename.")
	}
	if strings.Contains(ref.Name, "/") { // a name may carry its folder, as in a node's input
		ref.Subfolder = path.Join(ref.Subfolder, path.Dir(ref.Name))
		ref.Name = path.Base(ref.Name)
	}
	return ref, nil
}

// readForm reads the whole form. The file waits in the spool, since its place may come after it.
func (s *Server) readForm(w http.ResponseWriter, c *call) (*upload, error) {
	const overhead = 1 << 20 // boundaries and fields
	if c.ContentLength > s.options.MaxUpload+overhead {
		return nil, tooLarge("The file", s.options.MaxUpload)
	}
	c.Body = http.MaxBytesReader(w, c.Body, s.options.MaxUpload+overhead)
	form, err := c.MultipartReader()
	if err != nil {
		return nil, invalid("no_image", "The body must be a form with an image.")
	}
	if err := s.hold(c, spoolMemory); err != nil {
		return nil, err
	}
	u := &upload{ref: file.Ref{Type: file.Input}, spool: &spool{
		dir:  s.options.Spool,
		turn: func() (func(), error) { return s.spools.take(c.Context(), c.user()) },
		room: func() error { return s.Files.Room(c.Context()) },
	}}
	if err := u.takeAll(form, s.options.MaxUpload); err != nil {
		u.spool.close()
		return nil, err
	}
	return u, nil
}

// takeAll reads the parts of the form and checks what they make.
func (u *upload) takeAll(form *multipart.Reader, limit int64) error {
	for {
		part, err := form.NextRawPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return bodyError(err, limit)
		}
		if err := u.take(part, limit); err != nil {
			return err
		}
	}
	switch {
	case !u.hasImage:
		return invalid("no_image", "The form has no image with a file name.")
	case u.ref.Type != file.Input && u.ref.Type != file.Output && u.ref.Type != file.Temp:
		return invalid(file.CodeBadType, "type must be input, output or temp.")
	}
	return nil
}

// take reads one part of the form. Unknown ones are ignored.
func (u *upload) take(part *multipart.Part, limit int64) error {
	_, header, err := mime.ParseMediaType(part.Header.Get("Content-Disposition"))
	if err != nil {
		return invalid("bad_form", "A part of the form has no readable Content-Disposition.")
	}
	name, filename := header["name"], header["filename"]
	if name == "image" {
		if filename == "" || u.hasImage {
			return invalid("no_image", "The form needs one image with a file name.")
		}
		u.ref.Name, u.hasImage = filename, true
		if err := u.spool.fill(part, limit); err != nil {
			return bodyError(err, limit)
		}
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(part, fieldLimit+1))
	if err != nil {
		return bodyError(err, limit)
	}
	if len(b) > fieldLimit {
		return invalid("bad_form", "The field %s is too long.", clip(name, 100))
	}
	switch text := string(b); name {
	case "overwrite":
		u.overwrite = text == "true" || text == "1"
	case "type":
		if text != "" {
			u.ref.Type = text
		}
	case "subfolder":
		u.ref.Subfolder = strings.TrimSuffix(text, "/")
	case "original_ref":
		u.original = text
	}
	return nil
}

// afterUpload takes in the rest of a body that is refused, within bounds: a browser reads the answer only after it has
// sent everything, and would report a lost connection instead of the limit.
func (s *Server) afterUpload(w http.ResponseWriter, c *call, err error) error {
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || f.Code != codeTooLarge {
		return err
	}
	const rest, patience = 256 << 20, 20 * time.Second
	control := http.NewResponseController(w)
	if derr := control.SetReadDeadline(time.Now().Add(patience)); derr != nil {
		return err // nothing to wait with
	}
	_, _ = io.CopyN(io.Discard, c.Request.Body, rest) // whatever comes of it, the answer is err
	w.Header().Set("Connection", "close")
	return err
}

// spool holds a file whose place is not known yet: a small one in memory, a larger one on disk.
type spool struct {
	dir  string
	turn func() (done func(), err error) // waits until one more of the person's may go to the disk
	room func() error                    // says why the disk takes no more
	mem  []byte
	disk *os.File
	done func()
}

const (
	spoolMemory = 1 << 20
	spoolStep   = 16 << 20 // after how much the disk's room is looked at again
)

// fill reads the file, at most limit bytes of it.
func (s *spool) fill(r io.Reader, limit int64) error {
	var buf bytes.Buffer
	n, err := io.CopyN(&buf, r, min(limit, spoolMemory)+1)
	if errors.Is(err, io.EOF) {
		s.mem = buf.Bytes()
		return nil
	}
	if err != nil {
		return err
	}
	if n > limit {
		return tooLarge("The file", limit)
	}
	if err := s.room(); err != nil {
		return err
	}
	if s.done, err = s.turn(); err != nil {
		return err
	}
	if s.disk, err = os.CreateTemp(s.dir, "comfyume-upload-*"); err != nil {
		return fault.Wrap(fault.Unavailable, err, "There is no room for the upload.").WithCode(codeDiskFull)
	}
	if _, err = s.disk.Write(buf.Bytes()); err == nil {
		err = s.pour(r, limit-n)
		if errors.Is(err, io.EOF) {
			return nil
		}
	}
	if err == nil {
		return tooLarge("The file", limit)
	}
	if pe, ok := errors.AsType[*os.PathError](err); ok {
		return fault.Wrap(fault.Unavailable, pe, "There is no room for the upload.").WithCode(codeDiskFull)
	}
	return err
}

// pour writes r to the disk until its end, which is io.EOF; nil: there is more than limit.
func (s *spool) pour(r io.Reader, limit int64) error {
	for limit >= 0 {
		n, err := io.CopyN(s.disk, r, min(limit+1, spoolStep))
		if err != nil {
			return err
		}
		if err := s.room(); err != nil {
			return err
		}
		limit -= n
	}
	return nil
}

// reader reads the file from its beginning.
func (s *spool) reader() (io.Reader, error) {
	if s.disk == nil {
		return bytes.NewReader(s.mem), nil
	}
	if _, err := s.disk.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return s.disk, nil
}

// close removes what is on disk.
func (s *spool) close() {
	if s.disk != nil {
		_ = s.disk.Close()
		_ = os.Remove(s.disk.Name())
		s.disk = nil
	}
	if s.done != nil {
		s.done()
		s.done = nil
	}
}
