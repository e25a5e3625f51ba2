package api

import (
	"encoding/json"
	"time"

	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/identity"
	"github.com/ahelme/comfyume/internal/job"
)

// User is an account.
type User struct {
	Name      string        `json:"name"`
	Group     string        `json:"group,omitempty"`
	Role      identity.Role `json:"role" enum:"participant,instructor,operator"`
	Suspended bool          `json:"suspended"`
	SignsIn   string        `json:"signs_in_with" doc:"password, pin or link"`
	Created   *time.Time    `json:"created,omitempty"`
	Seen      *time.Time    `json:"seen,omitempty" doc:"last use, to the minute"`
}

// NewUser is an account to be made.
type NewUser struct {
	Name     string        `json:"name" doc:"lower-case letters, digits, - and _"`
	Group    string        `json:"group,omitempty"`
	Role     identity.Role `json:"role,omitempty" enum:"participant,instructor,operator" doc:"participant when left out"`
	Password string        `json:"password,omitempty" doc:"without one the person comes in by a link"`
}

// UserChange names what of an account is to be another.
type UserChange struct {
	Group     *string        `json:"group,omitempty"`
	Role      *identity.Role `json:"role,omitempty" enum:"participant,instructor,operator"`
	Suspended *bool          `json:"suspended,omitempty"`
}

// Imported says what came of a roster.
type Imported struct {
	Made  []User `json:"made" nullable:"false"`
	There int    `json:"there" doc:"people who had an account already and were left as they are"`
}

// Link is a one-time sign-in link.
type Link struct {
	User    string    `json:"user"`
	URL     string    `json:"url"`
	Expires time.Time `json:"expires"`
}

// Token is a personal token. Secret is there once, in the answer to its making.
type Token struct {
	ID      string     `json:"id"`
	User    string     `json:"user"`
	Label   string     `json:"label"`
	Scope   string     `json:"scope" enum:"all,comfy,worker"`
	Secret  string     `json:"token,omitempty"`
	Created time.Time  `json:"created"`
	Used    *time.Time `json:"used,omitempty"`
	Expires *time.Time `json:"expires,omitempty"`
}

// NewToken is a token to be made.
type NewToken struct {
	Label string `json:"label,omitempty" maxLength:"100"`
	Scope string `json:"scope,omitempty" enum:"all,comfy,worker" doc:"all: whatever the person may do; comfy: their ComfyUI server only; worker: take anybody's jobs to run them and nothing else, for operators to give"`
	Hours int    `json:"hours,omitempty" minimum:"0" doc:"how long it lives; 0: until it is revoked"`
}

// Group is a number of people.
type Group struct {
	Name    string     `json:"name"`
	Title   string     `json:"title,omitempty"`
	Members int        `json:"members"`
	Created *time.Time `json:"created,omitempty"`
}

// Code lets people join a group by themselves.
type Code struct {
	Code    string    `json:"code"`
	URL     string    `json:"url"`
	Group   string    `json:"group"`
	By      string    `json:"by,omitempty"`
	Places  int       `json:"places"`
	Joined  int       `json:"joined"`
	Expires time.Time `json:"expires"`
}

// Job is one run of a graph.
type Job struct {
	ID       job.ID     `json:"id"`
	User     string     `json:"user"`
	Group    string     `json:"group,omitempty"`
	PromptID string     `json:"prompt_id"`
	State    job.State  `json:"state" enum:"pending,running,completed,failed,cancelled"`
	Class    job.Class  `json:"priority" doc:"0 instructor, 1 high, 2 normal, 3 low"`
	Created  time.Time  `json:"created"`
	Started  *time.Time `json:"started,omitempty"`
	Finished *time.Time `json:"finished,omitempty"`
	Attempt  int        `json:"attempt" doc:"0 before the first"`
	BackEnd  string     `json:"backend,omitempty"`
	Staged   bool       `json:"staged" doc:"a back end is chosen and the prompt not sent yet"`
	Stopping bool       `json:"stopping" doc:"somebody asked to interrupt it"`
	Held     bool       `json:"held" doc:"its owner, or staff, keeps it from running"`
	Deadline *time.Time `json:"deadline,omitempty" doc:"when its owner needs it; it changes nobody's turn, and lets GPUs that cost money help"`
	Late     bool       `json:"late,omitempty" doc:"it was not done by its deadline"`
	Error    string     `json:"error,omitempty"`
	Attempts []Attempt  `json:"attempts,omitempty" doc:"only where one job is asked for: what came of its attempts, those apart that were taken back before they began"`

	Position int    `json:"position,omitempty" doc:"of a waiting job; 1 is next"`
	Code     string `json:"why_code,omitempty" doc:"why it waits, for programs"`
	Why      string `json:"why,omitempty" doc:"why it waits, in a sentence"`
	Wait     *Band  `json:"wait,omitempty" doc:"when it begins; missing where nobody can tell"`
}

