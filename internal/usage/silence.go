package usage

import (
	"encoding/binary"
	"math"
	"sync"
	"time"
)

// Silences are for how long nodes of a class keep a back end's ComfyUI from giving any sign of life. Back ends differ in that,
// by their disks and their custom nodes. The zero value knows nothing. They are safe for concurrent use.
type Silences struct {
	mu   sync.Mutex
	of   map[silenceKey]*silence
	gone map[silenceKey]bool // saved once, and forgotten since
}

// silenceKey names a class on a back end. Its length tells it from other keys that are saved.
type silenceKey [12]byte

type silence struct {
	runs    uint32
	longest float64 // seconds; what was long ago fades
	dirty   bool
	saved   float64 // longest as it was saved; 0: it was not
}

const (
	maxSilences = 4096
	enoughRuns  = 3    // of a class, before a longer silence than ever is taken for a freeze
	fades       = 0.99 // of the longest silence is left after each shorter one
	margin      = 2    // by which the longest so far may be surpassed
	longestWait = 10 * time.Minute
)

func keyOfSilence(backEnd, class string) (k silenceKey) {
	sum := digest(levels, backEnd, class)
	copy(k[:], sum[:])
	return k
}

// Bound returns how long a node of a class may go on without a sign of life of its back end's ComfyUI: twice as long as it
// ever did of late; 0: nothing is known. known says that enough runs taught it.
func (s *Silences) Bound(backEnd, class string) (bound time.Duration, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.of[keyOfSilence(backEnd, class)]
	if one == nil {
		return 0, false
	}
	return min(seconds(one.longest*margin), longestWait), one.runs >= enoughRuns
}

// Silent learns how long a node of a class was silent at most in a run that went on.
func (s *Silences) Silent(backEnd, class string, longest time.Duration) {
	if longest < 0 {
		return
	}
	k := keyOfSilence(backEnd, class)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of == nil {
		s.init()
	}
	one := s.of[k]
	if one == nil {
		s.room()
		one = &silence{}
		s.of[k] = one
		delete(s.gone, k)
	}
	if one.runs < math.MaxUint32 {
		one.runs++
	}
	one.longest = max(longest.Seconds(), one.longest*fades)
	if one.runs <= enoughRuns || math.Abs(one.longest-one.saved) > one.saved/10 { // else it is not worth a write
		one.dirty = true
	}
}

// room forgets classes where there are too many: those that ran least.
func (s *Silences) room() {
	if len(s.of) < maxSilences {
		return
	}
	least := uint32(math.MaxUint32)
	for _, one := range s.of {
		least = min(least, one.runs)
	}
	for k, one := range s.of {
		if one.runs == least {
			delete(s.of, k)
			s.gone[k] = true
		}
	}
}

func (s *Silences) init() { s.of, s.gone = map[silenceKey]*silence{}, map[silenceKey]bool{} }

// Restore replaces what was learned by what was saved, among other things maybe; what can't be read is learned again.
func (s *Silences) Restore(saved []Learned) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.init()
	for _, l := range saved {
		if len(l.Key) != len(silenceKey{}) || len(l.Body) != 1+4+8 || l.Body[0] != bodyVersion {
			continue
		}
		one := &silence{runs: binary.LittleEndian.Uint32(l.Body[1:]), longest: math.Float64frombits(binary.LittleEndian.Uint64(l.Body[5:]))}
		if !(one.longest >= 0 && one.longest < 1e9) || len(s.of) == maxSilences {
			continue
		}
		one.saved = one.longest
		s.of[silenceKey(l.Key)] = one
	}
}

// Changed returns what is to be saved since the last time. undo makes it changed again.
func (s *Silences) Changed() (list []Learned, undo func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var taken []*silence
	for k, one := range s.of {
		if !one.dirty {
			continue
		}
		one.dirty, one.saved = false, one.longest
		taken = append(taken, one)
		body := binary.LittleEndian.AppendUint32([]byte{bodyVersion}, one.runs)
		list = append(list, Learned{Key: k[:], Body: binary.LittleEndian.AppendUint64(body, math.Float64bits(one.longest))})
	}
	gone := s.gone
	s.gone = map[silenceKey]bool{}
	for k := range gone {
		list = append(list, Learned{Key: k[:]})
	}
	return list, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, one := range taken {
			one.dirty = true
		}
		for k := range gone {
			if s.of[k] == nil {
				s.gone[k] = true
			}
		}
	}
}
