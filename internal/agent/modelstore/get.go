package modelstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/volume"
)

// Want is a file that is to be brought.
type Want struct {
	Folder string `json:"folder"`
	Name   string `json:"name"` // empty: as the address calls it
	URL    string `json:"url"`
	SHA256 string `json:"sha256"` // lower-case hex; empty: whatever comes
}

const (
	tries       = 6           // in a row that brought nothing
	stall       = time.Minute // without a byte ends a try
	checkpoints = 64 << 20    // bytes between two looks at the room that is left
)

// firstPause is the first pause after a try that failed, doubled each time.
const firstPause = 500 * time.Millisecond

var hexSum = regexp.MustCompile(`^[0-9a-f]{64}$`)

// newClient returns a client that has no end for the whole, but for each step.
func newClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 15 * time.Second,
			DialContext:           (&net.Dialer{Timeout: 15 * time.Second}).DialContext,
			ResponseHeaderTimeout: time.Minute, IdleConnTimeout: time.Minute,
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > 9 || r.URL.Scheme != "https" && r.URL.Scheme != "http" {
				return fmt.Errorf("redirected to %s", r.URL.Scheme)
			}
			if via[0].URL.Scheme == "https" && r.URL.Scheme != "https" {
				return errors.New("redirected to an address without encryption")
			}
			return nil // the standard library takes the key off where the host is another
		},
	}
}

// Get brings a file: into its folder, or into what is there of it. tell is told how far it is; state is a word for what
// goes on.
func (s *Store) Get(ctx context.Context, want Want, tell func(state string, at, total int64)) (Model, error) {
	from, err := url.Parse(want.URL)
	if err != nil || from.Host == "" || from.Scheme != "https" && from.Scheme != "http" || from.User != nil {
		return Model{}, fault.New(fault.Invalid, "The address to fetch from has to begin with https:// and to hold no name or password.").
			WithCode("bad_url")
	}
	if want.Name == "" {
		want.Name = path.Base(from.Path)
	}
	want.SHA256 = strings.ToLower(want.SHA256)
	if want.SHA256 != "" && !hexSum.MatchString(want.SHA256) {
		return Model{}, fault.New(fault.Invalid, "sha256 %q is not 64 hexadecimal digits.", want.SHA256).WithCode("bad_hash")
	}
	at, err := s.place(want.Folder, want.Name)
	if err != nil {
		return Model{}, err
	}
	unlock, err := s.lock(at)
	if err != nil {
		return Model{}, err
	}
	defer unlock()
	if there, info, err := at.find(); err == nil {
		return s.already(ctx, want, there, info, tell)
	}
	if err := os.MkdirAll(at.dir, 0o755); err != nil { // a folder that ComfyUI reads, and nobody has made yet
		return Model{}, cannotWrite(err, want.Folder)
	}
	root, err := os.OpenRoot(at.dir)
	if err != nil {
		return Model{}, cannotWrite(err, want.Folder)
	}
	defer root.Close()
	d := &download{store: s, want: want, at: at, root: root, tell: tell, sum: sha256.New()}
	return d.run(ctx)
}

// already answers for a file that is there.
func (s *Store) already(ctx context.Context, want Want, at place, info fs.FileInfo, tell func(string, int64, int64)) (Model, error) {
	m := Model{Folder: want.Folder, Name: want.Name, Size: info.Size(), Modified: info.ModTime().UTC()}
	if real, err := os.Stat(at.path()); err == nil {
		m.Size, m.SHA256 = real.Size(), s.hashes.known(at.path(), real)
	}
	if want.SHA256 == "" {
		return Model{}, fault.New(fault.Conflict, "There is a model %s in %s already.", want.Name, want.Folder).WithCode("exists").
			WithRemedy("Remove it first, choose another name with --name, or name its hash with --sha256 to see whether it is the same.")
	}
	if m.SHA256 == "" {
		var err error
		if m.SHA256, err = s.hashes.compute(ctx, at.path(), func(n int64) { tell("checking", n, m.Size) }); err != nil {
			return Model{}, fmt.Errorf("reading the model that is there: %w", err)
		}
	}
	if m.SHA256 != want.SHA256 {
		return Model{}, fault.New(fault.Conflict, "There is another model %s in %s, with sha256 %s.", want.Name, want.Folder, m.SHA256).WithCode("exists").
			WithRemedy("Remove it first, or choose another name with --name.")
	}
	return m, nil
}

