package rewrite

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/comfy"
	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/job"
)

// SaltInput is the undeclared input that keeps one person's outputs apart from another's in a back end's cache.
const SaltInput = "_comfyume_owner"

// Catalog knows which inputs of a graph read files and which nodes make outputs. It is that of a group of people.
type Catalog interface {
	FileInputs(g *comfy.Graph) []comfy.FileInput
	OutputNodes(g *comfy.Graph) []string
	// Needs lists what a back end must have for the graph.
	Needs(g *comfy.Graph) []string
	// Core reports whether all nodes ship with ComfyUI.
	Core(g *comfy.Graph) bool
}

// Files are people's files.
type Files interface {
	Stat(ctx context.Context, user string, ref file.Ref) (file.Info, error)
	Open(ctx context.Context, user string, ref file.Ref) (file.Info, io.ReadSeekCloser, error)
	List(ctx context.Context, user, typ string) ([]file.Info, error)
}

// Options are the settings of a Rewriter. The zero value is good.
type Options struct {
	SaltAll bool     // isolation strict: salt every node, so that nothing cached is shared between people
	Exempt  []string // classes that can't take an undeclared input

	// Allowed says why a graph may not run; nil: every graph may. It was asked when the job came, and is asked again
	// for each attempt: before the first back end told of its nodes nobody knew what the graph would do.
	Allowed func(group string, g *comfy.Graph) error
}

// Rewriter makes translations. It is safe for concurrent use.
type Rewriter struct {
	catalog func(group string) Catalog
	files   Files
	key     []byte
	options Options
}

// New returns a Rewriter. catalog returns what a group of people can run. key is the studio's secret: whoever knows it
// can tell a person by their salt.
func New(catalog func(group string) Catalog, files Files, key []byte, o Options) *Rewriter {
	return &Rewriter{catalog: catalog, files: files, key: key, options: o}
}

// Out translates a job for one attempt, the run id of which is in e. A fault of kind Missing names a file that is
// not there any more; it is the person's to know.
func (r *Rewriter) Out(ctx context.Context, e job.Entry, credentials map[string]string) (*Translation, error) {
	g, err := comfy.ParseGraph(e.Request.Prompt)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "The graph can't be read.")
	}
	if r.options.Allowed != nil {
		if err := r.options.Allowed(e.Job.Group, g); err != nil {
			return nil, err
		}
	}
	catalog := r.catalog(e.Job.Group)
	t := &Translation{
		folders: []byte(backend.RunFolders(e.Job.Attempt.RunID)),
		runID:   e.Job.Attempt.RunID, salt: r.salt(e.Job.User),
		targets: e.Request.Targets, outputs: e.Request.Outputs, core: catalog.Core(g),
	}
	t.rename(t.runID, e.Job.PromptID)
	t.needs = catalog.Needs(g)
	runs := sync.OnceValue(func() map[string]bool { return ancestors(g, e.Request.Outputs) })
	for _, in := range catalog.FileInputs(g) {
		err := r.input(ctx, t, g, e.Job.User, in)
		if (fault.Is(err, fault.Missing) || fault.Is(err, fault.Denied)) && runs() != nil && !runs()[in.Node] {
			// ComfyUI does not mind what a node holds that no output needs, and leaves out an output that lacks a file.
			r.nothing(t, g, e.Job.User, in)
			continue
		}
		if err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(credentials)) {
		if s := credentials[name]; s != "" {
			t.secrets = append(t.secrets, s)
		}
	}
	r.mark(t, g, catalog)
	t.prompt = g.JSON()
	t.extra, err = extraData(e.Request.ExtraData, credentials)
	return t, err
}

// input gives one file input the name its file has on the back end.
func (r *Rewriter) input(ctx context.Context, t *Translation, g *comfy.Graph, user string, in comfy.FileInput) error {
	if in.Folder {
		return r.folder(ctx, t, g, user, in)
	}
	ref, ok := file.ParseAnnotated(in.Value, in.Type)
	if !ok {
		return fault.New(fault.Denied, "Node %s: %s %q is not the name of one of your files.", in.Node, in.Input, in.Value).
			WithRemedy("Choose one of your own files.")
	}
	info, err := r.files.Stat(ctx, user, ref)
	if fault.Is(err, fault.Missing) {
		return fault.New(fault.Missing, "Node %s: the file %q is not among your files any more.", in.Node, in.Value).
			WithRemedy("Upload it again, or choose another.")
	}
	if err != nil {
		return fmt.Errorf("input file of node %s: %w", in.Node, err)
	}
	name := r.name(user, info)
	t.upload(r.uploadOf(user, info, name, ""))
	t.rename(name, in.Value)
	set(g, in, name)
	return nil
}

// ancestors returns the nodes that make the outputs; nil when it is not known which outputs run.
func ancestors(g *comfy.Graph, outputs []string) map[string]bool {
	if len(outputs) == 0 {
		return nil
	}
	found := map[string]bool{}
	for next := slices.Clone(outputs); len(next) > 0; {
		id := next[len(next)-1]
		next = next[:len(next)-1]
		n, ok := g.Node(id)
		if !ok || found[id] {
			continue
		}
		found[id] = true
		for _, in := range n.Inputs {
			if link, err := pyjson.Elements(comfy.Literal(in.Value)); err == nil && len(link) == 2 {
				next = append(next, pyjson.TextOf(link[0]))
			}
		}
	}
	return found
}

