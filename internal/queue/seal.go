package queue

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/json"
	"fmt"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
)

// Sealer encrypts credentials of paid nodes, so that they never reach the disk in clear.
type Sealer interface {
	// Seal encrypts plain; the result opens only together with bound.
	Seal(plain, bound []byte) ([]byte, error)
	// Open undoes Seal.
	Open(sealed, bound []byte) ([]byte, error)
}

// NewSealer returns a Sealer with AES-256-GCM under the studio's key of 32 bytes.
func NewSealer(key []byte) (Sealer, error) {
	if len(key) != 32 {
		return nil, fmt.Errorf("the studio's key has %d bytes, not 32", len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("use the studio's key: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("use the studio's key: %w", err)
	}
	return gcm{aead}, nil
}

type gcm struct{ aead cipher.AEAD }

func (g gcm) Seal(plain, bound []byte) ([]byte, error) {
	return g.aead.Seal(nil, nil, plain, bound), nil
}

func (g gcm) Open(sealed, bound []byte) ([]byte, error) {
	return g.aead.Open(nil, nil, sealed, bound)
}

// seal encrypts the credentials of a job.
func seal(s Sealer, id job.ID, credentials map[string]string) ([]byte, error) {
	if s == nil {
		return nil, fault.New(fault.Unavailable, "The studio has no key to keep the credentials of paid nodes safe.").
			WithRemedy("Tell the operator.").WithCode("no_sealer")
	}
	plain, err := json.Marshal(credentials)
	if err != nil {
		return nil, fmt.Errorf("encode the credentials of a job: %w", err)
	}
	sealed, err := s.Seal(plain, []byte(id))
	if err != nil {
		return nil, fmt.Errorf("seal the credentials of a job: %w", err)
	}
	return sealed, nil
}

// unseal undoes seal. No sealed bytes give no credentials.
func unseal(s Sealer, id job.ID, sealed []byte) (map[string]string, error) {
	if len(sealed) == 0 {
		return nil, nil
	}
	if s == nil {
		return nil, fault.New(fault.Unavailable, "The studio has no key to open the credentials of a paid node.").WithCode("no_sealer")
	}
	plain, err := s.Open(sealed, []byte(id))
	if err != nil {
		return nil, fmt.Errorf("open the credentials of a job: %w", err)
	}
	var out map[string]string
	if err := json.Unmarshal(plain, &out); err != nil {
		return nil, fmt.Errorf("decode the credentials of a job: %w", err)
	}
	return out, nil
}
