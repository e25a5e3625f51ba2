package account

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/ahelme/comfyume/internal/identity"
)

// TestThrottleNeverLetsMoreThrough: in any stretch of time no more than the burst and what the stretch gave.
func TestThrottleNeverLetsMoreThrough(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		burst := rapid.IntRange(1, 10).Draw(r, "burst")
		pauses := rapid.SliceOfN(rapid.IntRange(0, 2500), 1, 60).Draw(r, "pauses")
		backs := rapid.SliceOfN(rapid.IntRange(0, 3), len(pauses), len(pauses)).Draw(r, "backs")
		var problem string
		synctest.Test(t, func(*testing.T) { problem = throttled(burst, pauses, backs) })
		if problem != "" {
			r.Fatal(problem)
		}
	})
}

// throttled takes, or for a zero in backs gives back, after each pause, and says what went wrong.
func throttled(burst int, pauses, backs []int) string {
	th := throttle{burst: burst, every: time.Second}
	started := time.Now()
	taken := 0
	for n, pause := range pauses {
		time.Sleep(time.Duration(pause) * time.Millisecond)
		if backs[n] == 0 && taken > 0 && th.full["k"].After(time.Now()) {
			th.giveBack("k")
			taken--
			continue
		}
		wait := th.wait("k")
		got := th.take("k")
		if got != wait {
			return fmt.Sprintf("wait says %v, take says %v", wait, got)
		}
		if got == 0 {
			taken++
		}
		if most := burst + int(time.Since(started)/th.every); taken > most {
			return fmt.Sprintf("%d taken after %v, at most %d", taken, time.Since(started), most)
		}
	}
	time.Sleep(time.Minute)
	if th.wait("k") != 0 {
		return "a budget does not come back"
	}
	return ""
}

func TestThrottleIsBounded(t *testing.T) {
	t.Parallel()
	th := throttle{burst: 3, every: time.Minute}
	var key [3]byte
	for n := range maxKeys * 2 {
		key[0], key[1], key[2] = byte(n), byte(n>>8), byte(n>>16)
		th.take(string(key[:]))
	}
	if len(th.full) > maxKeys {
		t.Errorf("%d keys", len(th.full))
	}
}

// TestRevokedWhileLoading: what was on its way from the store while something was revoked is not remembered.
func TestRevokedWhileLoading(t *testing.T) {
	t.Parallel()
	c := newCache()
	k := cacheKey{kind: KindToken}
	e := &entry{cred: Credential{Person: identity.Person{Name: "ann"}, ID: "t1"}}
	epoch := c.epoch()
	c.forget("ann", "t1")
	c.keep(k, e, epoch)
	if _, ok := c.find(k); ok {
		t.Error("a revoked token is remembered")
	}
	c.keep(k, e, c.epoch())
	if _, ok := c.find(k); !ok {
		t.Error("nothing is remembered any more")
	}
	c.forget("ben", "")
	c.forget("ann", "t2")
	if _, ok := c.find(k); !ok {
		t.Error("somebody else's revocation is mine")
	}
}

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	c := newCache()
	for n := range maxEntries + 5 {
		k := cacheKey{kind: KindToken}
		k.hash[0], k.hash[1], k.hash[2] = byte(n), byte(n>>8), byte(n>>16)
		e := &entry{}
		e.seen.Store(1)
		c.keep(k, e, 0)
	}
	if n := len(c.entries); n > maxEntries {
		t.Errorf("%d entries", n)
	}
}

// TestUnknownCostsTheSame: a name that is not there is checked against a hash of the same cost, which nothing fits.
func TestUnknownCostsTheSame(t *testing.T) {
	t.Parallel()
	h := newHasher(Cost{})
	cost, salt, key, err := parsePHC(h.dummy)
	if err != nil || cost != h.cost || len(salt) != saltSize || len(key) != keySize {
		t.Fatalf("%+v, %d, %d, %v", cost, len(salt), len(key), err)
	}
	if ok, _, err := h.verify(t.Context(), "", ""); ok || err != nil {
		t.Errorf("ok %v, error %v", ok, err)
	}
}

func TestRandomText(t *testing.T) {
	t.Parallel()
	for _, alphabet := range []string{base62, spoken, "0123456789", "ab"} {
		seen := map[byte]int{}
		for _, b := range []byte(randomText(alphabet, 20_000)) {
			seen[b]++
		}
		want := 20_000 / len(alphabet)
		for _, b := range []byte(alphabet) {
			if n := seen[b]; n < want*7/10 || n > want*13/10 {
				t.Errorf("%q of %q comes %d times, want about %d", b, alphabet, n, want)
			}
		}
	}
	if len(newToken()) != len(TokenPrefix)+43 || len(newCookie()) != 43 || normalizeCode(newCode()) == "" {
		t.Error("a secret has another form than its look-up expects")
	}
}

func FuzzParsePHC(f *testing.F) {
	f.Add("$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQxMjM0NTY3OA$c29tZWtleTEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg")
	f.Add("$argon2id$v=19$m=4294967295,t=4294967295,p=255$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		c, salt, key, err := parsePHC(s)
		if err != nil {
			return
		}
		if c.MemoryKiB > 1<<20 || c.Passes > 32 || c.Lanes > 16 || len(salt) < 8 || len(key) < 16 || len(key) > 64 {
			t.Errorf("%q: out of bounds: %+v", s, c)
		}
		if _, _, _, err := parsePHC(phc(c, salt, key)); err != nil {
			t.Errorf("%q: what is written can't be read: %v", s, err)
		}
	})
}
