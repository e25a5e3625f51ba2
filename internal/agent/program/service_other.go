//go:build !windows

package program

import "context"

// Service runs run: only Windows has services that are programs of a kind of their own.
func Service(ctx context.Context, run func(ctx context.Context) error) error { return run(ctx) }
