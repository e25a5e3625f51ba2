package sim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
)

// userFiles is the folder of the one user. Nothing leads out of it.
type userFiles struct {
	dir  string // user/default
	root *os.Root
}

// newUserFiles opens the folder of users. The user's own folder is made when something is written into it.
func newUserFiles(users string) (*userFiles, error) {
	root, err := os.OpenRoot(users)
	if err != nil {
		return nil, fmt.Errorf("user folder: %w", err)
	}
	return &userFiles{dir: "default", root: root}, nil
}

func (u *userFiles) close() error {
	if u == nil {
		return nil
	}
	return u.root.Close()
}

// at returns the place of a name in the user's folder; ok is false when it would lead out. Names that are still
// encoded are decoded once more.
func (u *userFiles) at(name string) (place string, ok bool) {
	if strings.Contains(name, "%") {
		if decoded, err := url.PathUnescape(name); err == nil {
			name = decoded
		}
	}
	if strings.ContainsRune(name, 0) || path.IsAbs(name) {
		return "", false
	}
	place = path.Join(u.dir, name)
	return place, place == u.dir || strings.HasPrefix(place, u.dir+"/")
}

// own returns a place relative to the user's folder.
func (u *userFiles) own(place string) string {
	return strings.TrimPrefix(strings.TrimPrefix(place, u.dir), "/")
}

func (u *userFiles) write(place string, content []byte) error {
	if err := u.root.MkdirAll(path.Dir(place), 0o777); err != nil {
		return err
	}
	return u.root.WriteFile(place, content, 0o666)
}

// files walks the regular files below a place; without deep only those directly in it.
func (u *userFiles) walk(place string, f func(place string, d fs.DirEntry) error) error {
	return fs.WalkDir(u.root.FS(), place, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if p == place {
			return nil
		}
		return f(p, d)
	})
}

// seconds is a time as Python prints it.
func seconds(info fs.FileInfo) json.RawMessage {
	return pyjson.FloatNum(float64(info.ModTime().UnixNano()) / 1e9).JSON()
}

// appendInfo appends what is known of a file under the name it is given.
func (s *ComfyUI) appendInfo(dst []byte, name string, info fs.FileInfo) []byte {
	when := seconds(info)
	if s.modern {
		when = pyjson.IntNum(info.ModTime().UnixMilli()).JSON()
	}
	return fmt.Appendf(dst, `{"path": %s, "size": %d, "modified": %s, "created": %[3]s}`, pyjson.Quote(name), info.Size(), when)
}

func (s *ComfyUI) handleUsers(w http.ResponseWriter, _ *http.Request, _ *life, _ []string) {
	_, err := s.user.root.Stat(s.user.dir)
	reply(w, http.StatusOK, fmt.Appendf(nil, `{"storage": "server", "migrated": %t}`, err == nil))
}

func (s *ComfyUI) handleNewUser(w http.ResponseWriter, r *http.Request, _ *life, _ []string) {
	raw, ok := object(w, r)
	if !ok {
		return
	}
	value, _ := pyjson.Get(raw, "username")
	name := strings.TrimSpace(pyjson.TextOf(value))
	if name == "" {
		broken(w)
		return
	}
	s.settings.Lock()
	defer s.settings.Unlock()
	var users []pyjson.Member
	if file, err := s.user.root.ReadFile("users.json"); err == nil {
		if users, err = pyjson.Members(file); err != nil {
			broken(w)
			return
		}
	}
	for _, u := range users {
		if pyjson.TextOf(u.Value) == name {
			reply(w, http.StatusBadRequest, []byte(`{"error": "Duplicate username."}`))
			return
		}
	}
	id := strings.Map(func(c rune) rune {
		if c == '-' || c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' {
			return c
		}
		return '-'
	}, name) + "_" + uuid.NewString()
	users = append(users, pyjson.Member{Key: id, Value: pyjson.Quote(name)})
	if err := s.user.write("users.json", pyjson.AppendObject(nil, users)); err != nil {
		broken(w)
		return
	}
	reply(w, http.StatusOK, pyjson.Quote(id))
}

const settingsFile = "default/comfy.settings.json"

// readSettings returns all settings; a file that can't be read counts as none.
func (s *ComfyUI) readSettings() []pyjson.Member {
	file, err := s.user.root.ReadFile(settingsFile)
	if err != nil {
		return nil
	}
	all, err := pyjson.Members(file)
	if err != nil {
		return nil
	}
	return all
}

