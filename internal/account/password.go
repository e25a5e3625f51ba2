package account

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/argon2"

	"github.com/ahelme/comfyume/internal/fault"
)

// Cost is what one hash costs. A hash keeps the cost it was made with; it is made anew at the next sign-in.
type Cost struct {
	MemoryKiB uint32
	Passes    uint32
	Lanes     uint8
}

const (
	saltSize    = 16
	keySize     = 32
	maxWaiting  = 512 // more than so many people at once are asked to come again
	minPassword = 8
	maxPassword = 256
)

// hasher makes and checks argon2id hashes, as many at once as there are processors: a class of 40 that signs in
// together would take 40 times 19 MiB otherwise.
type hasher struct {
	cost    Cost
	slots   chan struct{}
	waiting atomic.Int64
	dummy   string // checked for names that are not there, so that both take the same time
}

func newHasher(c Cost) *hasher {
	if c.MemoryKiB == 0 {
		c.MemoryKiB = 19 * 1024
	}
	if c.Passes == 0 {
		c.Passes = 2
	}
	if c.Lanes == 0 {
		c.Lanes = 1
	}
	h := &hasher{cost: c, slots: make(chan struct{}, runtime.GOMAXPROCS(0))}
	h.dummy = phc(c, random(saltSize), random(keySize))
	return h
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// hash returns the PHC string of secret.
func (h *hasher) hash(ctx context.Context, secret string) (string, error) {
	salt := random(saltSize)
	key, err := h.key(ctx, secret, salt, h.cost, keySize)
	if err != nil {
		return "", err
	}
	return phc(h.cost, salt, key), nil
}

// verify reports whether secret fits stored, and whether stored was made at another cost than today's. An empty
// stored fits nothing and takes as long.
func (h *hasher) verify(ctx context.Context, stored, secret string) (ok, stale bool, err error) {
	known := stored != ""
	if !known {
		stored = h.dummy
	}
	cost, salt, want, err := parsePHC(stored)
	if err != nil {
		return false, false, err
	}
	got, err := h.key(ctx, secret, salt, cost, uint32(len(want)))
	if err != nil {
		return false, false, err
	}
	return subtle.ConstantTimeCompare(got, want) == 1 && known, cost != h.cost, nil
}

func (h *hasher) key(ctx context.Context, secret string, salt []byte, c Cost, size uint32) ([]byte, error) {
	if h.waiting.Add(1) > maxWaiting {
		h.waiting.Add(-1)
		e := fault.New(fault.Busy, "Very many people sign in at this moment.").
			WithRemedy("Try again in a few seconds.")
		e.RetryAfter = 5 * time.Second
		return nil, e
	}
	defer h.waiting.Add(-1)
	select {
	case h.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-h.slots }()
	return argon2.IDKey([]byte(secret), salt, c.Passes, c.MemoryKiB, c.Lanes, size), nil
}

func phc(c Cost, salt, key []byte) string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, c.MemoryKiB, c.Passes, c.Lanes,
		b64.EncodeToString(salt), b64.EncodeToString(key))
}

// parsePHC reads what phc wrote. It bounds the cost, so that a row somebody changed can't take the machine down.
func parsePHC(s string) (c Cost, salt, key []byte, err error) {
	bad := func(why string) (Cost, []byte, []byte, error) {
		return Cost{}, nil, nil, fmt.Errorf("stored password hash: %s", why)
	}
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" {
		return bad("not argon2id")
	}
	if parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return bad("unknown version")
	}
	var lanes uint32
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &c.MemoryKiB, &c.Passes, &lanes); err != nil || n != 3 {
		return bad("unreadable cost")
	}
	if c.MemoryKiB < 8 || c.MemoryKiB > 1<<20 || c.Passes < 1 || c.Passes > 32 || lanes < 1 || lanes > 16 {
		return bad("cost out of bounds")
	}
	c.Lanes = uint8(lanes)
	if salt, err = base64.RawStdEncoding.DecodeString(parts[4]); err != nil || len(salt) < 8 {
		return bad("unreadable salt")
	}
	if key, err = base64.RawStdEncoding.DecodeString(parts[5]); err != nil || len(key) < 16 || len(key) > 64 {
		return bad("unreadable key")
	}
	return c, salt, key, nil
}

// checkPassword returns why a password is not taken.
func checkPassword(p string) error {
	switch {
	case len(p) < minPassword:
		return fault.New(fault.Invalid, "The password has fewer than %d characters.", minPassword).
			WithRemedy("Take a longer one, such as three words.").WithCode("bad_password")
	case len(p) > maxPassword:
		return fault.New(fault.Invalid, "The password has more than %d characters.", maxPassword).
			WithCode("bad_password")
	}
	return nil
}
