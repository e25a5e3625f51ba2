package queue

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
)

// An export is a line of JSON that says what it is, a line for each job, and a last line with how many there were: a
// file that was cut short has none. Raw JSON is kept as bytes, since what people send is not always JSON.
const (
	exportFormat  = "comfyume queue"
	exportVersion = 1
)

type exportHead struct {
	Format   string            `json:"format"`
	Version  int               `json:"version"`
	Numbers  map[string]int64  `json:"numbers"`
	Settings map[string][]byte `json:"settings"`
}

// exportLine is a job, or at the end the number of jobs.
type exportLine struct {
	Jobs *int `json:"jobs,omitempty"` // only in the last line

	Seq         int64          `json:"seq,omitempty"`
	ID          job.ID         `json:"id,omitempty"`
	User        string         `json:"user,omitempty"`
	Group       string         `json:"group,omitempty"`
	PromptID    string         `json:"prompt_id,omitempty"`
	ClientID    string         `json:"client_id,omitempty"`
	Number      float64        `json:"number,omitempty"`
	Class       job.Class      `json:"class,omitempty"`
	State       job.State      `json:"state,omitempty"`
	WorkflowID  string         `json:"workflow_id,omitempty"`
	Digest      []byte         `json:"digest,omitempty"`
	Like        string         `json:"like,omitempty"`
	Work        float64        `json:"work,omitempty"`
	Models      string         `json:"models,omitempty"`
	Held        bool           `json:"held,omitempty"`
	Deadline    int64          `json:"deadline,omitempty"`
	Created     int64          `json:"created,omitempty"` // times are milliseconds since 1970
	Started     int64          `json:"started,omitempty"`
	Finished    int64          `json:"finished,omitempty"`
	Attempt     *exportAttempt `json:"attempt,omitempty"`
	Stop        bool           `json:"stop,omitempty"`
	Hidden      bool           `json:"hidden,omitempty"`
	Error       string         `json:"error,omitempty"`
	Summary     []byte         `json:"summary,omitempty"`
	Request     *exportRequest `json:"request,omitempty"`
	Outcome     *exportOutcome `json:"outcome,omitempty"`
	Tries       []exportTry    `json:"tries,omitempty"`
	Ended       int64          `json:"ended,omitempty"`
	Credentials []byte         `json:"credentials,omitempty"` // sealed with the studio's key
	Key         string         `json:"key,omitempty"`
	KeyUntil    int64          `json:"key_until,omitempty"`
}

type exportAttempt struct {
	N        int    `json:"n"`
	Fence    int64  `json:"fence"`
	BackEnd  string `json:"backend"`
	RunID    string `json:"run_id"`
	ClientID string `json:"client_id"`
	Lease    int64  `json:"lease,omitempty"`
	Posted   bool   `json:"posted,omitempty"`
}

type exportTry struct {
	N       int       `json:"n"`
	BackEnd string    `json:"backend"`
	Began   int64     `json:"began,omitempty"`
	Ended   int64     `json:"ended,omitempty"`
	Posted  bool      `json:"posted,omitempty"`
	Cause   job.Cause `json:"cause"`
	Reason  string    `json:"reason,omitempty"`
}

type exportRequest struct {
	Prompt    []byte   `json:"prompt"`
	ExtraData []byte   `json:"extra_data"`
	Targets   []string `json:"targets"`
	Outputs   []string `json:"outputs"`
}

type exportOutcome struct {
	Outputs     []byte  `json:"outputs"`
	Messages    []byte  `json:"messages"`
	Meta        []byte  `json:"meta"`
	ExecSeconds float64 `json:"exec_seconds"`
}

