package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/handover"
)

// How long what a back end left in a place of storage stays there. Outputs are deleted when they were delivered; what is
// older belongs to runs that nobody finished.
const (
	keepRuns  = 7 * 24 * time.Hour
	keepParts = 24 * time.Hour // of what was left half written
	tidyEvery = 24 * time.Hour
	tidyFor   = 10 * time.Minute // each place and time
)

// storages are the places where back ends leave outputs, each once.
func (s *Studio) storages() []string {
	var all []string
	seen := map[string]bool{}
	for _, b := range s.gpus.backs() {
		address := b.Storage
		if b.Mode == "plain" { // its driver looks after what ComfyUI itself writes there
			address, _, _ = strings.Cut(address, "?")
		}
		if address != "" && !seen[address] {
			seen[address] = true
			all = append(all, address)
		}
	}
	return all
}

// checkWithin bounds how long a start waits for places that are slow or hang.
const checkWithin = 8 * time.Second

// checkStorage says what is wrong with the places of people's files and of back ends' outputs. Nothing of it keeps a
// studio from starting: jobs that need a place wait for it.
func (s *Studio) checkStorage(ctx context.Context) {
	ctx, stop := context.WithTimeout(ctx, checkWithin)
	defer stop()
	places := s.storages()
	findings := make([][]string, len(places)+1)
	var all sync.WaitGroup
	for i, address := range places {
		all.Go(func() { findings[i] = s.checkPlace(ctx, address) })
	}
	all.Go(func() { findings[len(places)] = s.checkBytes(ctx) })
	all.Wait()
	for _, found := range findings {
		for _, note := range found {
			s.log.Warn("storage", "note", note)
			s.notes = append(s.notes, note)
		}
	}
}

// checkBytes tries whether people's files can be written, and looks how their folder is mounted.
func (s *Studio) checkBytes(ctx context.Context) (findings []string) {
	const key = "probe"
	_, err := s.blobs.Put(ctx, key, strings.NewReader(""))
	if err == nil {
		err = s.blobs.Delete(ctx, key)
	}
	if err != nil {
		public, remedy := fault.Public(placeTrouble(err, s.blobPlace()))
		findings = append(findings, strings.TrimSpace("People's files can't be written. "+public+" "+remedy))
	}
	if !s.inBucket() {
		findings = append(findings, handover.MountFindings(s.blobFolder())...)
	}
	return findings
}

// checkPlace tries a place, and compares it with what it was when the studio saw it last: another disk at the same
// address has another mark.
func (s *Studio) checkPlace(ctx context.Context, address string) []string {
	sum := sha256.Sum256([]byte(address))
	folder := filepath.Join(s.cfg.Data, "places")
	name := filepath.Join(folder, hex.EncodeToString(sum[:8]))
	known, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.log.Warn("it is not known what a storage was", "file", name, "err", err)
	}
	id, findings := handover.Check(ctx, address, strings.TrimSpace(string(known)), handover.Options{Log: s.log})
	if id == "" || id == strings.TrimSpace(string(known)) {
		return findings
	}
	err = os.MkdirAll(folder, 0o700)
	if err == nil {
		err = os.WriteFile(name, []byte(id+"\n"), 0o600) // the other disk is reported once
	}
	if err != nil {
		s.log.Warn("it could not be noted what a storage is", "file", name, "err", err)
	}
	return findings
}

// tidy clears away what runs of this studio left in places of storage, at the start and from then on once a day.
func (s *Studio) tidy(ctx context.Context) {
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	for now := time.Now(); ; {
		for _, address := range s.storages() {
			s.tidyPlace(ctx, address, now)
		}
		select {
		case <-ctx.Done():
			return
		case now = <-tick.C:
		}
	}
}

// tidyPlace clears away what is old in one place: runs by the studio's own names only, and pieces that belong to none.
func (s *Studio) tidyPlace(ctx context.Context, address string, now time.Time) {
	ctx, stop := context.WithTimeout(ctx, tidyFor)
	defer stop()
	p, err := handover.Open(address, handover.Options{Log: s.log})
	if err != nil {
		s.log.Warn("a storage was not tidied", "err", err)
		return
	}
	if c, ok := p.(io.Closer); ok {
		defer c.Close() //nolint:errcheck // idle connections
	}
	deleted := 0
	old, err := p.Runs(ctx, now.Add(-keepRuns))
	for _, run := range old {
		if !handover.RunOf(s.self.ID, run) {
			continue
		}
		if err = p.Delete(ctx, run); err != nil {
			break
		}
		deleted++
	}
	pieces := 0
	if sweeper, ok := p.(handover.Sweeper); ok && err == nil {
		pieces, err = sweeper.Sweep(ctx, now.Add(-keepParts))
	}
	if err != nil && ctx.Err() == nil {
		s.log.Warn("a storage was not tidied", "deleted_runs", deleted, "err", err)
	}
	if deleted+pieces > 0 {
		s.log.Info("a storage was tidied", "deleted_runs", deleted, "deleted_pieces", pieces)
	}
}
