package app

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"path"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/gateway"
)

// myWork is what a person made, as their own page shows it. An id holds the file's name; whose file it is comes from
// who asks, so that another's id leads nowhere.
type myWork struct{ s *Studio }

func resultID(ref file.Ref) string {
	b, err := json.Marshal(ref)
	if err != nil { // texts can always be encoded
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func resultRef(id string) (ref file.Ref, err error) {
	b, err := base64.RawURLEncoding.DecodeString(id)
	if err == nil {
		err = json.Unmarshal(b, &ref)
	}
	if err != nil || ref.Type != file.Output {
		return file.Ref{}, fault.New(fault.Missing, "There is no such result.")
	}
	return ref, nil
}

func resultOf(f file.Info) gateway.Result {
	return gateway.Result{ID: resultID(f.Ref), Name: f.Name, Folder: f.Subfolder, Size: f.Size, Modified: f.Modified}
}

// Results implements gateway.Work.
func (w myWork) Results(ctx context.Context, user string, skip, limit int) ([]gateway.Result, int, error) {
	list, err := w.s.files.List(ctx, user, file.Output)
	if err != nil {
		return nil, 0, err
	}
	total := len(list)
	list = list[min(max(0, skip), total):]
	list = list[:min(max(0, limit), len(list))]
	out, err := each(list, nil, resultOf)
	return out, total, err
}

// Open implements gateway.Work.
func (w myWork) Open(ctx context.Context, user, id string) (gateway.Result, io.ReadSeekCloser, error) {
	ref, err := resultRef(id)
	if err != nil {
		return gateway.Result{}, nil, err
	}
	info, content, err := w.s.files.Open(ctx, user, ref)
	return resultOf(info), content, err
}

// Thumb implements gateway.Work.
func (w myWork) Thumb(ctx context.Context, user, id string) (io.ReadSeekCloser, time.Time, error) {
	ref, err := resultRef(id)
	if err != nil {
		return nil, time.Time{}, err
	}
	info, content, err := w.s.files.Thumb(ctx, user, ref)
	return content, info.Modified, err
}

// EachFile implements gateway.Work.
func (w myWork) EachFile(ctx context.Context, user string, fn func(gateway.Keepsake) error) error {
	for _, kind := range []struct{ typ, folder string }{{file.Output, "results"}, {file.Input, "uploads"}} {
		list, err := w.s.files.List(ctx, user, kind.typ)
		if err != nil {
			return err
		}
		for _, f := range list {
			open := func() (io.ReadCloser, error) {
				_, content, err := w.s.files.Open(ctx, user, f.Ref)
				return content, err
			}
			if err := fn(gateway.Keepsake{Path: path.Join(kind.folder, f.Subfolder, f.Name), Modified: f.Modified, Open: open}); err != nil {
				return err
			}
		}
	}
	documents, err := w.s.home.ListUserdata(user, "", true)
	if err != nil {
		return err
	}
	for _, d := range documents {
		if d.Dir {
			continue
		}
		open := func() (io.ReadCloser, error) {
			_, content, err := w.s.home.OpenUserdata(user, d.Path)
			return content, err
		}
		if err := fn(gateway.Keepsake{Path: path.Join("documents", d.Path), Modified: d.Modified, Open: open}); err != nil {
			return err
		}
	}
	return nil
}

// Usage implements gateway.Work.
func (w myWork) Usage(ctx context.Context, user string) (used, limit int64, err error) {
	u, err := w.s.files.Usage(ctx, user)
	if err != nil {
		return 0, 0, err
	}
	documents, err := w.s.home.Usage(ctx, user)
	return u.Bytes + documents, int64(w.s.cfg.Limits.DiskPerUser), err
}
