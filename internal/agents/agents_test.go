package agents_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ahelme/comfyume/internal/agents"
	"github.com/ahelme/comfyume/internal/agents/agentstest"
	"github.com/ahelme/comfyume/internal/fault"
)

func TestMemory(t *testing.T) {
	t.Parallel()
	agentstest.Run(t, func(*testing.T) agents.Store { return agentstest.NewMemory() })
}

// in runs f with a service in virtual time.
func in(t *testing.T, f func(t *testing.T, s *agents.Service, ended *[]string)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ended []string
		s := agents.New(agentstest.NewMemory(), agents.Options{
			Known: func(name string) error {
				if strings.HasPrefix(name, "lab-") {
					return nil
				}
				return fault.New(fault.Missing, "The studio has no back end %s.", name).WithCode("no_backend")
			},
			Ended: func(name string) { ended = append(ended, name) },
		})
		f(t, s, &ended)
	})
}

var about = agents.About{Machine: "gpu", Version: "v1", OS: "linux/amd64"}

func codeOf(err error) string {
	if e, ok := err.(*fault.Error); ok {
		return e.Code
	}
	return ""
}

func TestJoinOnce(t *testing.T) {
	in(t, func(t *testing.T, s *agents.Service, ended *[]string) {
		ctx := t.Context()
		code, expires, err := s.NewCode(ctx, "lab-1", "olga", 0)
		if err != nil || time.Until(expires) != time.Hour {
			t.Fatal(code, expires, err)
		}
		typed := " " + strings.ToLower(strings.ReplaceAll(code, "-", " "))
		if _, _, err := s.Join(ctx, typed, "lab-2", "10.0.0.1", about); codeOf(err) != agents.CodeName {
			t.Errorf("a code for another name: %v", err)
		}
		a, key, err := s.Join(ctx, typed, "lab-1", "10.0.0.1", about)
		if err != nil || a.Name != "lab-1" || a.By != "olga" || !strings.HasPrefix(key, agents.KeyPrefix) || strings.Contains(key, code) {
			t.Fatalf("%+v %q %v", a, key, err)
		}
		if _, _, err := s.Join(ctx, code, "", "10.0.0.1", about); codeOf(err) != agents.CodeWrong || !fault.Is(err, fault.Denied) {
			t.Errorf("a code used twice: %v", err)
		}
		if name, err := s.Check(ctx, key); err != nil || name != "lab-1" {
			t.Error(name, err)
		}
		for _, bad := range []string{"", code, key + "x", strings.ToLower(key)} {
			if _, err := s.Check(ctx, bad); codeOf(err) != agents.CodeKey || !fault.Is(err, fault.Denied) {
				t.Errorf("Check(%q): %v", bad, err)
			}
		}
		if err := s.Revoke(ctx, "lab-1"); err != nil {
			t.Error(err)
		}
		if _, err := s.Check(ctx, key); codeOf(err) != agents.CodeKey {
			t.Errorf("a revoked key: %v", err)
		}
		if got := strings.Join(*ended, " "); got != "lab-1 lab-1" {
			t.Errorf("keys that ended: %s", got)
		}
		if err := s.Revoke(ctx, "lab-1"); !fault.Is(err, fault.Missing) {
			t.Errorf("revoked twice: %v", err)
		}
	})
}

func TestCodesEnd(t *testing.T) {
	in(t, func(t *testing.T, s *agents.Service, _ *[]string) {
		ctx := t.Context()
		code, _, err := s.NewCode(ctx, "lab-1", "olga", 5*time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		if _, _, err := s.Join(ctx, code, "", "10.0.0.1", about); codeOf(err) != agents.CodeWrong {
			t.Errorf("a code that is over: %v", err)
		}
		for _, life := range []time.Duration{-1, 8 * 24 * time.Hour} {
			if _, _, err := s.NewCode(ctx, "lab-1", "olga", life); !fault.Is(err, fault.Invalid) {
				t.Errorf("a life of %v: %v", life, err)
			}
		}
		if _, _, err := s.NewCode(ctx, "gpu1", "olga", 0); codeOf(err) != "no_backend" {
			t.Errorf("a code for no agent's name: %v", err)
		}
	})
}

func TestGuessingIsSlow(t *testing.T) {
	in(t, func(t *testing.T, s *agents.Service, _ *[]string) {
		code, _, err := s.NewCode(t.Context(), "lab-1", "olga", 0)
		if err != nil {
			t.Fatal(err)
		}
		try := func(code, from string) string {
			_, _, err := s.Join(context.Background(), code, "", from, about)
			return codeOf(err)
		}
		for range 10 {
			if got := try("AAAA-AAAA-AAAA", "10.0.0.1"); got != agents.CodeWrong {
				t.Fatal(got)
			}
		}
		if got := try(code, "10.0.0.1"); got != agents.CodeThrottled {
			t.Errorf("after ten wrong codes: %q", got)
		}
		time.Sleep(31 * time.Second)
		if got := try("AAAA-AAAA-AAAA", "10.0.0.1"); got != agents.CodeWrong {
			t.Errorf("half a minute later: %q", got)
		}
		for i := range 600 { // many addresses are no way around
			try("AAAA-AAAA-AAAA", "2001:db8:"+string(rune('a'+i%6))+string(rune('0'+i%10))+string(rune('0'+i/100))+"::1")
		}
		if got := try(code, "10.9.9.9"); got != agents.CodeThrottled {
			t.Errorf("while the whole world guesses: %q", got)
		}
		time.Sleep(5 * time.Minute)
		if got := try(code, "10.9.9.9"); got != "" {
			t.Errorf("five minutes later: %q", got)
		}
	})
}
