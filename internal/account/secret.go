package account

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"math/big"
	"strings"
)

// TokenPrefix begins every personal token, so that people and scanners recognise one.
const TokenPrefix = "cm_"

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// spoken are the characters of class codes: nothing that looks or sounds like another.
const spoken = "ABCDEFGHJKMNPQRSTUVWXYZ23456789"

// randomText returns n characters of alphabet, each equally likely. crypto/rand never fails: the program ends
// when the system has no randomness.
func randomText(alphabet string, n int) string {
	out := make([]byte, 0, n)
	most := byte(256 - 256%len(alphabet)) // above it a remainder would favour the first characters
	buf := make([]byte, 2*n)
	for len(out) < n {
		rand.Read(buf)
		for _, b := range buf {
			if (most == 0 || b < most) && len(out) < n {
				out = append(out, alphabet[int(b)%len(alphabet)])
			}
		}
	}
	return string(out)
}

// newCookie returns the secret of a session: 32 random bytes.
func newCookie() string {
	var b [32]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// newToken returns a personal token of 256 random bits. It is safe in a header and in an address.
func newToken() string {
	var b [32]byte
	rand.Read(b[:])
	text := new(big.Int).SetBytes(b[:]).Text(62)
	return TokenPrefix + strings.Repeat("0", 43-len(text)) + text
}

// newLink returns the secret of a link: 22 characters, 131 bits.
func newLink() string { return randomText(base62, 22) }

// newCode returns a class code that can be read out: ABCD-EFGH, 39 bits.
func newCode() string {
	c := randomText(spoken, 8)
	return c[:4] + "-" + c[4:]
}

// newPIN returns six random digits.
func newPIN() string { return randomText("0123456789", 6) }

// newID returns a name for a row that is shown in lists and is no secret.
func newID() string { return randomText(base62, 12) }

// hashOf returns what is stored of a secret.
func hashOf(secret string) Hash { return sha256.Sum256([]byte(secret)) }

// normalizeCode returns a class code as it is stored: people leave out the hyphen and type small letters.
func normalizeCode(typed string) string {
	var b strings.Builder
	for _, r := range strings.ToUpper(typed) {
		if strings.ContainsRune(spoken, r) {
			b.WriteRune(r)
		} else if r != '-' && r != ' ' {
			return "" // no code has it
		}
	}
	if c := b.String(); len(c) == 8 {
		return c[:4] + "-" + c[4:]
	}
	return ""
}
