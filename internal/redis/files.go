package redis

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/ahelme/comfyume/internal/blob"
	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/workspace"
)

// Files is the table of people's files: the workspace.Store, and in deliveries.go the deliver.Store, in Redis. It is safe
// for concurrent use, by any number of servers.
type Files struct{ db *DB }

var _ workspace.Store = (*Files)(nil)

// NewFiles returns the table of files in db.
func NewFiles(db *DB) *Files {
	db.versions.begin()
	return &Files{db: db}
}

// The keys of files. Each file has a number, by which the others find it.
const (
	inFiles      = "files"            // number → document
	inFileNames  = "files:names"      // person, type, subfolder and name → number
	inFileKeys   = "files:keys"       // key of the bytes → number
	inFileBytes  = "files:bytes"      // person → bytes that are kept
	inFileCounts = "files:counts"     // person → files that are kept
	inSame       = "files:same"       // person, type, subfolder and hash of the bytes → numbers
	inCounters   = "files:counters"   // person, type, subfolder and stem → next number of a name
	byNewest     = "files:newest"     // person, type, time and number, in this order
	byTemp       = "files:temp"       // numbers of temp files by the time of their last change
	byCounter    = "counters:all"     // fields of inCounters in their order
	byCounterUse = "counters:temp"    // those of temp names by the time of their last use
	fileNumbers  = "files:lastnumber" // the last number that was given
)

// fileDocument is a file as it is kept.
type fileDocument struct {
	User      string   `json:"user"`
	Type      string   `json:"type"`
	Subfolder string   `json:"sub,omitempty"`
	Name      string   `json:"name"`
	Key       string   `json:"key"`
	Size      int64    `json:"size"`
	Hash      string   `json:"hash"`
	Modified  int64    `json:"modified"`
	Job       job.ID   `json:"job,omitempty"`
	Node      string   `json:"node,omitempty"`
	Origins   []string `json:"from,omitempty"` // fields of inOrigins that lead here
}

func (d *fileDocument) info() file.Info {
	return file.Info{
		Ref:  file.Ref{Type: d.Type, Subfolder: d.Subfolder, Name: d.Name},
		Size: d.Size, Hash: d.Hash, Modified: fromStamp(d.Modified), Job: d.Job, Node: d.Node,
	}
}

// fileRow is a file with its number.
type fileRow struct {
	fileDocument
	id int64
}

func nameField(user, typ, subfolder, name string) string {
	return person(user) + person(typ) + person(subfolder) + name
}

func (f *fileRow) nameField() string { return nameField(f.User, f.Type, f.Subfolder, f.Name) }

func (f *fileRow) newest() string {
	return person(f.User) + person(f.Type) + number8(f.Modified) + number8(f.id)
}

// same is where files with these bytes are listed: those of one person and folder.
func same(user, typ, subfolder, hash string) string {
	return person(user) + person(typ) + person(subfolder) + hash
}

func (f *fileRow) same() string { return same(f.User, f.Type, f.Subfolder, f.Hash) }

// sames returns the numbers of files with the same bytes. What a change reads here is a condition of it: two who bring the
// same bytes at the same time know of one another.
func sames(c *change, field string) (ids []int64, err error) {
	text, _, err := c.get(inSame, field)
	for d := (reader{rest: text}); d.rest != "" && err == nil; {
		ids = append(ids, int64(d.uint64()))
	}
	return ids, err
}

// setSame notes that a file has the bytes, or has them no more.
func setSame(c *change, field string, id int64, has bool) error {
	ids, err := sames(c, field)
	if err != nil {
		return err
	}
	ids = slices.DeleteFunc(ids, func(n int64) bool { return n == id })
	if has {
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		c.drop(inSame, field)
		return nil
	}
	text := make([]byte, 0, 8*len(ids))
	for _, n := range ids {
		text = binary.BigEndian.AppendUint64(text, uint64(n))
	}
	c.put(inSame, field, string(text))
	return nil
}

