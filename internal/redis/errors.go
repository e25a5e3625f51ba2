package redis

import (
	"errors"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/ahelme/comfyume/internal/fault"
)

// passing are the beginnings of Redis's errors that go by themselves: it starts, fails over, or is busy.
var passing = []string{"LOADING", "READONLY", "CLUSTERDOWN", "MASTERDOWN", "BUSY ", "NOREPLICAS", "TRYAGAIN", "UNKILLABLE", "MISCONF"}

// codeFull is the code of a Redis that has no memory left.
const codeFull = "redis_full"

// refusals are errors of Redis with what people can do about them.
var refusals = []struct{ begin, code, sentence, remedy string }{
	{
		"OOM", "redis_full", "The studio's Redis has no memory left.",
		"Raise its maxmemory, or let the studio keep fewer finished jobs; nothing that was acknowledged is lost.",
	},
	{
		"MISCONF", "redis_disk", "The studio's Redis can't write to its disk.",
		"Free some space on it and look at the log of Redis; nothing that was acknowledged is lost.",
	},
	{"LOADING", "redis_loading", "The studio's Redis is starting and reads its data.", "Wait a little."},
	{
		"READONLY", "redis_readonly", "The studio's Redis is a replica, which takes no changes.",
		"Wait for the fail-over to end, or name the address of the primary.",
	},
	{"NOREPLICAS", "redis_replicas", "The studio's Redis has too few replicas to take changes.", "Bring its replicas back."},
	{"NOAUTH", "redis_denied", "The studio's Redis wants a password.", "Write it into the address: redis://user:password@host:6379/0."},
	{"WRONGPASS", "redis_denied", "The studio's Redis refuses the user name and password.", "Look at the address of the Redis in the settings."},
	{
		"NOPERM", "redis_denied", "The studio's Redis does not let this user do what the studio needs.",
		"Allow it the keys of the studio and the commands of hashes, sorted sets, streams, scripts and channels.",
	},
}

// classify gives errors of Redis a kind and a remedy. Errors that have a kind stay as they are.
func classify(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return err
	}
	if e, ok := rueidis.IsRedisErr(err); ok {
		for _, r := range refusals {
			if strings.HasPrefix(e.Error(), r.begin) {
				return fault.Wrap(fault.Unavailable, err, "%s", r.sentence).WithRemedy("%s", r.remedy).WithCode(r.code)
			}
		}
		if !isPassing(err) {
			return err // a mistake of ours
		}
	}
	f := fault.Wrap(fault.Unavailable, err, "The studio's Redis does not answer.").
		WithRemedy("Look whether it runs and can be reached; the studio goes on by itself when it is back.").WithCode("redis_unavailable")
	f.RetryAfter = 2 * time.Second
	return f
}

// isPassing reports whether the error of a command may be gone in a moment, without the command having happened.
func isPassing(err error) bool {
	e, ok := rueidis.IsRedisErr(err)
	if !ok {
		return false
	}
	for _, begin := range passing {
		if strings.HasPrefix(e.Error(), begin) {
			return true
		}
	}
	return false
}

func errClosed() error {
	return fault.New(fault.Unavailable, "The studio is shutting down.").
		WithRemedy("Try again when it is back.").WithCode("closed")
}
