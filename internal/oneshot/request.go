package oneshot

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/handover"
)

// Request is a job as it travels: what backend.Task has, and what only matters on the way.
type Request struct {
	Run       string          `json:"run"` // backend.Task.Attempt.RunID
	Prompt    json.RawMessage `json:"prompt"`
	ExtraData json.RawMessage `json:"extra_data,omitempty"`
	Targets   []string        `json:"targets,omitempty"`
	Outputs   []string        `json:"outputs,omitempty"`
	Core      bool            `json:"core,omitempty"`
	Previews  bool            `json:"previews,omitempty"`
	Inputs    []Input         `json:"inputs,omitempty"`
	Store     string          `json:"store,omitempty"`     // leave the outputs in the container's storage, if it has one, under this name of a run
	StoreID   string          `json:"store_id,omitempty"`  // what the caller's storage is marked with; another one here: not that storage
	CallBack  *CallBack       `json:"call_back,omitempty"` // where progress is told
	Deadline  time.Duration   `json:"deadline,omitempty"`  // a run that takes longer is interrupted; ns, 0: never
	Grace     time.Duration   `json:"grace,omitempty"`     // how long it goes on when nobody is connected; ns, 0: the container's own
}

// Input is a file that the graph reads. Its bytes come along only if Sent is set, and are in storage if Stored is: a
// container that has no file of this name and size, and can't have it from there, says so, and is asked again with them.
type Input struct {
	Name      string `json:"name"`
	Subfolder string `json:"subfolder,omitempty"`
	Size      int64  `json:"size"`
	Sent      bool   `json:"sent,omitempty"`
	Stored    string `json:"stored,omitempty"` // its name in storage, by handover.InputName
	SHA256    string `json:"sha256,omitempty"` // of what is stored, in lower-case hex
}

// CallBack is where a container tells the progress of one run, with a token that is good for nothing else.
type CallBack struct {
	URL    string `json:"url"`
	Token  string `json:"token"`
	Frames bool   `json:"frames,omitempty"` // tell frames too, not only that it lives: the answer can't stream
}

// Bounds of a request.
const (
	maxInputs   = 256
	maxTargets  = 10_000
	maxCallBack = 2048
	maxRunID    = 64
)

// validRun reports whether s can name a run: it becomes part of addresses and of names in storage.
func validRun(s string) bool {
	if s == "" || len(s) > maxRunID {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' {
			return false
		}
	}
	return true
}

const maxStoreID = 200

// sha256Hex is how hashes are written.
var sha256Hex = regexp.MustCompile(`^[0-9a-f]{64}$`)

