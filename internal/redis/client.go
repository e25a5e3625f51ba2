package redis

import (
	"context"

	"github.com/redis/rueidis"
)

// client sends commands that are not used again. rueidis gives a command's room to the next one as soon as its result is
// known; where a connection breaks it says so while it may still be writing the command (pipe.go, _background beside
// _backgroundWrite, in 1.0.79), and would then read another's words.
type client struct{ rueidis.Client }

func newClient(o rueidis.ClientOption) (rueidis.Client, error) {
	c, err := rueidis.NewClient(o)
	if err != nil {
		return nil, err
	}
	return client{c}, nil
}

// Do implements rueidis.Client.
func (c client) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	return c.Client.Do(ctx, cmd.Pin())
}

// DoMulti implements rueidis.Client.
func (c client) DoMulti(ctx context.Context, cmds ...rueidis.Completed) []rueidis.RedisResult {
	return c.Client.DoMulti(ctx, pinned(cmds)...)
}

// Dedicate implements rueidis.Client.
func (c client) Dedicate() (rueidis.DedicatedClient, func()) {
	d, release := c.Client.Dedicate()
	return dedicated{d}, release
}

// dedicated is the same for a connection of its own.
type dedicated struct{ rueidis.DedicatedClient }

// Do implements rueidis.DedicatedClient.
func (d dedicated) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	return d.DedicatedClient.Do(ctx, cmd.Pin())
}

// DoMulti implements rueidis.DedicatedClient.
func (d dedicated) DoMulti(ctx context.Context, cmds ...rueidis.Completed) []rueidis.RedisResult {
	return d.DedicatedClient.DoMulti(ctx, pinned(cmds)...)
}

func pinned(cmds []rueidis.Completed) []rueidis.Completed {
	for i := range cmds {
		cmds[i] = cmds[i].Pin()
	}
	return cmds
}
