package redis_test

import (
	"strings"
	"testing"

	"github.com/ahelme/comfyume/internal/redis"
)

// TestCheck says what each setting of Redis may lose.
func TestCheck(t *testing.T) {
	t.Parallel()
	s := startServer(t, "always")
	db := s.open(t, redis.Options{})
	defer db.Close()
	for _, c := range []struct {
		set  []string
		want string // in the only finding; empty: none
	}{
		{nil, ""},
		{[]string{"appendfsync", "everysec"}, "its last second"},
		{[]string{"appendfsync", "no"}, "had not yet written"},
		{[]string{"appendfsync", "always", "no-appendfsync-on-rewrite", "yes"}, "rewrites"},
		{[]string{"no-appendfsync-on-rewrite", "no", "maxmemory-policy", "allkeys-lru"}, "throws data away"},
		{[]string{"maxmemory-policy", "noeviction", "appendonly", "no"}, "in memory only"},
		{[]string{"save", "60 1"}, "now and then"},
	} {
		if c.set != nil {
			s.cli(append([]string{"config", "set"}, c.set...)...)
		}
		found, err := db.Check(t.Context())
		must(t, err)
		if c.want == "" && len(found) == 0 {
			continue
		}
		if len(found) != 1 || !strings.Contains(found[0].Sentence, c.want) || found[0].Remedy == "" {
			t.Errorf("%v: %+v, want %q", c.set, found, c.want)
		}
	}
	s.cli("acl", "setuser", "studio", "on", ">secret", "~*", "&*", "+@all", "-config")
	narrow, err := redis.Open(t.Context(), "unix://studio:secret@"+s.Socket, redis.Options{})
	must(t, err)
	defer narrow.Close()
	found, err := narrow.Check(t.Context())
	must(t, err)
	if len(found) != 1 || !strings.Contains(found[0].Sentence, "could not be checked") {
		t.Errorf("where looking is forbidden: %+v", found)
	}
	_, err = redis.Open(t.Context(), "unix://studio:wrong@"+s.Socket, redis.Options{})
	refused(t, "a wrong password", err, "redis_denied")
}