// lastNumber is the number at the end of a member of the indices.
func lastNumber(member string) (int64, error) {
	if len(member) < 8 {
		return 0, errRecord
	}
	return int64(uint64At(member, len(member)-8)), nil
}

// fileAt reads a file by its name.
func fileAt(c *change, user string, ref file.Ref) (f fileRow, there bool, err error) {
	text, there, err := c.get(inFileNames, nameField(user, ref.Type, ref.Subfolder, ref.Name))
	if err != nil || !there {
		return f, false, err
	}
	if f.id, err = strconv.ParseInt(text, 10, 64); err != nil {
		return f, false, errRecord
	}
	return fileOf(c, f.id)
}

// fileOf reads a file by its number.
func fileOf(c *change, id int64) (f fileRow, there bool, err error) {
	f.id = id
	f.fileDocument, there, err = load[fileDocument](c, inFiles, decimal(id))
	return f, there, err
}

// keep writes a file and where it is found; old is what it was, nil for a new one.
func keep(c *change, f, old *fileRow) error {
	if old != nil {
		c.unindex(byNewest, old.newest())
		if old.same() != f.same() {
			if err := setSame(c, old.same(), old.id, false); err != nil {
				return err
			}
		}
		if old.Key != f.Key {
			c.drop(inFileKeys, old.Key)
		}
		c.add(inFileBytes, f.User, f.Size-old.Size)
	} else {
		c.add(inFileBytes, f.User, f.Size)
		c.add(inFileCounts, f.User, 1)
		c.put(inFileNames, f.nameField(), decimal(f.id))
	}
	c.put(inFileKeys, f.Key, decimal(f.id))
	c.index(byNewest, f.newest(), 0)
	if f.Type == file.Temp {
		c.index(byTemp, decimal(f.id), f.Modified)
	}
	c.db.versions.tell(c, f.User)
	if err := setSame(c, f.same(), f.id, true); err != nil {
		return err
	}
	return save(c, inFiles, decimal(f.id), f.fileDocument)
}

// forget takes a file out, with what leads to it.
func forget(c *change, f *fileRow) error {
	c.drop(inFiles, decimal(f.id))
	c.drop(inFileNames, f.nameField())
	c.drop(inFileKeys, f.Key)
	c.unindex(byNewest, f.newest())
	if err := setSame(c, f.same(), f.id, false); err != nil {
		return err
	}
	if f.Type == file.Temp {
		c.unindex(byTemp, decimal(f.id))
	}
	c.add(inFileBytes, f.User, -f.Size)
	c.add(inFileCounts, f.User, -1)
	c.db.versions.tell(c, f.User)
	for _, from := range f.Origins {
		o, there, err := load[originDocument](c, inOrigins, from)
		if err != nil {
			return err
		}
		if there && o.File == f.id {
			c.drop(inOrigins, from)
		}
	}
	return nil
}

// changeFiles makes a change of one person's files and lets their version grow before it is answered.
func (s *Files) changeFiles(ctx context.Context, user string, fn func(*change) error) error {
	wrote := false
	err := s.db.update(ctx, func(c *change) error {
		err := fn(c)
		wrote = len(c.writes) > 0
		return err
	})
	if wrote {
		s.db.versions.grow(user) // also when the answer was lost: it may have happened
	}
	return err
}

// FileVersion implements workspace.Store.
func (s *Files) FileVersion(user string) uint64 { return s.db.versions.version(user) }

// File implements workspace.Store.
func (s *Files) File(ctx context.Context, user string, ref file.Ref) (workspace.Stored, error) {
	f, there, err := fileAt(s.db.look(ctx), user, ref)
	if err == nil && !there {
		err = workspace.ErrNoFile()
	}
	if err != nil {
		return workspace.Stored{}, err
	}
	return workspace.Stored{Info: f.info(), Key: f.Key}, nil
}

