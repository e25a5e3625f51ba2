package gateway

import (
	"context"
	"net/http"
)

// Quotas tells a person what they took of the GPUs and may still take.
type Quotas interface {
	// Meters returns a sentence for each quota of a person and of their group.
	Meters(ctx context.Context, user, group string) ([]Meter, error)
}

// Meter is one quota.
type Meter struct {
	Text    string
	Percent int // that is used, 0 to 100; below 0: nothing to draw
}

func (g *Gateway) showQuotas(r *http.Request, p *mePage) (err error) {
	if g.faces.Quotas != nil {
		p.Meters, err = g.faces.Quotas.Meters(r.Context(), p.Person.Name, p.Person.Group)
	}
	return err
}