func cannotWrite(err error, folder string) error {
	if volume.IsFull(err) {
		return fault.Wrap(fault.Unavailable, err, "The disk is full.").WithCode("disk_full").
			WithRemedy("Make room, and ask for the same again: what came so far is kept.")
	}
	return fault.Wrap(fault.Unavailable, err, "The folder %s can't be written.", folder).WithCode("not_writable").
		WithRemedy("See that the agent's account may write there.")
}

// download is one file on its way.
type download struct {
	store   *Store
	want    Want
	at      place
	root    *os.Root
	tell    func(state string, at, total int64)
	note    note // of what is there
	sum     hash.Hash
	have    int64 // bytes that are there and in sum
	total   int64 // 0: not known
	checked int64 // at which place the room was looked at
}

func (d *download) run(ctx context.Context) (Model, error) {
	if dir := path.Dir(d.want.Name); dir != "." {
		if err := d.root.MkdirAll(dir, 0o755); err != nil {
			return Model{}, cannotWrite(err, d.want.Folder)
		}
	}
	part, err := d.open(ctx)
	if err != nil {
		return Model{}, err
	}
	defer part.Close()
	pause := firstPause
	for failed := 0; ; {
		before := d.have
		err := d.try(ctx, part)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return Model{}, context.Cause(ctx)
		}
		if _, ours := errors.AsType[*writeError](err); ours {
			return Model{}, cannotWrite(err, d.want.Folder)
		}
		if fault.KindOf(err) != fault.Internal { // told apart already, and no matter of trying again
			return Model{}, err
		}
		if d.have > before {
			failed, pause = 0, firstPause
		}
		if failed++; failed >= tries {
			return Model{}, fault.Wrap(fault.Unavailable, err, "%s can't be fetched from %s.", d.want.Name, hostOf(d.want.URL)).WithCode("fetch_failed").
				WithRemedy("See the address and the network, and ask for the same again: what came so far is kept.")
		}
		d.tell("waiting", d.have, d.total)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return Model{}, context.Cause(ctx)
		}
		pause *= 2
	}
	return d.finish(part)
}

func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "there"
	}
	return u.Hostname()
}

// try asks for what is missing.
func (d *download) try(ctx context.Context, part *os.File) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	still := time.AfterFunc(stall, func() { cancel(fmt.Errorf("nothing came for %v", stall)) })
	defer still.Stop()
	resp, err := d.ask(ctx)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusOK:
		if err := d.begin(part); err != nil {
			return err
		}
		d.total = max(resp.ContentLength, 0)
	case resp.StatusCode == http.StatusPartialContent && rangeFrom(resp) == d.have:
		d.total = d.have + max(resp.ContentLength, 0)
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && d.have > 0, resp.StatusCode == http.StatusPartialContent:
		if err := d.begin(part); err != nil {
			return err
		}
		return errors.New("the server has less of it than came before")
	default:
		return d.refused(resp)
	}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
		return fault.New(fault.Invalid, "%s answered with a page, not with a file.", hostOf(d.want.URL)).WithCode("not_a_file").
			WithRemedy("Use the address of the download itself. A model that asks for a licence needs a token: name one for %s in the agent's settings.", hostOf(d.want.URL))
	}
	d.note = note{URL: d.want.URL, ETag: resp.Header.Get("ETag"), Modified: resp.Header.Get("Last-Modified"), Total: d.total}
	if err := d.note.write(d.root, d.want.Name); err != nil {
		return &writeError{err}
	}
	if err := d.room(d.total - d.have); err != nil {
		return err
	}
	err = copyTo(ctx, io.MultiWriter(part, d.sum, counter{&d.have}), resp.Body, d.have, func(int64) {
		still.Reset(stall)
		d.tell("fetching", d.have, d.total)
		if d.have-d.checked > checkpoints {
			d.checked = d.have
			if err := d.room(max(d.total-d.have, checkpoints)); err != nil {
				cancel(err)
			}
		}
	})
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	if d.total > 0 && d.have != d.total {
		return fmt.Errorf("%d of %d bytes came", d.have, d.total)
	}
	return nil
}

// counter counts what is written.
type counter struct{ n *int64 }

func (c counter) Write(p []byte) (int, error) {
	*c.n += int64(len(p))
	return len(p), nil
}