// changeSettings merges changes into the settings.
func (s *ComfyUI) changeSettings(w http.ResponseWriter, changes []pyjson.Member) {
	s.settings.Lock()
	defer s.settings.Unlock()
	all := s.readSettings()
	for _, c := range changes {
		if i := slices.IndexFunc(all, func(m pyjson.Member) bool { return m.Key == c.Key }); i >= 0 {
			all[i].Value = c.Value
			continue
		}
		all = append(all, c)
	}
	file := pyjson.AppendObject(nil, all)
	var pretty bytes.Buffer
	if json.Indent(&pretty, file, "", "    ") == nil { // NaN among the values leaves it as it is
		file = pretty.Bytes()
	}
	if err := s.user.write(settingsFile, file); err != nil {
		broken(w)
		return
	}
	empty(w, http.StatusOK)
}

func (s *ComfyUI) handleSettings(w http.ResponseWriter, _ *http.Request, _ *life, _ []string) {
	s.settings.Lock()
	defer s.settings.Unlock()
	reply(w, http.StatusOK, dumped(pyjson.AppendObject(nil, s.readSettings())))
}

func (s *ComfyUI) handleSettingsEdit(w http.ResponseWriter, r *http.Request, _ *life, _ []string) {
	raw, ok := object(w, r)
	if !ok {
		return
	}
	changes, err := pyjson.Members(raw)
	if err != nil {
		broken(w)
		return
	}
	s.changeSettings(w, changes)
}

func (s *ComfyUI) handleSetting(w http.ResponseWriter, _ *http.Request, _ *life, args []string) {
	s.settings.Lock()
	defer s.settings.Unlock()
	for _, m := range s.readSettings() {
		if m.Key == args[0] {
			reply(w, http.StatusOK, dumped(m.Value))
			return
		}
	}
	reply(w, http.StatusOK, []byte("null"))
}

func (s *ComfyUI) handleSettingEdit(w http.ResponseWriter, r *http.Request, _ *life, args []string) {
	if raw, ok := jsonBody(w, r); ok {
		s.changeSettings(w, []pyjson.Member{{Key: args[0], Value: raw}})
	}
}