// check reports what is wrong with a request before any of it is used.
func (q *Request) check(maxBytes int64) error {
	switch {
	case !validRun(q.Run):
		return fault.New(fault.Invalid, "The run id of the request is not made of 1 to %d letters, digits and dashes.", maxRunID)
	case len(q.Prompt) == 0 || q.Prompt[0] != '{':
		return fault.New(fault.Invalid, "The prompt of the request is no JSON object.")
	case len(q.Inputs) > maxInputs:
		return fault.New(fault.Invalid, "The request has %d inputs; at most %d are taken.", len(q.Inputs), maxInputs)
	case len(q.Targets) > maxTargets || len(q.Outputs) > maxTargets:
		return fault.New(fault.Invalid, "The request names more than %d targets or outputs.", maxTargets)
	case len(q.Store) > 2*maxRunID || strings.ContainsFunc(q.Store, func(c rune) bool { return c != '_' && c != '-' && (c > 'z' || !validRun(string(c))) }):
		return fault.New(fault.Invalid, "The request's name of a run in storage is not made of letters, digits, dashes and underscores.")
	case handover.IsInput(q.Store):
		return fault.New(fault.Invalid, "The request's name of a run in storage is that of an input.")
	case len(q.StoreID) > maxStoreID:
		return fault.New(fault.Invalid, "The request's mark of a storage has more than %d bytes.", maxStoreID)
	case q.Deadline < 0 || q.Grace < 0:
		return fault.New(fault.Invalid, "The deadline or the grace of the request is below 0.")
	}
	total := int64(0)
	for _, in := range q.Inputs {
		if err := in.check(); err != nil {
			return err
		}
		if total += in.Size; in.Size < 0 || total > maxBytes || total < 0 {
			return fault.New(fault.Invalid, "The inputs of the request are larger than the %d MB that are taken.", maxBytes>>20).
				WithRemedy("Raise the agent's limit of inputs, or use smaller files.")
		}
	}
	if q.CallBack != nil {
		u, err := url.Parse(q.CallBack.URL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || len(q.CallBack.URL) > maxCallBack {
			return fault.New(fault.Invalid, "The call-back of the request is no http address.")
		}
	}
	return nil
}

// check refuses names that could lead out of the ComfyUI's folder of inputs.
func (in Input) check() error {
	bad := in.Name == "" || len(in.Name) > 255 || in.Name == "." || in.Name == ".." || strings.ContainsAny(in.Name, "/\\:\x00") ||
		len(in.Subfolder) > 255 || strings.ContainsAny(in.Subfolder, "\\:\x00")
	if in.Subfolder != "" {
		for part := range strings.SplitSeq(in.Subfolder, "/") {
			bad = bad || part == "" || part == "." || part == ".."
		}
	}
	if bad {
		return fault.New(fault.Invalid, "The input %q in %q is not the name of a file below the folder of inputs.", clip(in.Name), clip(in.Subfolder))
	}
	// An address in storage is that of an input: never that of what another job gave.
	if in.Stored != "" && (!handover.IsInput(in.Stored) || !sha256Hex.MatchString(in.SHA256) || in.Sent) {
		return fault.New(fault.Invalid, "The input %q is not where inputs are in storage, or has no hash.", clip(in.Name))
	}
	return nil
}

// clip shortens what others wrote for a sentence.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// Body returns the body of a POST /run and its length. uploads are those of the task, one for each of q.Inputs in
// their order; only those that are to be sent are opened, when their turn comes.
func Body(q Request, uploads []backend.Upload) (io.ReadCloser, int64, error) {
	head, err := jsonRecord(kindHeader, q)
	if err != nil {
		return nil, 0, fault.Wrap(fault.Invalid, err, "The graph is too large to be sent in one request.")
	}
	b := &body{}
	b.parts = append(b.parts, strings.NewReader(preface), bytes.NewReader(head))
	length := int64(len(preface) + len(head))
	sent := 0
	for i, in := range q.Inputs {
		if !in.Sent {
			continue
		}
		sent++
		r, err := newInputReader(i, uploads[i])
		if err != nil {
			return nil, 0, err
		}
		b.parts = append(b.parts, r)
		length += r.length()
	}
	end, err := jsonRecord(kindEnd, ending{Files: sent})
	if err != nil {
		return nil, 0, err
	}
	b.parts = append(b.parts, bytes.NewReader(end))
	return b, length + int64(len(end)), nil
}

// body is the parts of a request one after the other.
type body struct{ parts []io.Reader }

// Read reads the next bytes.
func (b *body) Read(p []byte) (int, error) {
	for len(b.parts) > 0 {
		n, err := b.parts[0].Read(p)
		if err == io.EOF {
			b.parts[0], err = nil, nil
			b.parts = b.parts[1:]
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
	return 0, io.EOF
}

// Close closes what was opened and not read to its end.
func (b *body) Close() error {
	for _, p := range b.parts {
		if c, ok := p.(*inputReader); ok {
			c.close()
		}
	}
	b.parts = nil
	return nil
}

// inputReader gives the records of one input.
type inputReader struct {
	upload backend.Upload
	src    io.ReadCloser
	hash   hash.Hash
	left   int64
	out    []byte // what is to be given next
	buf    []byte
	over   bool
}

func newInputReader(n int, u backend.Upload) (*inputReader, error) {
	open, err := jsonRecord(kindOpen, opening{N: n})
	if err != nil {
		return nil, err
	}
	return &inputReader{upload: u, hash: sha256.New(), left: u.Size, out: open}, nil
}

// length is how many bytes all its records have.
func (r *inputReader) length() int64 {
	size := r.upload.Size
	close, err := jsonRecord(kindClose, closing{Size: size, SHA256: strings.Repeat("0", 2*sha256.Size)})
	if err != nil {
		return -1 // a number and a text always marshal
	}
	return int64(len(r.out)+len(close)) + size + (size+chunkSize-1)/chunkSize*headSize
}

// Read gives the next bytes of the records.
func (r *inputReader) Read(p []byte) (int, error) {
	if len(r.out) == 0 {
		if r.over {
			return 0, io.EOF
		}
		if err := r.fill(); err != nil {
			r.close()
			return 0, err
		}
	}
	n := copy(p, r.out)
	r.out = r.out[n:]
	return n, nil
}

// fill makes the next record.
func (r *inputReader) fill() (err error) {
	if r.src == nil {
		if r.src, err = r.upload.Open(); err != nil {
			return fmt.Errorf("opening input %s: %w", r.upload.Name, err)
		}
		r.buf = make([]byte, headSize+min(r.left, chunkSize))
	}
	if r.left > 0 {
		b := r.buf[:headSize+min(r.left, chunkSize)]
		if _, err := io.ReadFull(r.src, b[headSize:]); err != nil {
			return fmt.Errorf("input %s is shorter than the %d bytes that it should have: %w", r.upload.Name, r.upload.Size, err)
		}
		r.hash.Write(b[headSize:])
		r.left -= int64(len(b) - headSize)
		r.out = seal(kindData, b)
		return nil
	}
	r.close()
	r.over = true
	r.out, err = jsonRecord(kindClose, closing{Size: r.upload.Size, SHA256: hex.EncodeToString(r.hash.Sum(nil))})
	return err
}

func (r *inputReader) close() {
	if r.src != nil {
		r.src.Close() //nolint:errcheck // it was only read
		r.src = nil
	}
	r.buf = nil
}

// ReadRequest reads a request from r. maxBytes bounds its inputs together. keep is called for each input that was sent
// along, with its number, and gives where its bytes go; they are right when ReadRequest returns without an error.
func ReadRequest(r io.Reader, maxBytes int64, keep func(n int, in Input) (io.WriteCloser, error)) (Request, error) {
	var q Request
	in := newReader(r)
	if err := in.preface(); err != nil {
		return q, err
	}
	if err := in.into(kindHeader, &q); err != nil {
		return q, err
	}
	if err := q.check(maxBytes); err != nil {
		return q, err
	}
	sent := 0
	for i, input := range q.Inputs {
		if !input.Sent {
			continue
		}
		sent++
		var o opening
		if err := in.into(kindOpen, &o); err != nil {
			return q, err
		}
		if o.N != i {
			return q, corrupt("input %d where %d had to come", o.N, i)
		}
		w, err := keep(i, input)
		if err != nil {
			return q, err
		}
		err = readFile(in, w, input.Size)
		if closed := w.Close(); err == nil {
			err = closed
		}
		if err != nil {
			return q, err
		}
	}
	var end ending
	if err := in.into(kindEnd, &end); err != nil {
		return q, err
	}
	if end.Files != sent {
		return q, corrupt("%d inputs came, %d were sent", sent, end.Files)
	}
	return q, nil
}

// readFile reads the bytes of a file of known size up to its closing, and checks them.
func readFile(in *reader, w io.Writer, size int64) error {
	sum, n := sha256.New(), int64(0)
	for {
		k, payload, err := in.next()
		if err != nil {
			return err
		}
		switch k {
		case kindData:
			if n += int64(len(payload)); n > size {
				return corrupt("a file has more than its %d bytes", size)
			}
			sum.Write(payload)
			if _, err := w.Write(payload); err != nil {
				return err
			}
		case kindClose:
			var c closing
			if err := decode(k, payload, &c); err != nil {
				return err
			}
			return c.verify(n, sum, size)
		default:
			return corrupt("a record of kind %q inside of a file", byte(k))
		}
	}
}

// verify compares what came with what had to come. want is the size that was told before, -1 for none.
func (c closing) verify(n int64, sum hash.Hash, want int64) error {
	if c.Size != n || want >= 0 && want != n {
		return corrupt("a file of %d bytes, where %d had to come", n, c.Size)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != c.SHA256 {
		return corrupt("a file with the SHA-256 %s, where %s had to come", got, clip(c.SHA256))
	}
	return nil
}
