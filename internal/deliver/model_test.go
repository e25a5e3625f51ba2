package deliver_test

import (
	"context"
	"fmt"
	"path"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ahelme/comfyume/internal/blob"
	"github.com/ahelme/comfyume/internal/deliver"
	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/job"
)

// world is what the model knows of one person and one job after another.
type world struct {
	s     *studio
	user  string
	fence job.Fence
	old   []job.Fence
	slots map[int]slot      // what the job's slots hold
	files map[string]string // what the person has
}

type slot struct {
	name, body string
	fence      int64
}

// TestModel compares deliveries with maps over random steps: attempts are lost and report late, owners delete and
// overwrite, jobs end and others begin.
func TestModel(t *testing.T) {
	t.Parallel()
	s := newStudio(t)
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		w := &world{s: s, user: fmt.Sprint("ann-", n), files: map[string]string{}}
		w.next(t)
		rt.Repeat(map[string]func(*rapid.T){
			"deliver":   w.deliver,
			"late":      w.late,
			"lost":      func(*rapid.T) { w.old = append(w.old, w.fence); w.fence = s.again(t, w.fence) },
			"finish":    func(*rapid.T) { s.finish(t, w.fence); w.next(t) },
			"delete":    w.delete,
			"overwrite": w.overwrite,
			"":          func(rt *rapid.T) { w.check(t, rt) },
		})
		blobs := 0
		err := s.blobs.Each(context.Background(), blob.FileKeys+w.user+"/", func(blob.Item) error { blobs++; return nil })
		if err != nil || blobs != len(w.files) {
			rt.Fatalf("%d files have %d blobs, %v", len(w.files), blobs, err)
		}
	})
}

func (w *world) next(t *testing.T) {
	if w.fence.Job != "" {
		w.old = append(w.old, w.fence)
	}
	w.fence, w.slots = w.s.submit(t, w.user), map[int]slot{}
}

// output is what an attempt reports. The back end's counter has nothing to do with the person's.
func (w *world) output(t *rapid.T, f job.Fence, index int, body string) deliver.Output {
	o := output(w.user, f, index, out(fmt.Sprintf("ComfyUI_%05d_.png", int(f.N)*10+index)), body)
	o.Epoch = w.user
	return o
}

func (w *world) deliver(t *rapid.T) {
	index, body := rapid.IntRange(0, 2).Draw(t, "index"), rapid.SampledFrom([]string{"a", "bb", "ccc"}).Draw(t, "body")
	old, there := w.slots[index]
	intact := there && w.files[old.name] == old.body
	if there && old.fence == w.fence.N {
		body = old.body // one attempt makes one picture
	}
	info, err := w.s.deliver.Deliver(context.Background(), w.output(t, w.fence, index, body))
	if err != nil {
		t.Fatal(err)
	}
	name := path.Join(info.Type, info.Name)
	_, taken := w.files[name]
	switch {
	case intact && name != old.name:
		t.Fatalf("slot %d was %s and became %s", index, old.name, name)
	case !intact && taken:
		t.Fatalf("slot %d took %s from another file", index, name)
	}
	w.slots[index] = slot{name, body, w.fence.N}
	w.files[name] = body
}

func (w *world) late(t *rapid.T) {
	if len(w.old) == 0 {
		return
	}
	f := rapid.SampledFrom(w.old).Draw(t, "attempt")
	o := w.output(t, f, rapid.IntRange(0, 3).Draw(t, "index"), "late")
	// A repeat of what it delivered itself, and nobody replaced, changes nothing and may be answered.
	if _, err := w.s.deliver.Deliver(context.Background(), o); err != nil && code(err) != "stale_fence" {
		t.Fatal(err)
	}
}

func (w *world) ref(t *rapid.T) (file.Ref, string) {
	n := rapid.IntRange(1, 4).Draw(t, "number")
	ref := out(fmt.Sprintf("ComfyUI_%05d_.png", n))
	return ref, path.Join(ref.Type, ref.Name)
}

func (w *world) delete(t *rapid.T) {
	ref, name := w.ref(t)
	_, there := w.files[name]
	if err := w.s.files.Delete(context.Background(), w.user, ref); (err == nil) != there {
		t.Fatalf("deletion of %s gave %v", name, err)
	}
	delete(w.files, name)
}

func (w *world) overwrite(t *rapid.T) {
	ref, name := w.ref(t)
	if _, err := w.s.files.Upload(context.Background(), w.user, ref, true, strings.NewReader("retouched")); err != nil {
		t.Fatal(err)
	}
	w.files[name] = "retouched"
}

func (w *world) check(t *testing.T, rt *rapid.T) {
	got := map[string]string{}
	for name, body := range w.s.holds(t, w.user) {
		got[name] = body
	}
	if diff := cmp.Diff(w.files, got); diff != "" {
		rt.Fatalf("-want +got:\n%s", diff)
	}
	shown := map[int]string{}
	came, err := w.s.deliver.OfJob(context.Background(), w.user, w.fence.Job)
	if err != nil {
		rt.Fatal(err)
	}
	for i, d := range came {
		if d.Node != "9" || d.Key != "images" || d.Job != w.fence.Job || i > 0 && came[i-1].Index >= d.Index {
			rt.Fatalf("delivered for the job: %+v", came)
		}
		shown[d.Index] = path.Join(d.Ref.Type, d.Ref.Name)
	}
	intact := map[int]string{}
	for index, s := range w.slots {
		if w.files[s.name] == s.body {
			intact[index] = s.name
		}
	}
	if diff := cmp.Diff(intact, shown); diff != "" {
		rt.Fatalf("delivered for the job, -want +got:\n%s", diff)
	}
	for index, s := range w.slots {
		o := w.output(rt, job.Fence{Job: w.fence.Job, N: s.fence}, index, "")
		info, err := w.s.deliver.Resolve(context.Background(), o)
		intact := w.files[s.name] == s.body
		if (err == nil) != intact || err == nil && path.Join(info.Type, info.Name) != s.name {
			rt.Fatalf("slot %d, %+v, intact %v, resolves to %+v, %v", index, s, intact, info, err)
		}
	}
}

func FuzzParseName(f *testing.F) {
	for _, name := range []string{
		"ComfyUI_00001_.png", "a_00001-audio.mp4", "_00001_", "0001", "_0001", "x_99999999999999999999_.png", "a/b\\c_0001.png", ".._0001_.png",
		strings.Repeat("é", 200) + "_00001_.png", "con_0001", "a_0001" + strings.Repeat("b", 300), "a_0001.",
	} {
		f.Add(name, "", "sub/../..")
		f.Add(name, "stem", "")
	}
	f.Fuzz(func(t *testing.T, name, stem, sub string) {
		n := deliver.ParseName(file.Ref{Type: file.Output, Subfolder: sub, Name: name}, stem)
		seen := map[string]bool{}
		for _, i := range []int64{1, 2, 10, 99999, 100000, 1 << 40} {
			ref := file.Ref{Type: n.Type, Subfolder: n.Subfolder, Name: n.With(i)}
			if got, err := ref.Check(); err != nil || got != ref {
				t.Fatalf("%q, %q, %q became %+v: %v", name, stem, sub, ref, err)
			}
			if seen[ref.Name] {
				t.Fatalf("%q, %q gives %q twice", name, stem, ref.Name)
			}
			seen[ref.Name] = true
		}
	})
}
