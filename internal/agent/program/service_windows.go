package program

import (
	"context"

	"golang.org/x/sys/windows/svc"
)

// Service runs run as a Windows service, where the service control manager started the program, and plainly elsewhere.
// Stop and shutdown end its context.
func Service(ctx context.Context, run func(ctx context.Context) error) error {
	inside, err := svc.IsWindowsService()
	if err != nil || !inside {
		return run(ctx)
	}
	s := &service{ctx: ctx, run: run}
	if err := svc.Run("comfyume-agent", s); err != nil { // the name is not looked at for a program of one service
		return err
	}
	return s.err
}

type service struct {
	ctx context.Context // of the one call of Service
	run func(ctx context.Context) error
	err error
}

// Execute answers the service control manager until the agent has ended.
func (s *service) Execute(_ []string, asks <-chan svc.ChangeRequest, tell chan<- svc.Status) (specific bool, code uint32) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- s.run(ctx) }()
	state := svc.Status{State: svc.Running, Accepts: svc.AcceptStop | svc.AcceptShutdown}
	tell <- state
	for {
		select {
		case s.err = <-ended:
			if s.err != nil {
				return true, 1
			}
			return false, 0
		case ask := <-asks:
			switch ask.Cmd {
			case svc.Interrogate:
				tell <- ask.CurrentStatus
			case svc.Stop, svc.Shutdown:
				state = svc.Status{State: svc.StopPending, WaitHint: 180_000} // milliseconds: a run may end first
				tell <- state
				cancel()
			}
		}
	}
}