// Files implements workspace.Store.
func (s *Files) Files(ctx context.Context, user, typ string) (list []file.Info, err error) {
	b, key := s.db.client.B(), s.db.key(byNewest)
	first := person(user) + person(typ)
	for behind := "(" + first + "\xff"; ; {
		results, err := s.db.read(ctx, b.Zrevrangebylex().Key(key).Max(behind).Min("["+first).Limit(0, scanCount).Build())
		if err != nil {
			return nil, err
		}
		members, err := results[0].AsStrSlice()
		if err != nil {
			return nil, fmt.Errorf("read the index of files: %w", err)
		}
		files, err := filesIn(s.db.look(ctx), members)
		if err != nil {
			return nil, err
		}
		for i := range files {
			list = append(list, files[i].info())
		}
		if len(members) < scanCount {
			return list, nil
		}
		behind = "(" + members[len(members)-1]
	}
}

// FileUsage implements workspace.Store.
func (s *Files) FileUsage(ctx context.Context, user string) (workspace.Usage, error) {
	c := s.db.look(ctx)
	bytes, err := kept(c, inFileBytes, user)
	if err != nil {
		return workspace.Usage{}, err
	}
	files, err := kept(c, inFileCounts, user)
	return workspace.Usage{Bytes: bytes, Files: files}, err
}

// kept reads one of the sums of a person.
func kept(c *change, hash, user string) (int64, error) {
	text, there, err := c.get(hash, user)
	if err != nil || !there {
		return 0, err
	}
	return strconv.ParseInt(text, 10, 64)
}

// UnknownKeys implements workspace.Store.
func (s *Files) UnknownKeys(ctx context.Context, keys []string) ([]string, error) {
	known, err := s.db.fields(ctx, inFileKeys, keys)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(keys), func(key string) bool { _, ok := known[key]; return ok }), nil
}

// RemoveFile implements workspace.Store.
func (s *Files) RemoveFile(ctx context.Context, user string, ref file.Ref) (key string, err error) {
	err = s.changeFiles(ctx, user, func(c *change) error {
		f, there, err := fileAt(c, user, ref)
		if err != nil {
			return err
		}
		if !there {
			return workspace.ErrNoFile()
		}
		key = f.Key
		return forget(c, &f)
	})
	if err != nil {
		return "", err
	}
	return key, nil
}

// ForgetFiles implements workspace.Store.
func (s *Files) ForgetFiles(ctx context.Context, user string, most int) (keys []string, err error) {
	b, first := s.db.client.B(), person(user)
	err = s.changeFiles(ctx, user, func(c *change) error {
		keys = nil
		results, err := s.db.read(ctx,
			b.Zrangebylex().Key(s.db.key(byNewest)).Min("["+first).Max("("+first+"\xff").Limit(0, int64(most)).Build(),
			b.Zrangebylex().Key(s.db.key(byCounter)).Min("["+first).Max("("+first+"\xff").Build())
		if err != nil {
			return err
		}
		members, err := results[0].AsStrSlice()
		if err != nil {
			return fmt.Errorf("read the index of files: %w", err)
		}
		files, err := filesIn(c, members)
		if err != nil {
			return err
		}
		for i := range files {
			keys = append(keys, files[i].Key)
			if err := forget(c, &files[i]); err != nil {
				return err
			}
		}
		if len(members) == most {
			return nil // there may be more
		}
		counters, err := results[1].AsStrSlice()
		if err != nil {
			return fmt.Errorf("read the index of counters: %w", err)
		}
		dropCounters(c, counters)
		c.db.versions.tell(c, user)
		return nil
	})
	return keys, err
}

// filesIn reads the files of members of an index; those that are gone are left out.
func filesIn(c *change, members []string) (files []fileRow, err error) {
	ids := make([]int64, len(members))
	for i, member := range members {
		if ids[i], err = lastNumber(member); err != nil {
			return nil, err
		}
	}
	return filesOf(c, ids)
}