// nothing gives a file input a name that no file has on any back end.
func (r *Rewriter) nothing(t *Translation, g *comfy.Graph, user string, in comfy.FileInput) {
	sum := hmac.New(sha256.New, r.key)
	fmt.Fprintf(sum, "nothing\x00%s\x00%s", user, in.Value)
	name := "cm" + hex.EncodeToString(sum.Sum(nil)[:16])
	t.rename(name, in.Value)
	set(g, in, name)
}

// set writes a name into the graph.
func set(g *comfy.Graph, in comfy.FileInput, name string) {
	value := pyjson.Quote(name)
	if in.Member != "" {
		n, _ := g.Node(in.Node)
		old, _ := n.Input(in.Input)
		members, err := pyjson.Members(comfy.Literal(old))
		if err != nil {
			return // the catalog found the member in it
		}
		for i := range members {
			if members[i].Key == in.Member {
				members[i].Value = value
			}
		}
		value = pyjson.AppendObject(nil, members)
	}
	g.Set(in.Node, in.Input, value)
}

// folder gives an input that reads a whole folder of inputs the folder's name on the back end.
func (r *Rewriter) folder(ctx context.Context, t *Translation, g *comfy.Graph, user string, in comfy.FileInput) error {
	list, err := r.files.List(ctx, user, file.Input)
	if err != nil {
		return fmt.Errorf("input folder of node %s: %w", in.Node, err)
	}
	want := strings.Trim(in.Value, "/")
	list = slices.DeleteFunc(slices.Clone(list), func(f file.Info) bool { return f.Subfolder != want })
	if len(list) == 0 {
		return fault.New(fault.Missing, "Node %s: there is no folder %q with files of yours.", in.Node, in.Value).
			WithRemedy("Upload files into it, or choose another.")
	}
	slices.SortFunc(list, func(a, b file.Info) int { return strings.Compare(a.Name, b.Name) })
	sum := hmac.New(sha256.New, r.key)
	fmt.Fprintf(sum, "set\x00%s", user)
	for _, f := range list {
		fmt.Fprintf(sum, "\x00%s\x00%s", f.Name, f.Hash)
	}
	name := "cm" + hex.EncodeToString(sum.Sum(nil)[:16])
	numbers, taken := map[string]int{}, map[string]bool{}
	for i, f := range list {
		// The order in which a node reads the folder is that of its names, and a picture's text has the picture's name.
		ext := path.Ext(f.Name)
		stem := strings.TrimSuffix(f.Name, ext)
		if _, ok := numbers[stem]; !ok {
			numbers[stem] = i
		}
		as := fmt.Sprintf("%05d%s", numbers[stem], strings.ToLower(ext))
		if taken[as] {
			as = fmt.Sprintf("%05d%s", i, strings.ToLower(ext))
		}
		taken[as] = true
		t.upload(r.uploadOf(user, f, as, name))
	}
	t.rename(name, in.Value)
	set(g, in, name)
	return nil
}

// name is what a file is called on back ends: its content and its owner, so that nobody learns by the time an
// upload takes what others have. The ending stays, because nodes choose by it.
func (r *Rewriter) name(user string, f file.Info) string {
	sum := hmac.New(sha256.New, r.key)
	fmt.Fprintf(sum, "file\x00%s\x00%s", user, f.Hash)
	return "cm" + hex.EncodeToString(sum.Sum(nil)[:16]) + strings.ToLower(path.Ext(f.Name))
}

func (r *Rewriter) uploadOf(user string, f file.Info, name, folder string) backend.Upload {
	return backend.Upload{Name: name, Subfolder: folder, Size: f.Size, Open: func() (io.ReadCloser, error) {
		// The attempt that uploads may have a context of its own by then.
		_, content, err := r.files.Open(context.Background(), user, f.Ref)
		return content, err
	}}
}

// salt is the keyed hash of an owner.
func (r *Rewriter) salt(user string) string {
	sum := hmac.New(sha256.New, r.key)
	fmt.Fprintf(sum, "owner\x00%s", user)
	return hex.EncodeToString(sum.Sum(nil)[:16])
}

// mark salts the nodes whose results must not be shared.
func (r *Rewriter) mark(t *Translation, g *comfy.Graph, catalog Catalog) {
	var nodes []string
	if r.options.SaltAll {
		for _, n := range g.Nodes() {
			nodes = append(nodes, n.ID)
		}
	} else {
		nodes = catalog.OutputNodes(g)
	}
	value := pyjson.Quote(t.salt)
	t.marked = make(map[string]bool, len(nodes))
	for _, id := range nodes {
		if n, ok := g.Node(id); ok && !slices.Contains(r.options.Exempt, n.ClassType) {
			g.Set(id, SaltInput, value)
			t.marked[id] = true
		}
	}
}

// extraData is what a back end may know of the request: the workflow for the files it writes, the preview method,
// and the credentials of this run.
func extraData(raw json.RawMessage, credentials map[string]string) (json.RawMessage, error) {
	var out []pyjson.Member
	if len(raw) > 0 {
		members, err := pyjson.Members(raw)
		if err != nil {
			return nil, fmt.Errorf("extra_data: %w", err)
		}
		for _, m := range members {
			if m.Key != "client_id" && m.Key != "create_time" {
				out = append(out, m)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(credentials)) {
		out = append(out, pyjson.Member{Key: name, Value: pyjson.Quote(credentials[name])})
	}
	return pyjson.AppendObject(nil, out), nil
}
