package redis

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/ahelme/comfyume/internal/deliver"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/job"
)

var _ deliver.Store = (*Files)(nil)

// The keys of deliveries.
const (
	inDeliveries = "deliveries" // job → its slots that were delivered
	inOrigins    = "origins"    // where a file came from → the newest file that did
)

// slotDocument is what a slot of a job holds.
type slotDocument struct {
	Node    string `json:"node"`
	Key     string `json:"key"`
	Index   int    `json:"index"`
	Fence   int64  `json:"fence"` // of the attempt whose bytes these are
	Attempt int    `json:"attempt"`
	File    int64  `json:"file"`
	Hash    string `json:"hash"`             // of the bytes that came
	Theirs  string `json:"theirs,omitempty"` // the counted name on the back end without its ending; empty without a counter
	Number  int64  `json:"number"`           // the owner's own counter
	Origin  string `json:"from"`
}

// originDocument is the file that came from somewhere.
type originDocument struct {
	File int64  `json:"file"`
	Hash string `json:"hash"` // of the bytes that came
}

// originText is an origin as one value that can be compared.
func originText(o deliver.Origin) (string, error) {
	b, err := json.Marshal([]string{o.BackEnd, o.Epoch, o.Ref.Type, o.Ref.Subfolder, o.Ref.Name})
	return string(b), err
}

func errUndelivered() error {
	return fault.New(fault.Missing, "This output was not brought here.").WithCode("undelivered")
}

// slotOf reads what a slot holds, and all slots of its job.
func slotOf(c *change, slot deliver.Slot) (slots []slotDocument, at int, err error) {
	slots, _, err = load[[]slotDocument](c, inDeliveries, string(slot.Job))
	at = slices.IndexFunc(slots, func(d slotDocument) bool {
		return d.Node == slot.Node && d.Key == slot.Key && d.Index == slot.Index
	})
	return slots, at, err
}

// owned returns the person's file with a number while it has the bytes.
func owned(c *change, user string, id int64, hash string) (f fileRow, ok bool, err error) {
	f, there, err := fileOf(c, id)
	return f, err == nil && there && f.User == user && f.Hash == hash, err
}

// Delivered implements deliver.Store.
func (s *Files) Delivered(ctx context.Context, user string, fence int64, slot deliver.Slot, from deliver.Origin) (file.Info, error) {
	origin, err := originText(from)
	if err != nil {
		return file.Info{}, err
	}
	c := s.db.look(ctx)
	slots, at, err := slotOf(c, slot)
	if err != nil {
		return file.Info{}, err
	}
	if at < 0 || slots[at].Fence != fence || slots[at].Origin != origin {
		return file.Info{}, errUndelivered()
	}
	return infoOr(owned(c, user, slots[at].File, slots[at].Hash))
}

func infoOr(f fileRow, ok bool, err error) (file.Info, error) {
	if err != nil {
		return file.Info{}, err
	}
	if !ok {
		return file.Info{}, errUndelivered()
	}
	return f.info(), nil
}

// Resolve implements deliver.Store.
func (s *Files) Resolve(ctx context.Context, user string, slot deliver.Slot, from deliver.Origin) (file.Info, error) {
	c := s.db.look(ctx)
	slots, at, err := slotOf(c, slot)
	if err != nil {
		return file.Info{}, err
	}
	if at >= 0 {
		f, ok, err := owned(c, user, slots[at].File, slots[at].Hash)
		if ok || err != nil {
			return infoOr(f, ok, err)
		}
	}
	origin, err := originText(from)
	if err != nil {
		return file.Info{}, err
	}
	o, there, err := load[originDocument](c, inOrigins, origin)
	if err != nil {
		return file.Info{}, err
	}
	if !there {
		return file.Info{}, errUndelivered()
	}
	return infoOr(owned(c, user, o.File, o.Hash))
}

// OfJob implements deliver.Store.
func (s *Files) OfJob(ctx context.Context, user string, id job.ID) ([]deliver.Delivered, error) {
	c := s.db.look(ctx)
	slots, _, err := load[[]slotDocument](c, inDeliveries, string(id))
	if err != nil {
		return nil, err
	}
	slices.SortFunc(slots, func(x, y slotDocument) int {
		return cmp.Or(cmp.Compare(x.Node, y.Node), cmp.Compare(x.Key, y.Key), cmp.Compare(x.Index, y.Index))
	})
	var list []deliver.Delivered
	for _, d := range slots {
		f, ok, err := owned(c, user, d.File, d.Hash)
		if err != nil {
			return nil, err
		}
		if ok {
			list = append(list, deliver.Delivered{Slot: deliver.Slot{Job: id, Node: d.Node, Key: d.Key, Index: d.Index}, Ref: f.info().Ref})
		}
	}
	return list, nil
}