// filesOf reads files by their numbers; those that are gone are left out.
func filesOf(c *change, ids []int64) (files []fileRow, err error) {
	if err := c.fetch(inFiles, decimals(ids)); err != nil {
		return nil, err
	}
	for _, id := range ids {
		f, there, err := fileOf(c, id)
		if err != nil {
			return nil, err
		}
		if there {
			files = append(files, f)
		}
	}
	return files, nil
}

func dropCounters(c *change, fields []string) {
	for _, field := range fields {
		c.drop(inCounters, field)
		c.unindex(byCounter, field)
		c.unindex(byCounterUse, field)
	}
}

// ExpireFiles implements workspace.Store. The files go one by one: who changes one in the same moment keeps it.
func (s *Files) ExpireFiles(ctx context.Context, before time.Time, most int) (keys []string, err error) {
	results, err := s.db.read(ctx, s.db.client.B().Zrangebyscore().Key(s.db.key(byTemp)).Min("-inf").Max("("+decimal(stamp(before))).
		Limit(0, int64(most)).Build())
	if err != nil {
		return nil, err
	}
	ids, err := results[0].AsIntSlice()
	if err != nil {
		return nil, fmt.Errorf("read which files are old: %w", err)
	}
	for _, id := range ids {
		user, key := "", ""
		err := s.db.update(ctx, func(c *change) error {
			user, key = "", ""
			f, there, err := fileOf(c, id)
			if err != nil || !there || f.Modified >= stamp(before) {
				return err
			}
			user, key = f.User, f.Key
			return forget(c, &f)
		})
		if user != "" {
			s.db.versions.grow(user)
		}
		if err != nil {
			return keys, err
		}
		if key != "" {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// newFile makes a file with a number of its own.
func (s *Files) newFile(c *change, user string, ref file.Ref, key string, sum blob.Sum, at time.Time, id job.ID, node string) (*fileRow, error) {
	number, err := s.db.client.Do(c.ctx, s.db.client.B().Incr().Key(s.db.key(fileNumbers)).Build()).AsInt64()
	if err != nil {
		return nil, s.db.fail(c.ctx, err)
	}
	f := &fileRow{fileDocument{
		User: user, Type: ref.Type, Subfolder: ref.Subfolder, Name: ref.Name, Key: key, Size: sum.Size, Hash: sum.Hash(),
		Modified: stamp(at), Job: id, Node: node,
	}, number}
	return f, keep(c, f, nil)
}

// replaceFile gives a file other bytes. Its time grows in any case, so that who compares times sees the change.
func replaceFile(c *change, old *fileRow, key string, sum blob.Sum, at time.Time, id job.ID, node string) (*fileRow, error) {
	f := *old
	f.Key, f.Size, f.Hash, f.Job, f.Node = key, sum.Size, sum.Hash(), id, node
	f.Modified = max(stamp(at), old.Modified+1)
	return &f, keep(c, &f, old)
}

// number claims the next number of stem whose name is free. name gives the name of a number; Type and Subfolder of ref
// say where.
func number(c *change, user string, ref file.Ref, stem string, now time.Time, name func(int64) string) (int64, error) {
	field := nameField(user, ref.Type, ref.Subfolder, stem)
	n := int64(1)
	text, there, err := c.get(inCounters, field)
	if err != nil {
		return 0, err
	}
	if there {
		if n, err = strconv.ParseInt(text, 10, 64); err != nil {
			return 0, errRecord
		}
	}
	for {
		_, taken, err := c.get(inFileNames, nameField(user, ref.Type, ref.Subfolder, name(n)))
		if err != nil {
			return 0, err
		}
		if !taken {
			c.put(inCounters, field, decimal(n+1))
			c.index(byCounter, field, 0)
			if ref.Type == file.Temp {
				c.index(byCounterUse, field, stamp(now))
			}
			return n, nil
		}
		n++
	}
}
