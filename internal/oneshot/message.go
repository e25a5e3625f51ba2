package oneshot

import (
	"encoding/binary"
	"encoding/json"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/job"
)

// Hello begins an answer.
type Hello struct {
	Protocol  int    `json:"protocol"`
	Agent     string `json:"agent"`           // its version
	Container string `json:"container"`       // names this start of the agent
	Epoch     string `json:"epoch,omitempty"` // names the start of its ComfyUI; empty: not known yet
	Run       string `json:"run"`
	Info      string `json:"info,omitempty"` // hash of what it can run; empty: not read yet
	First     int64  `json:"first"`          // number of the first frame that follows
	Gap       bool   `json:"gap,omitempty"`  // frames before it that matter are gone
	Again     bool   `json:"again,omitempty"`
}

// Posted says that the ComfyUI accepted the prompt.
type Posted struct {
	Epoch string `json:"epoch"` // the start of the ComfyUI that has it
}

// Beat is a sign of life.
type Beat struct {
	AfterMS int64  `json:"after_ms"` // since the container was given the job
	Phase   string `json:"phase"`    // waiting, running or over
}

// The phases of a job in a container.
const (
	PhaseWaiting = "waiting" // inputs, queue
	PhaseRunning = "running"
	PhaseOver    = "over"
)

// opening names a file of a run, or an input by its number.
type opening struct {
	N   int             `json:"n"`
	Ref backend.FileRef `json:"ref"` // of files
}

// closing is what a file has to be.
type closing struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // in hexadecimal
}

// kept names a file that was left in storage.
type kept struct {
	opening
	closing
	Name string `json:"name"` // in storage
}

// ending closes a stream: so many inputs, or files, there are.
type ending struct {
	Files int `json:"files"`
}

// result is backend.Result.
type result struct {
	State    job.State       `json:"state"`
	Outputs  json.RawMessage `json:"outputs"`
	Messages json.RawMessage `json:"messages"`
	Meta     json.RawMessage `json:"meta"`
	Gap      bool            `json:"gap,omitempty"`
}

// appendFrame appends the payload of a frame's record: its number, type, node and body.
func appendFrame(b []byte, n int64, u backend.Update) []byte {
	b = binary.AppendVarint(b, n)
	for _, s := range []string{u.Type, u.Node} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	if u.Binary != nil {
		return append(b, u.Binary...)
	}
	return append(b, u.Data...)
}

// frameRecord returns the record of a frame, nil when it is too long for one.
func frameRecord(n int64, u backend.Update) []byte {
	k := kindFrame
	if u.Binary != nil {
		k = kindBinary
	}
	b := appendFrame(make([]byte, headSize, headSize+len(u.Data)+len(u.Binary)+len(u.Type)+len(u.Node)+16), n, u)
	if len(b)-headSize > k.limit() {
		return nil
	}
	return seal(k, b)
}

// maxWord bounds types and node ids.
const maxWord = 1 << 10

// parseFrame reads the payload of a frame's record. The update shares nothing with it.
func parseFrame(k kind, b []byte) (n int64, u backend.Update, err error) {
	n, size := binary.Varint(b)
	if size <= 0 || n < 0 {
		return 0, u, corrupt("a frame without number")
	}
	b = b[size:]
	for _, s := range []*string{&u.Type, &u.Node} {
		length, size := binary.Uvarint(b)
		if size <= 0 || length > maxWord || length > uint64(len(b)-size) {
			return 0, u, corrupt("a frame whose type or node is cut")
		}
		b = b[size:]
		*s = string(b[:length])
		b = b[length:]
	}
	body := append(make([]byte, 0, len(b)), b...)
	if k == kindBinary {
		u.Binary = body
		return n, u, nil
	}
	if len(body) == 0 { // some frames have only a type
		return n, u, nil
	}
	if !pyjson.Valid(body) {
		return 0, u, corrupt("a frame that is not JSON")
	}
	u.Data = body
	return n, u, nil
}