// Deliver implements deliver.Store.
func (s *Files) Deliver(ctx context.Context, d deliver.Delivery) (info file.Info, unused []string, err error) {
	err = s.changeFiles(ctx, d.User, func(c *change) (err error) {
		info, unused, err = s.deliver(c, d)
		return err
	})
	if err != nil {
		return file.Info{}, nil, err
	}
	return info, unused, nil
}

func (s *Files) deliver(c *change, d deliver.Delivery) (file.Info, []string, error) {
	if err := checkFence(c, d); err != nil {
		return file.Info{}, nil, err
	}
	slots, at, err := slotOf(c, d.Slot)
	if err != nil {
		return file.Info{}, nil, err
	}
	if at < 0 {
		return s.deliverNew(c, d, nil)
	}
	old, there, err := fileOf(c, slots[at].File)
	if err != nil {
		return file.Info{}, nil, err
	}
	switch {
	case !there || old.Hash != slots[at].Hash: // its owner deleted it, or has written other bytes under the name
		return s.deliverNew(c, d, nil)
	case old.Hash == d.Sum.Hash():
		return old.info(), []string{d.Blob}, s.note(c, d, &old, slots[at].Number)
	case !fits(&old, d.Want): // the new bytes are of another kind
		if err := forget(c, &old); err != nil {
			return file.Info{}, nil, err
		}
		return s.deliverNew(c, d, []string{old.Key})
	default:
		f, err := replaceFile(c, &old, d.Blob, d.Sum, d.Modified, d.Slot.Job, d.Slot.Node)
		if err != nil {
			return file.Info{}, nil, err
		}
		return f.info(), []string{old.Key}, s.note(c, d, f, slots[at].Number)
	}
}

// checkFence refuses an attempt that is not the job's any more. The job's row is a condition of the delivery by that.
func checkFence(c *change, d deliver.Delivery) error {
	seq, there, err := c.get("ids", string(d.Slot.Job))
	if err != nil {
		return err
	}
	if !there {
		return deliver.ErrStale()
	}
	text, open, err := c.get("open", seq)
	if err != nil {
		return err
	}
	if !open {
		return deliver.ErrStale()
	}
	r, err := readRecord(0, text)
	switch {
	case err != nil:
		return err
	case r.job.User != d.User:
		return fmt.Errorf("job %s is not a job of %s", d.Slot.Job, d.User)
	case r.job.Attempt.Fence != d.Fence || r.job.State != job.Running:
		return deliver.ErrStale()
	}
	return nil
}

// fits reports whether a file can take bytes that want another name: a picture does not become a film.
func fits(f *fileRow, want deliver.Name) bool {
	_, ext := file.SplitExt(f.Name)
	return f.Type == want.Type && f.Subfolder == want.Subfolder && ext == want.Ext()
}

// deliverNew gives the bytes a name of their own.
func (s *Files) deliverNew(c *change, d deliver.Delivery, unused []string) (file.Info, []string, error) {
	n, err := s.claim(c, d)
	if err != nil {
		return file.Info{}, nil, err
	}
	ref := file.Ref{Type: d.Want.Type, Subfolder: d.Want.Subfolder, Name: d.Want.With(n)}
	f, err := s.newFile(c, d.User, ref, d.Blob, d.Sum, d.Modified, d.Slot.Job, d.Slot.Node)
	if err != nil {
		return file.Info{}, nil, err
	}
	return f.info(), unused, s.note(c, d, f, n)
}

// claim chooses the number of a new name. Files of one run that share a counter on the back end, such as a film and its
// first picture, share one here.
func (s *Files) claim(c *change, d deliver.Delivery) (int64, error) {
	where := file.Ref{Type: d.Want.Type, Subfolder: d.Want.Subfolder}
	if d.Want.Counted {
		slots, _, err := slotOf(c, d.Slot)
		if err != nil {
			return 0, err
		}
		if at := slices.IndexFunc(slots, func(x slotDocument) bool { return x.Theirs == theirs(d) }); at >= 0 {
			n := slots[at].Number
			_, taken, err := c.get(inFileNames, nameField(d.User, where.Type, where.Subfolder, d.Want.With(n)))
			if err != nil || !taken {
				return n, err
			}
		}
	}
	return number(c, d.User, where, d.Want.Before, d.Modified, d.Want.With)
}

