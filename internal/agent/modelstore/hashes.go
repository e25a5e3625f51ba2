package modelstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// hashes keeps what was computed: a file of some GB takes a while to read. A hash counts as long as size and time of
// the file are the same.
type hashes struct {
	mu   sync.Mutex
	file string
	log  *slog.Logger
	by   map[string]hashed // by path
}

type hashed struct {
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
	SHA256   string    `json:"sha256"`
}

// load reads what was kept. A file that can't be read is begun anew.
func (h *hashes) load(file string, log *slog.Logger) {
	h.file, h.log, h.by = file, log, map[string]hashed{}
	if file == "" {
		return
	}
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		err = json.Unmarshal(raw, &h.by)
	}
	if err != nil {
		log.Warn("the hashes of before can't be read; they are computed anew", "file", file, "err", err)
		h.by = map[string]hashed{}
	}
}

func (h *hashes) known(path string, info fs.FileInfo) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	k, ok := h.by[path]
	if !ok || k.Size != info.Size() || !k.Modified.Equal(info.ModTime()) {
		return ""
	}
	return k.SHA256
}

// keep takes over a hash and writes all down.
func (h *hashes) keep(path string, info fs.FileInfo, sum string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.by[path] = hashed{info.Size(), info.ModTime(), sum}
	if h.file == "" {
		return
	}
	for p := range h.by { // of files that are gone nothing is kept
		if _, err := os.Stat(p); errors.Is(err, fs.ErrNotExist) {
			delete(h.by, p)
		}
	}
	raw, err := json.Marshal(h.by)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(h.file), 0o700)
	}
	if err == nil {
		err = os.WriteFile(h.file+".new", raw, 0o600)
	}
	if err == nil {
		err = os.Rename(h.file+".new", h.file)
	}
	if err != nil {
		h.log.Warn("hashes are not kept", "file", h.file, "err", err)
	}
}

// compute reads a file and keeps its hash.
func (h *hashes) compute(ctx context.Context, path string, tell func(at int64)) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	before, err := f.Stat()
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	if err := copyTo(ctx, sum, f, 0, tell); err != nil {
		return "", err
	}
	after, err := f.Stat()
	if err != nil {
		return "", err
	}
	text := hex.EncodeToString(sum.Sum(nil))
	if after.Size() == before.Size() && after.ModTime().Equal(before.ModTime()) {
		h.keep(path, after, text)
	}
	return text, nil
}

// copyTo copies until the end, telling how far it is, counted from at.
func copyTo(ctx context.Context, w io.Writer, r io.Reader, at int64, tell func(int64)) error {
	buf := make([]byte, 1<<20)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := r.Read(buf)
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				return &writeError{werr}
			}
			at += int64(n)
			tell(at)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// writeError is a copy that ended because of where it went.
type writeError struct{ error }

func (w *writeError) Unwrap() error { return w.error }