// Export writes everything that a store keeps, for Import into another one, and returns how many jobs that were.
// Credentials stay sealed: only the same studio can open them.
func Export(ctx context.Context, from Store, w io.Writer) (jobs int, err error) {
	head := exportHead{Format: exportFormat, Version: exportVersion}
	if head.Numbers, err = from.Numbers(ctx); err != nil {
		return 0, fmt.Errorf("read the counters of the queue: %w", err)
	}
	if head.Settings, err = from.Settings(ctx); err != nil {
		return 0, fmt.Errorf("read the settings of the queue: %w", err)
	}
	out := bufio.NewWriterSize(w, 1<<16)
	enc := json.NewEncoder(out)
	if err := enc.Encode(head); err != nil {
		return 0, fmt.Errorf("write the export: %w", err)
	}
	err = from.EachRecord(ctx, func(r Record) error {
		jobs++
		if err := enc.Encode(lineOf(r)); err != nil {
			return fmt.Errorf("write the export: %w", err)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	if err := errors.Join(enc.Encode(exportLine{Jobs: &jobs}), out.Flush()); err != nil {
		return 0, fmt.Errorf("write the export: %w", err)
	}
	return jobs, nil
}

// Import fills an empty store with what Export wrote, wholly or not at all, and returns how many jobs that were.
func Import(ctx context.Context, to Store, r io.Reader) (jobs int, err error) {
	dec := json.NewDecoder(bufio.NewReaderSize(r, 1<<16))
	var head exportHead
	if err := dec.Decode(&head); err != nil || head.Format != exportFormat {
		return 0, fault.Wrap(fault.Invalid, err, "This is not an export of a queue.").WithCode("not_an_export")
	}
	if head.Version > exportVersion {
		return 0, fault.New(fault.Invalid, "The export was written by a newer version of this program.").
			WithRemedy("Import it with that version.").WithCode("export_newer")
	}
	err = to.Restore(ctx, head.Numbers, exported(dec, &jobs))
	if errors.Is(err, ErrNotEmpty) {
		return 0, fault.New(fault.Conflict, "The queue that is to take the jobs has some already.").
			WithRemedy("Import into a studio that is new.").WithCode("queue_not_empty")
	}
	if err != nil {
		return 0, err
	}
	for name, value := range head.Settings {
		if err := to.PutSetting(ctx, name, value, func() {}); err != nil {
			return jobs, fmt.Errorf("take over the settings of the queue: %w", err)
		}
	}
	return jobs, nil
}

// exported gives the records of an export and counts them.
func exported(dec *json.Decoder, jobs *int) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for {
			var line exportLine
			err := dec.Decode(&line)
			switch {
			case err != nil:
				yield(Record{}, fault.Wrap(fault.Invalid, err, "The export is damaged, or ends too early.").WithCode("export_damaged"))
				return
			case line.Jobs != nil && *line.Jobs == *jobs:
				return
			case line.Jobs != nil:
				yield(Record{}, fault.New(fault.Invalid, "The export has %d jobs and says that they are %d.", *jobs, *line.Jobs).
					WithCode("export_damaged"))
				return
			}
			*jobs++
			if !yield(line.record(), nil) {
				return
			}
		}
	}
}

func lineOf(r Record) exportLine {
	j, a := &r.Job, &r.Job.Attempt
	line := exportLine{
		Seq: j.Seq, ID: j.ID, User: j.User, Group: j.Group, PromptID: j.PromptID, ClientID: j.ClientID, Number: j.Number,
		Class: j.Class, State: j.State, WorkflowID: j.WorkflowID, Like: j.Profile.Like, Work: j.Profile.Work,
		Models: j.Profile.Models, Held: j.Held, Deadline: since1970(j.Deadline), Created: since1970(j.Created), Started: since1970(j.Started),
		Finished: since1970(j.Finished), Stop: j.Stop, Hidden: j.Hidden, Error: j.Error, Summary: j.Summary,
		Ended: r.Ended, Credentials: r.Credentials, Key: r.Key, KeyUntil: since1970(r.KeyUntil),
	}
	if j.Digest != [32]byte{} {
		line.Digest = j.Digest[:]
	}
	if *a != (job.Attempt{}) {
		line.Attempt = &exportAttempt{
			N: a.N, Fence: a.Fence, BackEnd: a.BackEnd, RunID: a.RunID, ClientID: a.ClientID, Lease: since1970(a.LeaseUntil), Posted: a.Posted,
		}
	}
	for _, t := range r.Tries {
		line.Tries = append(line.Tries, exportTry{t.N, t.BackEnd, since1970(t.Began), since1970(t.Ended), t.Posted, t.Cause, t.Reason})
	}
	if r.Request.Prompt != nil {
		line.Request = &exportRequest{r.Request.Prompt, r.Request.ExtraData, r.Request.Targets, r.Request.Outputs}
	}
	if o := r.Outcome; o != nil {
		line.Outcome = &exportOutcome{o.Outputs, o.Messages, o.Meta, o.ExecSeconds}
	}
	return line
}

func (l exportLine) record() Record {
	r := Record{Ended: l.Ended, Credentials: l.Credentials, Key: l.Key, KeyUntil: from1970(l.KeyUntil)}
	r.Job = job.Job{
		ID: l.ID, User: l.User, Group: l.Group, PromptID: l.PromptID, ClientID: l.ClientID, Number: l.Number, Seq: l.Seq,
		Class: l.Class, State: l.State, WorkflowID: l.WorkflowID, Profile: job.Profile{Like: l.Like, Work: l.Work, Models: l.Models},
		Held: l.Held, Deadline: from1970(l.Deadline), Created: from1970(l.Created), Started: from1970(l.Started), Finished: from1970(l.Finished),
		Stop: l.Stop, Hidden: l.Hidden, Error: l.Error, Summary: l.Summary,
	}
	copy(r.Job.Digest[:], l.Digest)
	if a := l.Attempt; a != nil {
		r.Job.Attempt = job.Attempt{
			N: a.N, Fence: a.Fence, BackEnd: a.BackEnd, RunID: a.RunID, ClientID: a.ClientID, LeaseUntil: from1970(a.Lease), Posted: a.Posted,
		}
	}
	for _, t := range l.Tries {
		r.Tries = append(r.Tries, job.Try{
			N: t.N, BackEnd: t.BackEnd, Began: from1970(t.Began), Ended: from1970(t.Ended), Posted: t.Posted, Cause: t.Cause, Reason: t.Reason,
		})
	}
	if q := l.Request; q != nil {
		r.Request = job.Request{Prompt: q.Prompt, ExtraData: q.ExtraData, Targets: q.Targets, Outputs: q.Outputs}
	}
	if o := l.Outcome; o != nil {
		r.Outcome = &job.Outcome{
			State: l.State, Outputs: o.Outputs, Messages: o.Messages, Meta: o.Meta, Error: l.Error, ExecSeconds: o.ExecSeconds, Summary: l.Summary,
		}
	}
	return r
}

// since1970 is a time in milliseconds; zero for the zero time.
func since1970(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func from1970(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
