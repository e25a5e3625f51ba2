package comfyserver

import (
	"context"
	"net/http"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
)

// studioAct does what a button of our extension's panel says to one of the person's jobs. What comes of it is told by
// the frames that follow.
func (s *Server) studioAct(w http.ResponseWriter, c *call) error {
	body, err := s.jsonBody(w, c)
	if err != nil {
		return err
	}
	if _, err := object(body, "The body"); err != nil {
		return err
	}
	id, _ := pyjson.Get(body, "prompt_id")
	j, err := s.Queue.Find(c.Context(), c.user(), word(id))
	if err != nil {
		return err
	}
	raw, _ := pyjson.Get(body, "act")
	switch act := word(raw); act {
	case "hold", "release":
		_, err = s.Queue.Hold(c.Context(), j.ID, act == "hold")
	case "front":
		_, err = s.Queue.ToFront(c.Context(), j.ID)
	case "cancel":
		err = s.cancelJob(c.Context(), j)
	default:
		err = invalid("unknown_act", "act has to be hold, release, front or cancel.")
	}
	if err != nil {
		return err
	}
	return done(w)
}

// cancelJob takes a waiting job out, or asks for one that runs to be interrupted.
func (s *Server) cancelJob(ctx context.Context, j job.Job) error {
	gone, err := s.Queue.RemovePending(ctx, j.User, []string{j.PromptID})
	if err != nil || len(gone) > 0 {
		return err
	}
	stopped, err := s.Queue.Stop(ctx, j.User, j.PromptID)
	if err == nil && len(stopped) == 0 {
		err = fault.New(fault.Conflict, "This run is over already.").WithCode("job_is_over")
	}
	return err
}
