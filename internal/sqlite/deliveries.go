package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/ahelme/comfyume/internal/deliver"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/job"
)

var _ deliver.Store = (*Files)(nil)

// Queries about deliveries.
const (
	sqlDelivered = `select ` + sqlFileColumns + ` from delivery d join file f on f.id = d.file
		where d.job = ? and d.node = ? and d.key = ? and d.idx = ? and d.fence = ? and d.origin = ? and f.user = ? and f.hash = d.hash`
	sqlDeliveredBefore = `select ` + sqlFileColumns + ` from delivery d join file f on f.id = d.file
		where d.job = ? and d.node = ? and d.key = ? and d.idx = ? and f.user = ? and f.hash = d.hash`
	sqlDeliveriesOf = `select ` + sqlFileColumns + `, d.node, d.key, d.idx from delivery d join file f on f.id = d.file
		where d.job = ? and f.user = ? and f.hash = d.hash order by d.node, d.key, d.idx`
	sqlDeliverySlot = `select ` + sqlFileColumns + `, d.fence, d.number, d.hash from delivery d join file f on f.id = d.file
		where d.job = ? and d.node = ? and d.key = ? and d.idx = ?`
	sqlDeliverySet = `insert into delivery (job, node, key, idx, fence, attempt, file, hash, theirs, number, origin)
		values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		on conflict do update set fence = excluded.fence, attempt = excluded.attempt, file = excluded.file, hash = excluded.hash,
			theirs = excluded.theirs, number = excluded.number, origin = excluded.origin`
	sqlDeliveryTwin   = `select number from delivery indexed by delivery_theirs where job = ? and theirs = ? limit 1`
	sqlDeliveryFence  = `select user, state, fence from job where id = ?`
	sqlDeliveriesOver = `delete from delivery where (job, node, key, idx) in (
		select d.job, d.node, d.key, d.idx from delivery d
		where not exists (select 1 from job j where j.id = d.job and j.ended is null) limit ?)`
	sqlCountersOver = `delete from file_counter where (user, type, subfolder, stem) in (
		select user, type, subfolder, stem from file_counter where type = 'temp' and used < ? limit ?)`

	sqlOriginFile = `select ` + sqlFileColumns + ` from file_origin o join file f on f.id = o.file
		where o.back_end = ? and o.epoch = ? and o.type = ? and o.subfolder = ? and o.name = ? and f.user = ? and f.hash = o.hash`
	sqlOriginSet = `insert into file_origin (back_end, epoch, type, subfolder, name, file, hash) values (?, ?, ?, ?, ?, ?, ?)
		on conflict do update set file = excluded.file, hash = excluded.hash`
	sqlOriginsOver = `delete from file_origin where back_end = ? and epoch <> ?`
)

// Delivered implements deliver.Store.
func (s *Files) Delivered(ctx context.Context, user string, fence int64, slot deliver.Slot, from deliver.Origin) (file.Info, error) {
	origin, err := originText(from)
	if err != nil {
		return file.Info{}, err
	}
	f, err := scanFile(s.db.QueryRow(ctx, sqlDelivered, string(slot.Job), slot.Node, slot.Key, slot.Index, fence, origin, user))
	f, err = fileOr(f, errUndelivered(), err)
	return f.Info, classify(err)
}

// Resolve implements deliver.Store.
func (s *Files) Resolve(ctx context.Context, user string, slot deliver.Slot, from deliver.Origin) (file.Info, error) {
	f, err := scanFile(s.db.QueryRow(ctx, sqlDeliveredBefore, string(slot.Job), slot.Node, slot.Key, slot.Index, user))
	if !errors.Is(err, sql.ErrNoRows) {
		return f.Info, classify(err)
	}
	f, err = scanFile(s.db.QueryRow(ctx, sqlOriginFile, from.BackEnd, from.Epoch, from.Ref.Type, from.Ref.Subfolder, from.Ref.Name, user))
	f, err = fileOr(f, errUndelivered(), err)
	return f.Info, classify(err)
}

// OfJob implements deliver.Store.
func (s *Files) OfJob(ctx context.Context, user string, id job.ID) ([]deliver.Delivered, error) {
	rows, err := s.db.Query(ctx, sqlDeliveriesOf, string(id), user)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	var list []deliver.Delivered
	for rows.Next() {
		d := deliver.Delivered{Slot: deliver.Slot{Job: id}}
		f, err := scanFile(rows, &d.Node, &d.Key, &d.Index)
		if err != nil {
			return nil, classify(err)
		}
		d.Ref = f.Info.Ref
		list = append(list, d)
	}
	return list, classify(rows.Err())
}

func errUndelivered() error {
	return fault.New(fault.Missing, "This output was not brought here.").WithCode("undelivered")
}

// originText is an origin as one value that can be compared.
func originText(o deliver.Origin) (string, error) {
	b, err := json.Marshal([]string{o.BackEnd, o.Epoch, o.Ref.Type, o.Ref.Subfolder, o.Ref.Name})
	return string(b), err
}

// slotRow is what a slot holds already.
type slotRow struct {
	file   fileRow
	fence  int64
	number int64
	hash   []byte
}

// Deliver implements deliver.Store.
func (s *Files) Deliver(ctx context.Context, d deliver.Delivery) (info file.Info, unused []string, err error) {
	err = s.db.Write(ctx, func(tx *Tx) error {
		info, unused, err = s.deliver(tx, d)
		return err
	})
	if err != nil {
		return file.Info{}, nil, err
	}
	return info, unused, nil
}