// ask sends the request for what is missing.
func (d *download) ask(ctx context.Context) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, d.want.URL, nil)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "The address to fetch from is none.").WithCode("bad_url")
	}
	r.Header.Set("User-Agent", "comfyume")
	r.Header.Set("Accept-Encoding", "identity")
	if same := d.note.same(); d.have > 0 && same != "" {
		r.Header.Set("Range", "bytes="+strconv.FormatInt(d.have, 10)+"-")
		r.Header.Set("If-Range", same)
	}
	key, err := d.store.options.Key(r.URL.Hostname())
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "The token for %s can't be read.", r.URL.Hostname()).WithCode("bad_token").
			WithRemedy("Set what the agent's settings name for it.")
	}
	if ip := net.ParseIP(r.URL.Hostname()); key != "" && (r.URL.Scheme == "https" || ip != nil && ip.IsLoopback()) {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	return d.store.client.Do(r)
}

// refused says what a status of no success means.
func (d *download) refused(resp *http.Response) error {
	host := hostOf(d.want.URL)
	switch code := resp.StatusCode; {
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return fault.New(fault.Denied, "%s wants to know who asks (status %d).", host, code).WithCode("needs_token").
			WithRemedy("Accept the model's licence there, and give the agent a key for %s: --model-key %s=env:NAME, or model_keys in its settings.", host, host)
	case code == http.StatusNotFound || code == http.StatusGone:
		return fault.New(fault.Missing, "%s has no such file (status %d).", host, code).WithCode("no_such_file").WithRemedy("See the address.")
	case code >= 400 && code < 500 && code != http.StatusTooManyRequests && code != http.StatusRequestTimeout:
		return fault.New(fault.Unavailable, "%s refused with status %d.", host, code).WithCode("fetch_failed").WithRemedy("See the address.")
	default:
		return fmt.Errorf("%s answered with status %d", host, code)
	}
}

// room refuses what the disk has no room for.
func (d *download) room(need int64) error {
	if need <= 0 {
		return nil
	}
	free, err := d.store.options.free(d.at.dir)
	if err != nil {
		return fmt.Errorf("looking at the room on the disk: %w", err)
	}
	if keep := d.store.options.KeepFree; free-need < keep {
		return fault.New(fault.Unavailable, "The disk has %s free, of which %s are kept, and %s needs %s more.", size(free), size(keep), d.want.Name, size(need)).
			WithCode("disk_full").WithRemedy("Make room, such as by removing a model, and ask for the same again: what came so far is kept.")
	}
	return nil
}

func size(n int64) string {
	switch {
	case n >= 10<<30:
		return strconv.FormatInt(n>>30, 10) + " GB"
	case n >= 10<<20:
		return strconv.FormatInt(n>>20, 10) + " MB"
	default:
		return strconv.FormatInt(n>>10, 10) + " KB"
	}
}

// rangeFrom returns where the part in an answer begins.
func rangeFrom(resp *http.Response) int64 {
	span, ok := strings.CutPrefix(resp.Header.Get("Content-Range"), "bytes ")
	first, _, found := strings.Cut(span, "-")
	n, err := strconv.ParseInt(first, 10, 64)
	if !ok || !found || err != nil {
		return -1
	}
	return n
}

// finish checks what came and gives it its name.
func (d *download) finish(part *os.File) (Model, error) {
	sum := hex.EncodeToString(d.sum.Sum(nil))
	if d.want.SHA256 != "" && sum != d.want.SHA256 {
		_, err := dropPart(d.at)
		return Model{}, fault.Wrap(fault.Conflict, err, "What came of %s has sha256 %s, not %s.", d.want.Name, sum, d.want.SHA256).WithCode("wrong_hash").
			WithRemedy("See the address and the hash. Nothing of it was kept.")
	}
	if err := part.Sync(); err != nil {
		return Model{}, cannotWrite(err, d.want.Folder)
	}
	if err := part.Close(); err != nil {
		return Model{}, cannotWrite(err, d.want.Folder)
	}
	if err := d.root.Rename(partName(d.want.Name), d.want.Name); err != nil {
		return Model{}, cannotWrite(err, d.want.Folder)
	}
	if err := d.root.Remove(noteName(d.want.Name)); err != nil {
		d.store.log.Warn("a note of a download stays", "name", d.want.Name, "err", err)
	}
	info, err := os.Stat(d.at.path())
	if err != nil {
		return Model{}, fmt.Errorf("looking at the new model: %w", err)
	}
	d.store.hashes.keep(d.at.path(), info, sum)
	d.store.log.Info("a model was brought", "folder", d.want.Folder, "name", d.want.Name, "size", info.Size(), "sha256", sum)
	d.store.options.Changed()
	return Model{Folder: d.want.Folder, Name: d.want.Name, Size: info.Size(), Modified: info.ModTime().UTC(), SHA256: sum}, nil
}
