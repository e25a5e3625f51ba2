// Package tunnel is the line between a studio and an agent that dials home: the agent opens one WebSocket to the studio,
// through whatever NAT and proxies are between, and the studio opens byte streams through it, to the ComfyUI beside the
// agent or to the agent itself. Both ends are here: Home and Join for the agent, Hub for the studio.
//
// One WebSocket message holds one frame of the multiplexer, or several whole ones. Each end says something at least
// every second, and an end that hears nothing for four seconds takes the line for lost. An agent opens no streams: one
// that tries is cut off, so that it can do nothing but answer what the studio asks.
package tunnel

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// Base is where the addresses for agents are, below the studio's own.
const Base = "/studio/agents/v1"

// Kind says where a stream leads.
type Kind byte

// The kinds of streams.
const (
	ComfyUI Kind = 1 // to the ComfyUI beside the agent, byte for byte
	Control Kind = 2 // to the agent's own control interface, HTTP/1.1
	Large   Kind = 3 // as ComfyUI, for large files: over a connection of its own where the way home lets one through
)

// String returns the kind's word for logs.
func (k Kind) String() string {
	switch k {
	case ComfyUI:
		return "comfyui"
	case Control:
		return "control"
	case Large:
		return "large"
	default:
		return fmt.Sprintf("kind %d", byte(k))
	}
}

// Hello is what an agent says of itself. All of it is for people to read, nothing is trusted.
type Hello struct {
	Version  string    `json:"version"`            // of the agent's program
	Machine  string    `json:"machine"`            // name of the machine it runs on
	OS       string    `json:"os"`                 // such as linux/amd64
	Instance string    `json:"instance,omitempty"` // random word of the agent's process; Home sets it
	Time     time.Time `json:"time,omitzero"`      // the agent's clock; Home and Join set it
}

// Credentials are what an agent joins a studio with. Key is a secret.
type Credentials struct {
	Name   string `json:"name"`   // of the back end
	Key    string `json:"key"`    // for Home; it is never shown again
	Studio string `json:"studio"` // id of the studio
}

// Codes of the errors of both ends.
const (
	CodeAddress     = "agent_address"     // nothing answers at the address
	CodeNotStudio   = "not_a_studio"      // something else answers there
	CodeKey         = "agent_key"         // the key is unknown or revoked
	CodeCertificate = "agent_certificate" // the studio's certificate is not trusted
	CodeClock       = "agent_clock"       // the certificate is not valid at the time of this machine's clock
	CodeProxy       = "agent_proxy"       // the proxy in between refuses
	CodeUpgrade     = "agent_upgrade"     // a proxy in between lets no web sockets through
	CodeCut         = "agent_cut"         // something in between cuts the line again and again
	CodeVersion     = "agent_version"     // the two ends speak different versions
	CodeApart       = "agent_apart"       // beside the line no connection of its own came about
	CodeTaken       = "agent_taken"       // another live agent has the name
	CodeNotLeading  = "not_leading"       // another server of the studio leads, and it can't be reached from this one
	CodeOffline     = "agent_offline"     // the studio has no line to the agent
	CodeNotJoined   = "agent_not_joined"  // no agent has joined under this name yet
	CodeHello       = "agent_hello"       // what the agent says of itself can't be read
)

const (
	protocol     = "comfyume.agent.1"  // the WebSocket's subprotocol; another number is another version
	headerHello  = "X-Comfyume-Agent"  // Hello, JSON in base64url
	headerStudio = "X-Comfyume-Studio" // id of the studio, in every answer of Hub
	bytesOnly    = "comfyume-bytes"    // what a connection beside the line is upgraded to
	headerToken  = "X-Comfyume-Token"  // of such a connection, in hexadecimal
	maxHello     = 2 << 10             // bytes of its JSON
	maxWord      = 128                 // bytes of each of its words
	maxAnswer    = 16 << 10            // bytes of an answer that is read whole
)

// Limits of a line.
const (
	beatEvery    = time.Second               // each end says something at least so often
	silentFor    = 4 * time.Second           // an end that heard nothing for so long takes the line for lost
	window       = 1 << 20                   // bytes of a stream that may be on their way
	maxStreams   = 48                        // of one agent at a time
	answerWithin = 15 * time.Second          // for the agent to take a stream and to reach its ComfyUI
	apartWithin  = 5 * time.Second           // of it, to reach the studio beside the line
	arriveWithin = time.Second               // for that connection to be taken, once the agent has it
	apartAgain   = 5 * time.Minute           // after that failed, before it is tried again
	writeWithin  = time.Minute               // for one frame to go out on a slow line
	greetWithin  = 10 * time.Second          // for the handshake
	patience     = 2*beatEvery + beatEvery/2 // how long an older line may be silent before a newer one takes its place
)

// encode returns h as a header's value.
func (h Hello) encode() string {
	raw, err := json.Marshal(h)
	if err != nil { // a time beyond the year 9999
		raw = []byte("{}")
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

func decodeHello(value string) (Hello, error) {
	var h Hello
	if base64.RawURLEncoding.DecodedLen(len(value)) > maxHello {
		return h, errors.New("it is too long")
	}
	raw, err := base64.RawURLEncoding.DecodeString(value)
	if err == nil {
		err = json.Unmarshal(raw, &h)
	}
	if err != nil {
		return Hello{}, err
	}
	return h, h.check()
}

// check bounds what an agent says of itself: it is shown to people and written into logs.
func (h *Hello) check() error {
	for name, word := range map[string]*string{"version": &h.Version, "machine": &h.Machine, "os": &h.OS, "instance": &h.Instance} {
		if len(*word) > maxWord {
			return fmt.Errorf("its %s is longer than %d bytes", name, maxWord)
		}
		*word = printable(*word)
	}
	if h.Instance == "" {
		return errors.New("its instance is missing")
	}
	return nil
}

// printable takes out what could end a line or colour a terminal.
func printable(s string) string {
	out := make([]rune, 0, len(s))
	for _, r := range s {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			r = '?'
		}
		out = append(out, r)
	}
	return string(out)
}

// refusal is an error as it crosses the line.
type refusal struct {
	Code   string `json:"code"`
	Detail string `json:"detail"`
	Remedy string `json:"remedy,omitempty"`
	Kind   string `json:"kind,omitempty"`
}

func refusalOf(err error) refusal {
	sentence, remedy := fault.Public(err)
	r := refusal{Detail: sentence, Remedy: remedy, Kind: fault.KindOf(err).String(), Code: fault.KindOf(err).String()}
	if e, ok := errors.AsType[*fault.Error](err); ok && e.Code != "" {
		r.Code = e.Code
	}
	return r
}

// fault returns the error that the other end meant.
func (r refusal) fault() *fault.Error {
	kind := fault.Internal
	for _, k := range []fault.Kind{fault.Invalid, fault.Denied, fault.Missing, fault.Conflict, fault.Busy, fault.Unavailable} {
		if k.String() == r.Kind {
			kind = k
		}
	}
	cut := func(s string) string { return printable(s[:min(len(s), 1000)]) }
	e := fault.New(kind, "%s", cut(r.Detail)).WithCode(cut(r.Code))
	if r.Remedy != "" {
		e = e.WithRemedy("%s", cut(r.Remedy))
	}
	return e
}
