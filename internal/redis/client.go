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

// Do implements rueidis.CoreClient.
func (c client) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	return c.Client.Do(ctx, cmd.Pin())
}

// DoMulti implements rueidis.CoreClient.
func (c client) DoMulti(ctx context.Context, cmds ...rueidis.Completed) []rueidis.RedisResult {
	for i := range cmds {
		cmds[i] = cmds[i].Pin()
	}
	return c.Client.DoMulti(ctx, cmds...)
}