func (s *Files) deliver(tx *Tx, d deliver.Delivery) (file.Info, []string, error) {
	if err := checkFence(tx, d); err != nil {
		return file.Info{}, nil, err
	}
	old, there, err := slotOf(tx, d.Slot)
	if err != nil {
		return file.Info{}, nil, err
	}
	ours := there && bytes.Equal(old.hash, old.file.hash[:]) // the owner has not written other bytes under the name
	switch {
	case !ours:
		return s.deliverNew(tx, d, nil)
	case old.file.hash == d.Sum.SHA256:
		return old.file.Info, []string{d.Blob}, s.note(tx, d, old.file.id, old.number)
	case !fits(old.file.Info.Ref, d.Want): // the new bytes are of another kind
		s.changed(tx, d.User)
		if _, err := tx.Exec(sqlFileDelete, old.file.id); err != nil {
			return file.Info{}, nil, err
		}
		return s.deliverNew(tx, d, []string{old.file.Key})
	default:
		info, err := s.replace(tx, d.User, old.file, d.Blob, d.Sum, d.Modified, d.Slot.Job, d.Slot.Node)
		if err != nil {
			return file.Info{}, nil, err
		}
		return info, []string{old.file.Key}, s.note(tx, d, old.file.id, old.number)
	}
}

// checkFence refuses an attempt that is not the job's any more.
func checkFence(tx *Tx, d deliver.Delivery) error {
	var (
		user, state string
		fence       int64
	)
	err := tx.QueryRow(sqlDeliveryFence, string(d.Slot.Job)).Scan(&user, &state, &fence)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return deliver.ErrStale()
	case err != nil:
		return err
	case user != d.User:
		return fmt.Errorf("job %s is not a job of %s", d.Slot.Job, d.User)
	case fence != d.Fence || job.State(state) != job.Running:
		return deliver.ErrStale()
	}
	return nil
}

// slotOf reads what a slot holds. there is false where nothing was delivered, or its owner deleted it.
func slotOf(tx *Tx, slot deliver.Slot) (old slotRow, there bool, err error) {
	old.file, err = scanFile(tx.QueryRow(sqlDeliverySlot, string(slot.Job), slot.Node, slot.Key, slot.Index),
		&old.fence, &old.number, &old.hash)
	if errors.Is(err, sql.ErrNoRows) {
		return slotRow{}, false, nil
	}
	return old, err == nil, err
}

// fits reports whether a file called ref can take bytes that want another name: a picture does not become a film.
func fits(ref file.Ref, want deliver.Name) bool {
	_, ext := file.SplitExt(ref.Name)
	return ref.Type == want.Type && ref.Subfolder == want.Subfolder && ext == want.Ext()
}

// deliverNew gives the bytes a name of their own.
func (s *Files) deliverNew(tx *Tx, d deliver.Delivery, unused []string) (file.Info, []string, error) {
	n, err := s.claim(tx, d)
	if err != nil {
		return file.Info{}, nil, err
	}
	ref := file.Ref{Type: d.Want.Type, Subfolder: d.Want.Subfolder, Name: d.Want.With(n)}
	info, row, err := s.insert(tx, d.User, ref, d.Blob, d.Sum, d.Modified, d.Slot.Job, d.Slot.Node)
	if err != nil {
		return file.Info{}, nil, err
	}
	return info, unused, s.note(tx, d, row, n)
}

// claim chooses the number of a new name. Files of one run that share a counter on the back end, such as a film and
// its first picture, share one here.
func (s *Files) claim(tx *Tx, d deliver.Delivery) (int64, error) {
	where := file.Ref{Type: d.Want.Type, Subfolder: d.Want.Subfolder}
	if d.Want.Counted {
		var n int64
		err := tx.QueryRow(sqlDeliveryTwin, string(d.Slot.Job), theirs(d)).Scan(&n)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return 0, err
		}
		if err == nil {
			taken, err := exists(tx, sqlFileTaken, d.User, where.Type, where.Subfolder, d.Want.With(n))
			if err != nil || !taken {
				return n, err
			}
		}
	}
	return s.number(tx, d.User, where, d.Want.Before, d.Modified, d.Want.With)
}

// theirs is the counted name on the back end without its ending.
func theirs(d deliver.Delivery) string {
	if !d.Want.Counted {
		return ""
	}
	return d.Want.Type + "/" + d.Want.Subfolder + "/" + d.Want.Before + d.Want.Theirs
}

// note records what the slot holds and where it came from.
func (s *Files) note(tx *Tx, d deliver.Delivery, row, number int64) error {
	origin, err := originText(d.From)
	if err != nil {
		return err
	}
	_, err = tx.Exec(sqlDeliverySet, string(d.Slot.Job), d.Slot.Node, d.Slot.Key, d.Slot.Index,
		d.Fence, d.Attempt, row, d.Sum.SHA256[:], theirs(d), number, origin)
	if err != nil {
		return err
	}
	o := d.From
	_, err = tx.Exec(sqlOriginSet, o.BackEnd, o.Epoch, o.Ref.Type, o.Ref.Subfolder, o.Ref.Name, row, d.Sum.SHA256[:])
	return err
}

// ForgetOrigins implements deliver.Store.
func (s *Files) ForgetOrigins(ctx context.Context, backEnd, epoch string) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.Exec(sqlOriginsOver, backEnd, epoch)
		return err
	})
}

// PruneDeliveries implements deliver.Store.
func (s *Files) PruneDeliveries(ctx context.Context, before time.Time, most int) (int, error) {
	var gone int64
	err := s.db.Write(ctx, func(tx *Tx) error {
		slots, err := tx.Affect(sqlDeliveriesOver, most)
		if err != nil {
			return err
		}
		counters, err := tx.Affect(sqlCountersOver, stamp(before), most)
		gone = max(slots, counters) // either may have more
		return err
	})
	return int(gone), err
}