// Attempt is one try of a job on a back end.
type Attempt struct {
	N       int        `json:"n"`
	BackEnd string     `json:"backend"`
	Began   *time.Time `json:"began,omitempty" doc:"when the back end was chosen for it"`
	Ended   *time.Time `json:"ended,omitempty" doc:"missing: it goes on"`
	Posted  bool       `json:"posted" doc:"the back end was given the prompt"`
	Cause   job.Cause  `json:"cause,omitempty" doc:"why it is over: done, graph, stopped, unreachable, lost, crashed, frozen, memory, broken, too_long, foreign, misfit, full, internal or abandoned"`
	Reason  string     `json:"reason,omitempty"`
}

// Band is how long a wait may be.
type Band struct {
	From float64 `json:"from" doc:"seconds; one of five such jobs begins before"`
	To   float64 `json:"to" doc:"seconds; one of five such jobs begins after"`
}

// Place is where the job stands, as events tell it.
func (j Job) Place() event.Place {
	p := event.Place{Position: j.Position, Code: j.Code, Reason: j.Why}
	if j.Wait != nil {
		p.From, p.To = j.Wait.From, j.Wait.To
	}
	return p
}

// JobChange names what of a waiting job is to be another.
type JobChange struct {
	Class    *job.Class `json:"priority,omitempty" minimum:"0" maximum:"3" doc:"0 instructor, 1 high, 2 normal, 3 low; participants only lower it"`
	Deadline *string    `json:"deadline,omitempty" maxLength:"64" doc:"when its owner needs it, in RFC 3339; empty: nobody says"`
}

// JobOrder is the order of waiting jobs of one person.
type JobOrder struct {
	Jobs []job.ID `json:"jobs" minItems:"1" maxItems:"1000" nullable:"false" doc:"all of one priority; they share the places that they have"`
}

// Cancelled says which jobs of a person were ended.
type Cancelled struct {
	Removed  []job.ID `json:"removed" nullable:"false" doc:"they waited and are taken out"`
	Stopping []job.ID `json:"stopping" nullable:"false" doc:"they run and are asked to stop"`
}

// Record is a job with what it asks for and what it gave.
type Record struct {
	Job      Job             `json:"job"`
	Prompt   json.RawMessage `json:"prompt" doc:"the graph in API form, as POST /prompt takes it"`
	Workflow json.RawMessage `json:"workflow,omitempty" doc:"the graph as the editor opens it"`
	Results  []Result        `json:"results" nullable:"false"`
}

// Result is one file that a job made.
type Result struct {
	Node      string `json:"node"`
	Kind      string `json:"kind" doc:"images, audio, gifs or what else the node calls it"`
	Filename  string `json:"filename"`
	Subfolder string `json:"subfolder"`
	Type      string `json:"type" enum:"output,temp,input"`
}

// Jobs is a page of a list.
type Jobs struct {
	Jobs  []Job `json:"jobs" nullable:"false"`
	Total int   `json:"total"`
}

// Load is how many jobs somebody has open, and their share.
type Load struct {
	User        string  `json:"user"`
	Group       string  `json:"group,omitempty"`
	Pending     int     `json:"pending"`
	Running     int     `json:"running"`
	Weight      float64 `json:"weight" doc:"share of the GPUs within the group, in mode fair"`
	GroupWeight float64 `json:"group_weight" doc:"the group's share among the groups"`
}

// Pause is a part of the queue that starts nothing.
type Pause struct {
	Scope  string    `json:"scope" doc:"all, group:NAME or backend:NAME"`
	Reason string    `json:"reason,omitempty" doc:"a sentence for who waits"`
	By     string    `json:"by,omitempty"`
	Since  time.Time `json:"since"`
}

// PauseReason is what is told to who waits.
type PauseReason struct {
	Reason string `json:"reason,omitempty" maxLength:"300" doc:"a sentence"`
}

// QueueMode is how the queue chooses between people.
type QueueMode struct {
	Mode string `json:"mode" enum:"fifo,round_robin,priority,fair"`
}