func (s *ComfyUI) handleUserdataList(w http.ResponseWriter, r *http.Request, _ *life, _ []string) {
	params := query(r)
	yes := func(name string) bool { return strings.EqualFold(params.Get(name), "true") }
	dir := params.Get("dir")
	if dir == "" {
		text(w, http.StatusBadRequest, "Directory not provided")
		return
	}
	place, ok := s.user.at(dir)
	if !ok {
		text(w, http.StatusForbidden, "Invalid directory")
		return
	}
	if _, err := s.user.root.Stat(place); err != nil {
		text(w, http.StatusNotFound, "Directory not found")
		return
	}
	out := []byte{'['}
	err := s.user.walk(place, func(p string, d fs.DirEntry) error {
		if strings.HasPrefix(d.Name(), ".") || d.IsDir() {
			if d.IsDir() && (strings.HasPrefix(d.Name(), ".") || !yes("recurse")) {
				return fs.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil || !info.Mode().IsRegular() {
			return nil // gone meanwhile, or no file
		}
		name := strings.TrimPrefix(strings.TrimPrefix(p, place), "/")
		if len(out) > 1 {
			out = append(out, ", "...)
		}
		switch {
		case yes("full_info"):
			out = s.appendInfo(out, name, info)
		case yes("split"):
			out = pyjson.AppendStrings(out, append([]string{name}, strings.Split(name, "/")...))
		default:
			out = pyjson.AppendString(out, name)
		}
		return nil
	})
	if err != nil {
		broken(w)
		return
	}
	reply(w, http.StatusOK, append(out, ']'))
}

func (s *ComfyUI) handleUserdataTree(w http.ResponseWriter, r *http.Request, _ *life, _ []string) {
	place, ok := s.user.at(query(r).Get("path"))
	if !ok {
		text(w, http.StatusBadRequest, "Invalid path requested")
		return
	}
	info, err := s.user.root.Stat(place)
	switch {
	case err != nil && place == s.user.dir:
		reply(w, http.StatusOK, []byte("[]"))
		return
	case err != nil:
		text(w, http.StatusNotFound, "Requested path not found")
		return
	case !info.IsDir():
		text(w, http.StatusBadRequest, "Requested path is not a directory")
		return
	}
	type entry struct {
		name string
		dir  bool
		json []byte
	}
	var all []entry
	err = s.user.walk(place, func(p string, d fs.DirEntry) error {
		e := entry{name: d.Name(), dir: d.IsDir()}
		e.json = fmt.Appendf(nil, `{"name": %s, "path": %s, "type": `, pyjson.Quote(d.Name()), pyjson.Quote(s.user.own(p)))
		if d.IsDir() {
			e.json = append(e.json, `"directory"}`...)
		} else if info, err := d.Info(); err == nil {
			e.json = fmt.Appendf(e.json, `"file", "size": %d, "modified": %s}`, info.Size(), seconds(info))
		} else {
			e.json = append(e.json, `"file"}`...)
		}
		all = append(all, e)
		return nil
	})
	if err != nil {
		text(w, http.StatusInternalServerError, "Error reading directory contents")
		return
	}
	slices.SortStableFunc(all, func(a, b entry) int {
		if a.dir != b.dir {
			if a.dir {
				return -1
			}
			return 1
		}
		return strings.Compare(strings.ToLower(a.name), strings.ToLower(b.name))
	})
	out := []byte{'['}
	for i, e := range all {
		if i > 0 {
			out = append(out, ", "...)
		}
		out = append(out, e.json...)
	}
	reply(w, http.StatusOK, append(out, ']'))
}

func (s *ComfyUI) handleUserdataRead(w http.ResponseWriter, r *http.Request, _ *life, args []string) {
	place, ok := s.user.at(args[0])
	if !ok {
		empty(w, http.StatusForbidden)
		return
	}
	if _, err := s.user.root.Stat(place); err != nil {
		empty(w, http.StatusNotFound)
		return
	}
	sendFile(w, r, filepath.Join(s.folders.User, filepath.FromSlash(place)), "")
}

func (s *ComfyUI) handleUserdataWrite(w http.ResponseWriter, r *http.Request, _ *life, args []string) {
	place, ok := s.user.at(args[0])
	if !ok {
		empty(w, http.StatusForbidden)
		return
	}
	content, ok := body(w, r)
	if !ok {
		return
	}
	params := query(r)
	s.settings.Lock()
	defer s.settings.Unlock()
	if _, err := s.user.root.Stat(place); err == nil && params.Get("overwrite") == "false" {
		text(w, http.StatusConflict, "File already exists")
		return
	}
	if err := s.user.write(place, content); err != nil {
		s.log.Info("user file not written", "path", place, "err", err)
		empty(w, http.StatusBadRequest)
		return
	}
	s.replyPlace(w, place, strings.EqualFold(params.Get("full_info"), "true"))
}

// replyPlace answers with a file's path, or with all that is known of it.
func (s *ComfyUI) replyPlace(w http.ResponseWriter, place string, full bool) {
	if !full {
		reply(w, http.StatusOK, pyjson.Quote(s.user.own(place)))
		return
	}
	info, err := s.user.root.Stat(place)
	if err != nil {
		broken(w)
		return
	}
	reply(w, http.StatusOK, s.appendInfo(nil, s.user.own(place), info))
}

func (s *ComfyUI) handleUserdataDelete(w http.ResponseWriter, _ *http.Request, _ *life, args []string) {
	place, ok := s.user.at(args[0])
	if !ok {
		empty(w, http.StatusForbidden)
		return
	}
	info, err := s.user.root.Stat(place)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		empty(w, http.StatusNotFound)
	case err != nil || info.IsDir() || s.user.root.Remove(place) != nil:
		broken(w)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

func (s *ComfyUI) handleUserdataMove(w http.ResponseWriter, r *http.Request, _ *life, args []string) {
	from, ok := s.user.at(args[0])
	if !ok {
		empty(w, http.StatusForbidden)
		return
	}
	if _, err := s.user.root.Stat(from); err != nil {
		empty(w, http.StatusNotFound)
		return
	}
	to, ok := s.user.at(args[1])
	if !ok {
		broken(w)
		return
	}
	params := query(r)
	s.settings.Lock()
	defer s.settings.Unlock()
	if _, err := s.user.root.Stat(to); err == nil && params.Get("overwrite") == "false" {
		text(w, http.StatusConflict, "File already exists")
		return
	}
	if s.user.root.MkdirAll(path.Dir(to), 0o777) != nil || s.user.root.Rename(from, to) != nil {
		broken(w)
		return
	}
	s.replyPlace(w, to, strings.EqualFold(params.Get("full_info"), "true"))
}
