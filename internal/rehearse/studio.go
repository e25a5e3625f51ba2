package rehearse

import (
	"context"
	"slices"
	"time"
)

// Run is one job and what became of it. Times count from the begin of the class.
type Run struct {
	Person    int
	Submitted time.Duration
	Started   time.Duration // a GPU began it
	Ended     time.Duration
	GPU       int
	Load      time.Duration // of the model
	Work      time.Duration
	Cached    bool // the GPU had the nodes of this graph in its cache

	graph graph
	seq   int
	bands []band // what its owner was told of the wait
}

// Wait is how long the job waited.
func (r *Run) Wait() time.Duration { return r.Started - r.Submitted }

// Model is what the job's graph loads.
func (r *Run) Model() *Model { return r.graph.model }

// studio is a class in one mode: the world around the schedule.
type studio struct {
	*Class
	clock
	ctx    context.Context // of Hold, which lasts as long as the studio
	people []*person
	cards  []*card
	runs   []*Run
	desk   *desk
	nodes  int // graphs made so far, over all people
	err    error
}

// Hold lets the class happen in a mode, behind the days that it practised, and returns its jobs in order of submission.
func (c *Class) Hold(ctx context.Context, m Mode) ([]*Run, error) {
	var past Past
	for _, day := range c.before {
		if _, err := day.HoldAfter(ctx, m, &past); err != nil {
			return nil, err
		}
	}
	return c.HoldAfter(ctx, m, &past)
}

// HoldAfter lets the class happen in a mode, to the end of the last job, in a studio that learnt from a past, and returns
// its jobs in order of submission. The past is longer by that day then.
func (c *Class) HoldAfter(ctx context.Context, m Mode, past *Past) ([]*Run, error) {
	s := &studio{Class: c, ctx: ctx}
	var err error
	if s.desk, err = newDesk(ctx, c, m, past); err != nil {
		return nil, err
	}
	for i, g := range c.Fleet {
		s.cards = append(s.cards, &card{GPU: g})
		s.desk.backEnd(s.cards[i])
	}
	for i, p := range c.People {
		s.people = append(s.people, newPerson(p, i, c.Seed))
		s.pressAgain(s.people[i])
	}
	if c.Ask > 0 {
		s.at(c.Ask, s.ask)
	}
	s.run(func() {
		if s.err == nil {
			s.err = ctx.Err()
		}
		if s.err == nil {
			s.err = s.schedule()
		}
		if s.err != nil {
			s.coming = nil
		}
	})
	s.desk.close(past)
	return s.runs, s.err
}

// pressAgain has the person press Run when they have thought.
func (s *studio) pressAgain(p *person) {
	at, jobs, ok := p.press(s.now)
	if !ok {
		return
	}
	s.at(at, func() {
		if p.Ahead > 0 {
			jobs = max(jobs, p.Ahead-p.open)
		}
		for range jobs {
			s.submit(p)
		}
	})
}

func (s *studio) submit(p *person) {
	r := &Run{Person: p.index, Submitted: s.now, graph: p.next(s.Models, &s.nodes), seq: len(s.runs)}
	s.runs = append(s.runs, r)
	p.open++
	if err := s.desk.submit(s.ctx, r, s.now); err != nil && s.err == nil {
		s.err = err
	}
}

// schedule lets the product decide, in the order of internal/dispatch: it takes one staged job back, decides, hears that
// the job is back, and begins again.
func (s *studio) schedule() error {
	for {
		seq, recalled := s.desk.recall(s.now)
		if err := s.decide(); err != nil || !recalled {
			return err
		}
		r := s.runs[seq]
		c := s.cards[r.GPU]
		c.line = slices.DeleteFunc(c.line, func(other *Run) bool { return other == r })
		if err := s.desk.released(s.ctx, r); err != nil {
			return err
		}
	}
}

// decide makes decisions until there are none.
func (s *studio) decide() error {
	for {
		seq, gpu, ok := s.desk.next(s.now)
		if !ok {
			return nil
		}
		r, c := s.runs[seq], s.cards[gpu]
		r.GPU = gpu
		if err := s.desk.claimed(s.ctx, r, c); err != nil {
			return err
		}
		if c.line = append(c.line, r); len(c.line) == 1 {
			if err := s.begin(c); err != nil {
				return err
			}
		}
	}
}

// begin hands the first run of its line to a GPU.
func (s *studio) begin(c *card) error {
	r := c.line[0]
	r.Started = s.now
	s.at(s.now+c.begin(r), func() {
		if err := s.end(c, r); err != nil && s.err == nil {
			s.err = err
		}
	})
	return s.desk.posted(r)
}

func (s *studio) end(c *card, r *Run) error {
	r.Ended = s.now
	c.line = c.line[1:]
	if err := s.desk.ended(s.ctx, r, c); err != nil {
		return err
	}
	p := s.people[r.Person]
	if p.open--; p.open == 0 || p.open < p.Ahead {
		s.pressAgain(p)
	}
	if len(c.line) > 0 {
		return s.begin(c)
	}
	return nil
}
