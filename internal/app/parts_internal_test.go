package app

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPartsStopInReverseAndAllOfThem(t *testing.T) {
	t.Parallel()
	p := newParts(slog.New(slog.DiscardHandler))
	var order []string
	for _, name := range []string{"first", "second", "third"} {
		p.add(name, func(context.Context) error {
			order = append(order, name)
			if name == "second" {
				return errors.New("stuck")
			}
			return nil
		})
	}
	err := p.stop(t.Context())
	if diff := cmp.Diff([]string{"third", "second", "first"}, order); diff != "" {
		t.Error(diff)
	}
	if err == nil || !strings.Contains(err.Error(), "stopping second: stuck") {
		t.Errorf("got %v", err)
	}
	if err := p.stop(t.Context()); err != nil {
		t.Errorf("stopping twice: %v", err)
	}
}

func TestAPartThatEndsByItselfFails(t *testing.T) {
	t.Parallel()
	p := newParts(slog.New(slog.DiscardHandler))
	p.run("good", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	p.run("bad", func(context.Context) error { return errors.New("broken") })
	if err := <-p.failed; err == nil || err.Error() != "bad: broken" {
		t.Errorf("got %v", err)
	}
	if err := p.stop(t.Context()); err != nil {
		t.Error(err)
	}
	select {
	case err := <-p.failed:
		t.Errorf("a part that was stopped failed: %v", err)
	default:
	}
}

func TestAPartThatDoesNotEndIsLeftAtTheDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newParts(slog.New(slog.DiscardHandler))
		leave := make(chan struct{})
		p.run("deaf", func(context.Context) error { <-leave; return nil })
		deadline, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		err := p.stop(deadline)
		if took := time.Since(began); err == nil || took < time.Minute || took > time.Minute+2*time.Second {
			t.Errorf("got %v after %v", err, took)
		}
		close(leave)
	})
}
