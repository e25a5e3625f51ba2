package job

import "time"

// Try is an attempt that is over, as it is kept for who reads about the job afterwards.
type Try struct {
	N       int
	BackEnd string
	Began   time.Time // when the back end was chosen for it
	Ended   time.Time
	Posted  bool // the back end was given the prompt
	Cause   Cause
	Reason  string // a sentence; empty where the cause says it all
}

// Cause says in a word why an attempt is over.
type Cause string

// The causes.
const (
	CauseDone        Cause = "done"        // the run came to its end
	CauseGraph       Cause = "graph"       // the graph failed, or was refused: its owner's to know
	CauseStopped     Cause = "stopped"     // somebody stopped it
	CauseUnreachable Cause = "unreachable" // the back end did not answer, or could not be used
	CauseLost        Cause = "lost"        // the back end lost the run
	CauseCrashed     Cause = "crashed"     // the back end died while it worked at the run
	CauseFrozen      Cause = "frozen"      // the back end stopped answering in mid-run
	CauseMemory      Cause = "memory"      // the back end ran out of GPU memory
	CauseBroken      Cause = "broken"      // the back end's GPU failed: nothing runs there until it is started anew
	CauseTooLong     Cause = "too_long"    // it took longer than the back end's max_run
	CauseForeign     Cause = "foreign"     // the back end was busy with other work
	CauseMisfit      Cause = "misfit"      // the back end lacks what the graph needs
	CauseFull        Cause = "full"        // the studio's disk had no room
	CauseInternal    Cause = "internal"    // trouble of the studio's own
	CauseAbandoned   Cause = "abandoned"   // nobody held it any more, as after a crash of the studio
)
