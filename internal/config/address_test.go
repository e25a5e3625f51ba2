package config_test

import (
	"fmt"
	"strings"
	"testing"
)

// TestPasswordsOfAddressesAreNotShown: whoever may see the settings may not see the password of the Redis.
func TestPasswordsOfAddressesAreNotShown(t *testing.T) {
	t.Parallel()
	l, err := load(t, "store: redis://studio:hush-hush@10.0.0.5:6379/0\n", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if string(l.Store) != "redis://studio:hush-hush@10.0.0.5:6379/0" {
		t.Errorf("the address itself is %q", string(l.Store))
	}
	var out strings.Builder
	if err := l.Write(&out); err != nil {
		t.Fatal(err)
	}
	shown := out.String() + fmt.Sprint(l.Values(), l.Store)
	if strings.Contains(shown, "hush") || !strings.Contains(shown, "redis://studio:xxxxx@10.0.0.5:6379/0") {
		t.Errorf("shown is\n%s", shown)
	}
}
