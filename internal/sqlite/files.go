package sqlite

import (
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"sync/atomic"
	"time"

	"github.com/ahelme/comfyume/internal/blob"
	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/workspace"
)

// Files is the table of people's files: the workspace.Store, and in deliveries.go the deliver.Store, in the database.
type Files struct{ db *DB }

var _ workspace.Store = (*Files)(nil)

// NewFiles returns the table of files in db.
func NewFiles(db *DB) *Files { return &Files{db: db} }

// Queries about files.
const (
	sqlFileColumns = `f.type, f.subfolder, f.name, f.size, f.hash, f.modified, f.job, f.node, f.blob_key, f.id`

	sqlFile = `select ` + sqlFileColumns + ` from file f
		where f.user = ? and f.type = ? and f.subfolder = ? and f.name = ?`
	sqlFilesNewest = `select ` + sqlFileColumns + ` from file f
		where f.user = ? and f.type = ? order by f.modified desc, f.id desc`
	sqlFilesSame = `select ` + sqlFileColumns + ` from file f
		where f.user = ? and f.type = ? and f.subfolder = ? and f.hash = ?`
	sqlFileTaken  = `select 1 from file where user = ? and type = ? and subfolder = ? and name = ?`
	sqlFileInsert = `insert into file (user, type, subfolder, name, blob_key, size, hash, modified, job, node)
		values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
	sqlFileReplace = `update file set blob_key = ?, size = ?, hash = ?, modified = ?, job = ?, node = ? where id = ?`
	sqlFileTouch   = `update file set modified = max(?, modified + 1) where id = ?`
	sqlFileDelete  = `delete from file where id = ?`
	sqlFilesForget = `delete from file where id in (select id from file where user = ? limit ?) returning blob_key`
	sqlFilesExpire = `delete from file where id in (select id from file where type = 'temp' and modified < ? limit ?)
		returning blob_key, user`
	sqlFilesUnknown = `select k.value from json_each(?) k where not exists (select 1 from file f where f.blob_key = k.value)`
	sqlFileUsage    = `select bytes, files from file_usage where user = ?`

	sqlCounterNext = `select next from file_counter where user = ? and type = ? and subfolder = ? and stem = ?`
	sqlCounterSet  = `insert into file_counter (user, type, subfolder, stem, next, used) values (?, ?, ?, ?, ?, ?)
		on conflict do update set next = max(next, excluded.next), used = excluded.used`
	sqlCountersForget = `delete from file_counter where user = ?`
)

// fileRow is a row of file with its id.
type fileRow struct {
	workspace.Stored
	id   int64
	hash [32]byte
}

func scanFile(row scanner, more ...any) (f fileRow, err error) {
	var (
		hash     []byte
		modified int64
		owner    string
	)
	in := &f.Info
	dest := append([]any{&in.Type, &in.Subfolder, &in.Name, &in.Size, &hash, &modified, &owner, &in.Node, &f.Key, &f.id}, more...)
	if err := row.Scan(dest...); err != nil {
		return fileRow{}, err
	}
	copy(f.hash[:], hash)
	in.Hash, in.Modified, in.Job = hex.EncodeToString(hash), fromStamp(modified), job.ID(owner)
	return f, nil
}

// fileOr turns "no rows" into otherwise.
func fileOr(f fileRow, otherwise, err error) (fileRow, error) {
	if errors.Is(err, sql.ErrNoRows) {
		return fileRow{}, otherwise
	}
	return f, err
}

// FileVersion implements workspace.Store.
func (s *Files) FileVersion(user string) uint64 { return s.version(user).Load() }

func (s *Files) version(user string) *atomic.Uint64 {
	if v, ok := s.db.files.Load(user); ok {
		return v.(*atomic.Uint64)
	}
	v, _ := s.db.files.LoadOrStore(user, new(atomic.Uint64))
	return v.(*atomic.Uint64)
}

// changed lets user's version grow once tx is durable.
func (s *Files) changed(tx *Tx, user string) {
	v := s.version(user)
	tx.AfterCommit(func() { v.Add(1) })
}

// File implements workspace.Store.
func (s *Files) File(ctx context.Context, user string, ref file.Ref) (workspace.Stored, error) {
	f, err := scanFile(s.db.QueryRow(ctx, sqlFile, user, ref.Type, ref.Subfolder, ref.Name))
	f, err = fileOr(f, workspace.ErrNoFile(), err)
	return f.Stored, classify(err)
}

// Files implements workspace.Store.
func (s *Files) Files(ctx context.Context, user, typ string) ([]file.Info, error) {
	rows, err := s.db.Query(ctx, sqlFilesNewest, user, typ)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	var list []file.Info
	for rows.Next() {
		f, err := scanFile(rows)
		if err != nil {
			return nil, classify(err)
		}
		list = append(list, f.Info)
	}
	return list, classify(rows.Err())
}

// FileUsage implements workspace.Store.
func (s *Files) FileUsage(ctx context.Context, user string) (u workspace.Usage, err error) {
	err = s.db.QueryRow(ctx, sqlFileUsage, user).Scan(&u.Bytes, &u.Files)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return u, classify(err)
}

// UnknownKeys implements workspace.Store.
func (s *Files) UnknownKeys(ctx context.Context, keys []string) ([]string, error) {
	list, err := json.Marshal(keys)
	if err != nil {
		return nil, err
	}
	rows, err := s.db.Query(ctx, sqlFilesUnknown, string(list))
	return column(rows, err)
}

// column reads rows of one text column.
func column(rows *sql.Rows, err error) (list []string, _ error) {
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, classify(err)
		}
		list = append(list, s)
	}
	return list, classify(rows.Err())
}

// PlaceFile implements workspace.Store.
func (s *Files) PlaceFile(ctx context.Context, p workspace.Placement) (placed workspace.Placed, err error) {
	err = s.db.Write(ctx, func(tx *Tx) error {
		placed, err = s.place(tx, p)
		return err
	})
	if err != nil {
		return workspace.Placed{}, err
	}
	return placed, nil
}

func (s *Files) place(tx *Tx, p workspace.Placement) (workspace.Placed, error) {
	old, err := scanFile(tx.QueryRow(sqlFile, p.User, p.Ref.Type, p.Ref.Subfolder, p.Ref.Name))
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return s.placeNew(tx, p)
	case err != nil:
		return workspace.Placed{}, err
	case old.hash == p.Sum.SHA256:
		if p.Overwrite { // written again: newer, though nothing changed
			s.changed(tx, p.User)
			if _, err := tx.Exec(sqlFileTouch, stamp(p.Modified), old.id); err != nil {
				return workspace.Placed{}, err
			}
			old, err = scanFile(tx.QueryRow(sqlFile, p.User, p.Ref.Type, p.Ref.Subfolder, p.Ref.Name))
		}
		return workspace.Placed{Info: old.Info, Unused: p.Key}, err
	case p.Overwrite:
		return s.placeOver(tx, p, old)
	default:
		return s.placeBeside(tx, p)
	}
}

// placeNew gives a free name.
func (s *Files) placeNew(tx *Tx, p workspace.Placement) (workspace.Placed, error) {
	if err := checkQuota(tx, p, p.Sum.Size); err != nil {
		return workspace.Placed{}, err
	}
	info, _, err := s.insert(tx, p.User, p.Ref, p.Key, p.Sum, p.Modified, "", "")
	return workspace.Placed{Info: info}, err
}

// placeOver takes the name from old.
func (s *Files) placeOver(tx *Tx, p workspace.Placement, old fileRow) (workspace.Placed, error) {
	if err := checkQuota(tx, p, p.Sum.Size-old.Info.Size); err != nil {
		return workspace.Placed{}, err
	}
	info, err := s.replace(tx, p.User, old, p.Key, p.Sum, p.Modified, "", "")
	return workspace.Placed{Info: info, Unused: old.Key}, err
}

// placeBeside gives the next free number, or returns the sibling that has the same bytes.
func (s *Files) placeBeside(tx *Tx, p workspace.Placement) (workspace.Placed, error) {
	same, err := s.sibling(tx, p)
	if err != nil || same != nil {
		return workspace.Placed{Info: deref(same), Unused: p.Key}, err
	}
	want, wanted := p.Ref, p.Ref.Name
	n, err := s.number(tx, p.User, want, wanted, p.Modified, func(n int64) string { return file.Numbered(wanted, int(n)) })
	if err != nil {
		return workspace.Placed{}, err
	}
	p.Ref.Name = file.Numbered(wanted, int(n))
	return s.placeNew(tx, p)
}

func deref(i *file.Info) file.Info {
	if i == nil {
		return file.Info{}
	}
	return *i
}

// sibling returns the file with the same bytes whose name is a number of the wanted one, the lowest if there are
// several, and nil if there is none.
func (s *Files) sibling(tx *Tx, p workspace.Placement) (*file.Info, error) {
	rows, err := tx.Query(sqlFilesSame, p.User, p.Ref.Type, p.Ref.Subfolder, p.Sum.SHA256[:])
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var found *file.Info
	lowest := 0
	for rows.Next() {
		f, err := scanFile(rows)
		if err != nil {
			return nil, err
		}
		if n, ok := file.Number(p.Ref.Name, f.Info.Name); ok && (found == nil || n < lowest) {
			found, lowest = &f.Info, n
		}
	}
	return found, rows.Err()
}

// number claims the next number of stem whose name is free. name gives the name of a number; Type and Subfolder of
// ref say where.
func (s *Files) number(tx *Tx, user string, ref file.Ref, stem string, now time.Time, name func(int64) string) (int64, error) {
	n := int64(1)
	err := tx.QueryRow(sqlCounterNext, user, ref.Type, ref.Subfolder, stem).Scan(&n)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, err
	}
	for {
		taken, err := exists(tx, sqlFileTaken, user, ref.Type, ref.Subfolder, name(n))
		if err != nil {
			return 0, err
		}
		if !taken {
			_, err = tx.Exec(sqlCounterSet, user, ref.Type, ref.Subfolder, stem, n+1, stamp(now))
			return n, err
		}
		n++
	}
}

// insert adds a file.
func (s *Files) insert(tx *Tx, user string, ref file.Ref, key string, sum blob.Sum, at time.Time, id job.ID, node string) (file.Info, int64, error) {
	s.changed(tx, user)
	res, err := tx.Exec(sqlFileInsert, user, ref.Type, ref.Subfolder, ref.Name, key, sum.Size, sum.SHA256[:], stamp(at), string(id), node)
	if err != nil {
		return file.Info{}, 0, err
	}
	row, err := res.LastInsertId()
	return fileInfo(ref, sum, at, id, node), row, err
}

// replace gives a file other bytes. Its time grows in any case, so that who compares times sees the change.
func (s *Files) replace(tx *Tx, user string, old fileRow, key string, sum blob.Sum, at time.Time, id job.ID, node string) (file.Info, error) {
	s.changed(tx, user)
	if next := old.Info.Modified.Add(time.Millisecond); at.Before(next) {
		at = next
	}
	_, err := tx.Exec(sqlFileReplace, key, sum.Size, sum.SHA256[:], stamp(at), string(id), node, old.id)
	return fileInfo(old.Info.Ref, sum, at, id, node), err
}

func fileInfo(ref file.Ref, sum blob.Sum, at time.Time, id job.ID, node string) file.Info {
	return file.Info{Ref: ref, Size: sum.Size, Hash: sum.Hash(), Modified: fromStamp(stamp(at)), Job: id, Node: node}
}

func checkQuota(tx *Tx, p workspace.Placement, more int64) error {
	if p.Quota <= 0 || more <= 0 {
		return nil
	}
	var bytes, files int64
	err := tx.QueryRow(sqlFileUsage, p.User).Scan(&bytes, &files)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if bytes+more > p.Quota {
		return workspace.ErrQuota(p.Quota)
	}
	return nil
}

// RemoveFile implements workspace.Store.
func (s *Files) RemoveFile(ctx context.Context, user string, ref file.Ref) (key string, err error) {
	err = s.db.Write(ctx, func(tx *Tx) error {
		f, err := scanFile(tx.QueryRow(sqlFile, user, ref.Type, ref.Subfolder, ref.Name))
		if f, err = fileOr(f, workspace.ErrNoFile(), err); err != nil {
			return err
		}
		key = f.Key
		s.changed(tx, user)
		_, err = tx.Exec(sqlFileDelete, f.id)
		return err
	})
	if err != nil {
		return "", err
	}
	return key, nil
}

// ForgetFiles implements workspace.Store.
func (s *Files) ForgetFiles(ctx context.Context, user string, most int) (keys []string, err error) {
	err = s.db.Write(ctx, func(tx *Tx) error {
		rows, err := tx.Query(sqlFilesForget, user, most)
		if keys, err = column(rows, err); err != nil {
			return err
		}
		s.changed(tx, user)
		if len(keys) < most {
			_, err = tx.Exec(sqlCountersForget, user)
		}
		return err
	})
	return keys, err
}

// ExpireFiles implements workspace.Store.
func (s *Files) ExpireFiles(ctx context.Context, before time.Time, most int) (keys []string, err error) {
	err = s.db.Write(ctx, func(tx *Tx) error {
		keys = nil
		rows, err := tx.Query(sqlFilesExpire, stamp(before), most)
		if err != nil {
			return err
		}
		defer rows.Close()
		users := map[string]bool{}
		for rows.Next() {
			var key, user string
			if err := rows.Scan(&key, &user); err != nil {
				return err
			}
			keys = append(keys, key)
			users[user] = true
		}
		for user := range users {
			s.changed(tx, user)
		}
		return rows.Err()
	})
	return keys, err
}
