package comfyui

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"github.com/google/uuid"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/comfy/pyjson"
)

// epochs knows which start of the server is the present one, and what we have uploaded to it since.
//
// A ComfyUI does not say when it was started. But it empties its temp folder at every start, so a small file there
// with a random word in it is the name of the start: it is read again whenever a connection was cut.
type epochs struct {
	asking chan struct{} // who has its one place reads the word, and writes one where there is none

	mu   sync.Mutex
	word string
	sure bool
	cuts uint64           // grows with every cut, so that a word read before a cut is not taken for one read after it
	have map[string]int64 // uploads by subfolder/name, with their size

	sending map[string]chan struct{} // uploads that go on; closed at their end
}

// maxHave bounds the memory of uploads; forgetting one costs a look at the server.
const maxHave = 100_000

func (e *epochs) doubt() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sure = false
	e.cuts++
}

func (e *epochs) now() (word string, sure bool, doubts uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.word, e.sure, e.cuts
}

// set takes over a word that was read after the given number of cuts.
func (e *epochs) set(word string, doubts uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if word != e.word {
		clear(e.have)
	}
	e.word = word
	e.sure = e.cuts == doubts
}

func (e *epochs) knows(name string, size int64) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	n, ok := e.have[name]
	return ok && n == size
}

func (e *epochs) learn(word, name string, size int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if word != e.word {
		return
	}
	if len(e.have) >= maxHave {
		clear(e.have)
	}
	e.have[name] = size
}

func (e *epochs) forget(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.have, name)
}

