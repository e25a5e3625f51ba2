package redis

import (
	"context"

	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/workspace"
)

// PlaceFile implements workspace.Store.
func (s *Files) PlaceFile(ctx context.Context, p workspace.Placement) (placed workspace.Placed, err error) {
	err = s.changeFiles(ctx, p.User, func(c *change) (err error) {
		placed, err = s.place(c, p)
		return err
	})
	if err != nil {
		return workspace.Placed{}, err
	}
	return placed, nil
}

func (s *Files) place(c *change, p workspace.Placement) (workspace.Placed, error) {
	old, there, err := fileAt(c, p.User, p.Ref)
	switch {
	case err != nil:
		return workspace.Placed{}, err
	case !there:
		return s.placeNew(c, p)
	case old.Hash == p.Sum.Hash():
		if p.Overwrite { // written again: newer, though nothing changed
			next := old
			next.Modified = max(stamp(p.Modified), old.Modified+1)
			if err := keep(c, &next, &old); err != nil {
				return workspace.Placed{}, err
			}
			old = next
		}
		return workspace.Placed{Info: old.info(), Unused: p.Key}, nil
	case p.Overwrite:
		return s.placeOver(c, p, &old)
	default:
		return s.placeBeside(c, p)
	}
}

// placeNew gives a free name.
func (s *Files) placeNew(c *change, p workspace.Placement) (workspace.Placed, error) {
	if err := checkQuota(c, p, p.Sum.Size); err != nil {
		return workspace.Placed{}, err
	}
	f, err := s.newFile(c, p.User, p.Ref, p.Key, p.Sum, p.Modified, "", "")
	if err != nil {
		return workspace.Placed{}, err
	}
	return workspace.Placed{Info: f.info()}, nil
}

// placeOver takes the name from old.
func (s *Files) placeOver(c *change, p workspace.Placement, old *fileRow) (workspace.Placed, error) {
	if err := checkQuota(c, p, p.Sum.Size-old.Size); err != nil {
		return workspace.Placed{}, err
	}
	f, err := replaceFile(c, old, p.Key, p.Sum, p.Modified, "", "")
	if err != nil {
		return workspace.Placed{}, err
	}
	return workspace.Placed{Info: f.info(), Unused: old.Key}, nil
}

// placeBeside gives the next free number, or returns the sibling that has the same bytes.
func (s *Files) placeBeside(c *change, p workspace.Placement) (workspace.Placed, error) {
	twin, err := sibling(c, p)
	if err != nil {
		return workspace.Placed{}, err
	}
	if twin != nil {
		return workspace.Placed{Info: twin.info(), Unused: p.Key}, nil
	}
	wanted := p.Ref.Name
	n, err := number(c, p.User, p.Ref, wanted, p.Modified, func(n int64) string { return file.Numbered(wanted, int(n)) })
	if err != nil {
		return workspace.Placed{}, err
	}
	p.Ref.Name = file.Numbered(wanted, int(n))
	return s.placeNew(c, p)
}

// sibling returns the file with the same bytes whose name is a number of the wanted one, the lowest if there are
// several, and nil if there is none.
func sibling(c *change, p workspace.Placement) (found *fileRow, err error) {
	ids, err := sames(c, same(p.User, p.Ref.Type, p.Ref.Subfolder, p.Sum.Hash()))
	if err != nil {
		return nil, err
	}
	files, err := filesOf(c, ids)
	if err != nil {
		return nil, err
	}
	lowest := 0
	for i := range files {
		if n, ok := file.Number(p.Ref.Name, files[i].Name); ok && (found == nil || n < lowest) {
			found, lowest = &files[i], n
		}
	}
	return found, nil
}

func checkQuota(c *change, p workspace.Placement, more int64) error {
	if p.Quota <= 0 || more <= 0 {
		return nil
	}
	bytes, err := kept(c, inFileBytes, p.User)
	if err != nil {
		return err
	}
	if bytes+more > p.Quota {
		return workspace.ErrQuota(p.Quota)
	}
	return nil
}