// theirs is the counted name on the back end without its ending.
func theirs(d deliver.Delivery) string {
	if !d.Want.Counted {
		return ""
	}
	return d.Want.Type + "/" + d.Want.Subfolder + "/" + d.Want.Before + d.Want.Theirs
}

// note records what the slot holds and where it came from.
func (s *Files) note(c *change, d deliver.Delivery, f *fileRow, number int64) error {
	origin, err := originText(d.From)
	if err != nil {
		return err
	}
	slots, at, err := slotOf(c, d.Slot)
	if err != nil {
		return err
	}
	row := slotDocument{
		Node: d.Slot.Node, Key: d.Slot.Key, Index: d.Slot.Index, Fence: d.Fence, Attempt: d.Attempt, File: f.id,
		Hash: d.Sum.Hash(), Theirs: theirs(d), Number: number, Origin: origin,
	}
	if at < 0 {
		slots = append(slots, row)
	} else {
		slots[at] = row
	}
	if err := save(c, inDeliveries, string(d.Slot.Job), slots); err != nil {
		return err
	}
	if err := save(c, inOrigins, origin, originDocument{File: f.id, Hash: d.Sum.Hash()}); err != nil {
		return err
	}
	if slices.Contains(f.Origins, origin) {
		return nil
	}
	f.Origins = append(slices.Clone(f.Origins), origin)
	return save(c, inFiles, decimal(f.id), f.fileDocument)
}

// ForgetOrigins implements deliver.Store.
func (s *Files) ForgetOrigins(ctx context.Context, backEnd, epoch string) error {
	var gone []string
	err := s.db.scan(ctx, inOrigins, func(field, _ string) error {
		var parts []string
		if err := json.Unmarshal([]byte(field), &parts); err != nil || len(parts) < 2 {
			return errRecord
		}
		if parts[0] == backEnd && parts[1] != epoch {
			gone = append(gone, field)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for page := range slices.Chunk(gone, scanCount) {
		if _, err := s.db.read(ctx, s.db.client.B().Hdel().Key(s.db.key(inOrigins)).Field(page...).Build()); err != nil {
			return err
		}
	}
	return nil
}

// PruneDeliveries implements deliver.Store.
func (s *Files) PruneDeliveries(ctx context.Context, before time.Time, most int) (int, error) {
	jobs := map[string]int{}
	err := s.db.scan(ctx, inDeliveries, func(id, text string) error {
		slots, err := decode[[]slotDocument](text)
		jobs[id] = len(slots)
		return err
	})
	if err != nil {
		return 0, err
	}
	slots := 0
	for id, n := range jobs {
		if slots >= most {
			break
		}
		gone := false
		err := s.db.update(ctx, func(c *change) error {
			seq, there, err := c.get("ids", id)
			if err != nil {
				return err
			}
			if there {
				if _, open, err := c.get("open", seq); err != nil || open {
					return err
				}
			}
			gone = true
			c.drop(inDeliveries, id)
			return nil
		})
		if err != nil {
			return 0, err
		}
		if gone {
			slots += n
		}
	}
	counters, err := s.pruneCounters(ctx, before, most)
	return max(slots, counters), err // either may have more
}

// pruneCounters forgets counters of temp names that nobody used since then.
func (s *Files) pruneCounters(ctx context.Context, before time.Time, most int) (n int, err error) {
	old := func() ([]string, error) {
		results, err := s.db.read(ctx, s.db.client.B().Zrangebyscore().Key(s.db.key(byCounterUse)).Min("-inf").
			Max("("+decimal(stamp(before))).Limit(0, int64(most)).Build())
		if err != nil {
			return nil, err
		}
		return results[0].AsStrSlice()
	}
	err = s.db.update(ctx, func(c *change) error {
		fields, err := old()
		if err != nil {
			return err
		}
		if err := c.fetch(inCounters, fields); err != nil {
			return err
		}
		// One that was used before its number was read is not old any more; one that is used from now on has another number.
		still, err := old()
		if err != nil {
			return err
		}
		fields = slices.DeleteFunc(fields, func(f string) bool { return !slices.Contains(still, f) })
		n = len(fields)
		dropCounters(c, fields)
		return nil
	})
	return n, err
}