// send waits until nobody else sends the file, and returns how to say that it was sent.
func (e *epochs) send(ctx context.Context, name string) (done func(), err error) {
	for {
		e.mu.Lock()
		other := e.sending[name]
		if other == nil {
			mine := make(chan struct{})
			if e.sending == nil {
				e.sending = map[string]chan struct{}{}
			}
			e.sending[name] = mine
			e.mu.Unlock()
			return func() {
				e.mu.Lock()
				delete(e.sending, name)
				e.mu.Unlock()
				close(mine)
			}, nil
		}
		e.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// epoch returns the word of the present start. With force it is read from the server even when nothing speaks for
// a restart.
func (d *Driver) epoch(ctx context.Context, force bool) (string, error) {
	if word, sure, _ := d.epochs.now(); sure && !force {
		return word, nil
	}
	select {
	case d.epochs.asking <- struct{}{}:
		defer func() { <-d.epochs.asking }()
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	word, sure, doubts := d.epochs.now()
	if sure && !force { // somebody else has read it meanwhile
		return word, nil
	}
	ctx, cancel := context.WithTimeout(ctx, d.options.RequestTimeout)
	defer cancel()
	name := "comfyume-start-" + d.options.Studio + ".txt"
	status, answer, err := d.do(ctx, http.MethodGet, "/view?type=temp&filename="+url.QueryEscape(name), nil)
	if err != nil {
		return "", err
	}
	if status == http.StatusOK && len(answer) > 0 && len(answer) <= 64 {
		word = string(answer)
	} else {
		word = uuid.NewString()
		_, err := d.upload(ctx, "temp", "", name, int64(len(word)), strings.NewReader(word))
		if err != nil {
			return "", fmt.Errorf("writing into the server's temp folder: %w", err)
		}
	}
	d.epochs.set(word, doubts)
	return word, nil
}

// ensureUploads sees to it that the server has the input files of a run. Names are made of the content, so what is
// there is right; only its size is compared, for a transfer that was cut. What is there is not sent again: a run of ours
// may be reading it, and ComfyUI empties a file before it writes it anew. fresh uploads them whatever we believe.
func (d *Driver) ensureUploads(ctx context.Context, epoch string, uploads []backend.Upload, fresh bool) error {
	for _, u := range uploads {
		if err := d.ensureUpload(ctx, epoch, u, fresh); err != nil {
			return err
		}
	}
	return nil
}

func (d *Driver) ensureUpload(ctx context.Context, epoch string, u backend.Upload, fresh bool) error {
	key := u.Subfolder + "/" + u.Name
	if !fresh && d.epochs.knows(key, u.Size) {
		return nil
	}
	done, err := d.epochs.send(ctx, key)
	if err != nil {
		return err
	}
	defer done()
	if !fresh && (d.epochs.knows(key, u.Size) || d.hasFile(ctx, u)) {
		d.epochs.learn(epoch, key, u.Size)
		return nil
	}
	d.epochs.forget(key)
	err = d.sendFile(ctx, u)
	if errors.Is(err, backend.ErrUnreachable) && ctx.Err() == nil { // a kept connection may have been closed just now
		err = d.sendFile(ctx, u)
	}
	if err != nil {
		return err
	}
	d.epochs.learn(epoch, key, u.Size)
	return nil
}

// hasFile reports whether the server has the file in its full size.
func (d *Driver) hasFile(ctx context.Context, u backend.Upload) bool {
	ctx, cancel := context.WithTimeout(ctx, d.options.RequestTimeout)
	defer cancel()
	q := url.Values{"filename": {u.Name}, "subfolder": {u.Subfolder}, "type": {"input"}}
	resp, stop, err := d.open(ctx, http.MethodHead, "/view?"+q.Encode(), "", nil, 0)
	if err != nil {
		return false // the upload will meet the same trouble and report it
	}
	defer stop(nil)
	drop(resp)
	return resp.StatusCode == http.StatusOK && resp.ContentLength == u.Size
}

func (d *Driver) sendFile(ctx context.Context, u backend.Upload) error {
	body, err := u.Open()
	if err != nil {
		return fmt.Errorf("opening input %s: %w", u.Name, err)
	}
	defer body.Close()
	status, err := d.upload(ctx, "input", u.Subfolder, u.Name, u.Size, body)
	if status == http.StatusRequestEntityTooLarge {
		return refusal("input_too_large", fmt.Sprintf("An input file of %d bytes is larger than the back end takes.", u.Size))
	}
	if err != nil {
		return fmt.Errorf("uploading input %s: %w", u.Name, err)
	}
	return nil
}

// refusal is a Refused in the form of the server's own.
func refusal(typ, message string) *backend.Refused {
	body := append([]byte(`{"error": {"type": `), pyjson.Quote(typ)...)
	body = append(append(body, `, "message": `...), pyjson.Quote(message)...)
	return &backend.Refused{Body: append(body, `, "details": "", "extra_info": {}}, "node_errors": {}}`...)}
}

// upload sends one file, without holding it in memory. It is given up when the server takes nothing for a while.
func (d *Driver) upload(ctx context.Context, typ, subfolder, name string, size int64, r io.Reader) (status int, err error) {
	var head bytes.Buffer
	form := multipart.NewWriter(&head)
	for _, f := range [][2]string{{"type", typ}, {"subfolder", subfolder}, {"overwrite", "true"}} {
		if err := form.WriteField(f[0], f[1]); err != nil {
			return 0, err
		}
	}
	part := textproto.MIMEHeader{
		"Content-Disposition": {`form-data; name="image"; filename=` + strconv.Quote(name)},
		"Content-Type":        {"application/octet-stream"},
	}
	if _, err := form.CreatePart(part); err != nil {
		return 0, err
	}
	tail := "\r\n--" + form.Boundary() + "--\r\n"
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	file := newPaced(r, d.options.StallTimeout, cancel)
	defer file.stall.Stop()
	total := int64(head.Len()) + size + int64(len(tail))
	resp, stop, err := d.open(ctx, http.MethodPost, "/upload/image", form.FormDataContentType(),
		io.MultiReader(&head, file, strings.NewReader(tail)), total)
	if err != nil {
		return 0, err
	}
	defer stop(nil)
	drop(resp)
	if resp.StatusCode != http.StatusOK {
		return resp.StatusCode, errStatus("POST /upload/image", resp)
	}
	return resp.StatusCode, nil
}