// QueueState is the queue at a glance.
type QueueState struct {
	Mode   string     `json:"mode" enum:"fifo,round_robin,priority,fair"`
	Pauses []Pause    `json:"pauses" nullable:"false"`
	Counts job.Counts `json:"counts"`
	Users  []Load     `json:"users" nullable:"false"`
	Budget *Budget    `json:"budget,omitempty" doc:"for instructors, who read of their own group, and operators"`
}

// BackEnd is a GPU source.
type BackEnd struct {
	Name    string     `json:"name"`
	Driver  string     `json:"driver"`
	URL     string     `json:"url"`
	State   string     `json:"state" doc:"ready, busy (for somebody else), unreachable, refused, quarantined, trial (with one job, after that), drained or unknown"`
	Reason  string     `json:"reason,omitempty" doc:"a sentence"`
	Cause   string     `json:"cause,omitempty" doc:"the last trouble in full"`
	Version string     `json:"version,omitempty" doc:"of its ComfyUI"`
	Foreign int        `json:"foreign_jobs" doc:"runs in its queue that are not ours"`
	Devices []Device   `json:"devices" nullable:"false"`
	Seen    *time.Time `json:"seen,omitempty"`

	Groups   []string          `json:"groups,omitempty" doc:"whose jobs it runs; missing: everybody's"`
	Labels   map[string]string `json:"labels,omitempty"`
	Added    bool              `json:"added,omitempty" doc:"by an operator while the studio ran; else the settings name it"`
	Classes  int               `json:"node_classes,omitempty"`
	Models   int               `json:"models,omitempty" doc:"model files"`
	Until    *time.Time        `json:"until,omitempty" doc:"the end of its quarantine or maintenance"`
	Parallel int               `json:"parallel,omitempty" doc:"jobs that it runs at the same time"`
	Price    float64           `json:"price_per_hour,omitempty" doc:"missing: it is ours"`
	Second   float64           `json:"price_per_second,omitempty" doc:"the same for a second, by which it is counted"`
	Prefer   int               `json:"prefer,omitempty" doc:"the higher one gets a job first"`
	MaxRun   float64           `json:"max_run,omitempty" doc:"seconds; a run that takes longer is stopped"`
	Cold     string            `json:"cold,omitempty" doc:"a sentence while it sleeps"`
	Wake     float64           `json:"wake,omitempty" doc:"seconds that waking took lately"`
	Runs     int               `json:"runs,omitempty" doc:"that came to an end since the studio started, good or bad"`
	Losses   map[job.Cause]int `json:"losses,omitempty" doc:"attempts that came to nothing, by cause"`
	Speed    float64           `json:"speed,omitempty" doc:"how many times as fast as usual, as its runs show; missing: nobody knows"`
	Loaded   string            `json:"loaded,omitempty" doc:"models that it has loaded, a line each"`
	Loads    []Loading         `json:"loads,omitempty" doc:"how long models take to load there"`

	Notes []string `json:"notes,omitempty" doc:"sentences: what is worth knowing and keeps nothing from running"`
}

// Loading is how long models take to load.
type Loading struct {
	Models  string  `json:"models" doc:"a line each"`
	Seconds float64 `json:"seconds"`
	Times   int     `json:"times" doc:"that it was seen, of late"`
}

// Device is one GPU.
type Device struct {
	Name      string `json:"name"`
	VRAMTotal int64  `json:"vram_total"`
	VRAMFree  int64  `json:"vram_free"`
}

// Status is the studio at a glance.
type Status struct {
	Name     string     `json:"name"`
	ID       string     `json:"id"`
	Version  string     `json:"version"`
	URL      string     `json:"url"`
	Running  bool       `json:"running" doc:"false: the command looked into the data folder, no server runs"`
	Since    *time.Time `json:"since,omitempty"`
	Ready    bool       `json:"ready"`
	Reasons  []string   `json:"reasons" nullable:"false" doc:"why it is not ready, and what is worth knowing"`
	Frontend string     `json:"frontend,omitempty"`
	Queue    job.Counts `json:"queue"`
	BackEnds []BackEnd  `json:"backends" nullable:"false"`
}

// Me is who asks.
type Me struct {
	Name  string        `json:"name"`
	Group string        `json:"group,omitempty"`
	Role  identity.Role `json:"role"`
}

// When returns t as the optional times of this interface: nil for the zero time.
func When(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
