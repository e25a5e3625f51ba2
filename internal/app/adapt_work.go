package app

import (
	"context"
	"encoding/json"
	"io"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/catalog"
	"github.com/ahelme/comfyume/internal/comfy"
	"github.com/ahelme/comfyume/internal/comfyserver"
	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/deliver"
	"github.com/ahelme/comfyume/internal/dispatch"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/fleet"
	"github.com/ahelme/comfyume/internal/identity"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/policy"
	"github.com/ahelme/comfyume/internal/rewrite"
	"github.com/ahelme/comfyume/internal/usage"
	"github.com/ahelme/comfyume/internal/workspace"
)

// Adapters: parts that must not know one another meet in these few lines.

// deliverer is delivery as the dispatcher wants it.
type deliverer struct{ *deliver.Service }

func outputOf(o dispatch.Output) deliver.Output {
	from := o.Origin
	return deliver.Output{
		User: o.User, Fence: o.Fence, Attempt: o.Attempt,
		Slot: deliver.Slot{Job: o.Job, Node: o.Node, Key: o.Key, Index: o.Index},
		Origin: deliver.Origin{
			BackEnd: from.BackEnd, Epoch: from.Epoch,
			Ref: file.Ref{Type: from.Ref.Type, Subfolder: from.Ref.Subfolder, Name: from.Ref.Filename},
		},
		Open: o.Open, PNG: o.PNG,
	}
}

func (d deliverer) Deliver(ctx context.Context, o dispatch.Output) (file.Info, error) {
	return d.Service.Deliver(ctx, outputOf(o))
}

func (d deliverer) Resolve(ctx context.Context, o dispatch.Output) (file.Info, error) {
	return d.Service.Resolve(ctx, outputOf(o))
}

func (d deliverer) OfJob(ctx context.Context, user string, id job.ID) ([]dispatch.Delivered, error) {
	list, err := d.Service.OfJob(ctx, user, id)
	return each(list, err, func(x deliver.Delivered) dispatch.Delivered {
		return dispatch.Delivered{Node: x.Node, Key: x.Key, Ref: x.Ref}
	})
}

// rewriterFace is the rewriter as the dispatcher wants it.
type rewriterFace struct{ r *rewrite.Rewriter }

func (f rewriterFace) Out(ctx context.Context, e job.Entry, credentials map[string]string) (dispatch.Translation, error) {
	t, err := f.r.Out(ctx, e, credentials)
	if err != nil {
		return nil, err
	}
	return translation{t}, nil
}

type translation struct{ *rewrite.Translation }

func (t translation) Files(u backend.Update) []dispatch.Found { return foundIn(t.Translation.Files(u)) }

func (t translation) ResultFiles(r backend.Result) []dispatch.Found {
	return foundIn(t.Translation.ResultFiles(r))
}

func foundIn(list []rewrite.Found) []dispatch.Found {
	out := make([]dispatch.Found, 0, len(list))
	for _, f := range list {
		out = append(out, dispatch.Found{Node: f.Node, Key: f.Key, Index: f.Index, Ref: f.Ref, Marked: f.Marked})
	}
	return out
}

func (t translation) In(u backend.Update, names dispatch.Names) (backend.Update, error) {
	return t.Translation.In(u, rewrite.Names(names))
}

func (t translation) Result(r backend.Result, names dispatch.Names) (backend.Result, error) {
	return t.Translation.Result(r, rewrite.Names(names))
}

// catalogFace is a group's catalog as the per-user server wants it.
type catalogFace struct{ *catalog.View }

func (c catalogFace) ObjectInfo(inputs []string) comfyserver.Encoded {
	return comfyserver.Encoded(c.View.ObjectInfo(inputs))
}

func catalogMembers(list []config.Back) []catalog.Member {
	out := make([]catalog.Member, 0, len(list))
	for _, b := range list {
		out = append(out, catalog.Member{Name: b.Name, Groups: b.Groups})
	}
	return out
}

func packMembers(list []config.Back) []fleet.PackMember {
	out := make([]fleet.PackMember, 0, len(list))
	for _, b := range list {
		out = append(out, fleet.PackMember{Name: b.Name, Groups: b.Groups})
	}
	return out
}

// templatesFace is the operator's templates as the per-user server wants them.
type templatesFace struct{ t *workspace.Templates }

func (f templatesFace) Templates(group string) ([]comfyserver.TemplatePack, error) {
	packs, err := f.t.Templates(group)
	return each(packs, err, func(p workspace.Pack) comfyserver.TemplatePack { return comfyserver.TemplatePack(p) })
}

func (f templatesFace) Template(group, pack, name string) (file.Entry, io.ReadSeekCloser, error) {
	return f.t.Template(group, pack, name)
}

// checker says at once whether a graph may and can run.
type checker struct {
	catalog *catalog.Catalog
	rules   policy.Rules
	files   *workspace.Files
	wanted  *wanted
}

func (c checker) Check(ctx context.Context, who identity.Person, prompt json.RawMessage, targets []string, has func(file.Ref) bool) (comfyserver.Verdict, error) {
	g, err := comfy.ParseGraph(prompt)
	if err != nil {
		return comfyserver.Verdict{}, fault.Wrap(fault.Invalid, err, "The prompt is no object of nodes.").
			WithRemedy("Send a graph in API form.").WithCode("invalid_prompt")
	}
	v := c.catalog.For(who.Group).Validate(g, targets, has)
	out := comfyserver.Verdict{Outputs: v.Outputs, Refusal: v.Refusal, NodeErrors: v.NodeErrors}
	if v.Refusal != nil || len(v.NodeErrors) > len("{}") {
		c.wanted.note(ctx, who, g)
	}
	if v.Refusal != nil {
		return out, nil
	}
	if err := c.allowed(who.Group, g); err != nil {
		return comfyserver.Verdict{}, err
	}
	out.Profile = usage.Profile(g)
	return out, c.files.Within(ctx, who.Name) // its results would have no place
}

// checker knows the rules of the settings.
func (s *Studio) checker() checker {
	return checker{s.catalog, policy.Rules{Paid: s.cfg.ComfyAccount == "allow"}, s.files, s.wanted}
}

// allowed says whether the studio's rules let a graph run.
func (c checker) allowed(group string, g *comfy.Graph) error {
	v := c.catalog.For(group)
	return c.rules.Check(policy.Graph{Nodes: g.Nodes(), Paid: v.Paid(g), Unnamed: v.Unnamed(g), FreePath: v.FreePath(g)})
}
