package cli

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/rehearse"
	"github.com/ahelme/comfyume/internal/rehearse/report"
)

// simSchedule rehearses classes in virtual time.
type simSchedule struct {
	Class    []string `help:"Which classes: workshop, studio, batch, film; all of them when left out." placeholder:"NAME"`
	Modes    []string `help:"Which modes: fifo, round_robin, priority, fair; all when left out." placeholder:"MODE"`
	Affinity string   `help:"With affinity to loaded models, without, or both." enum:"on,off,both" default:"both"`
	Seed     uint64   `help:"Another number is another day (1)." default:"1" placeholder:"NUMBER"`

	Users    int           `help:"How many people." placeholder:"NUMBER" group:"Class"`
	Hours    time.Duration `name:"for" help:"How long it lasts, such as 3h." placeholder:"DURATION" group:"Class"`
	Practice int           `help:"Days like it that the studio has behind it, and has learnt from." default:"2" placeholder:"NUMBER" group:"Class"`

	GPUs      int             `name:"gpus" help:"How many GPUs." placeholder:"NUMBER" group:"Fleet"`
	Speeds    []float64       `help:"Their speeds in turn, 1 being usual, such as 1,0.5." placeholder:"FACTOR" group:"Fleet"`
	Memory    []string        `help:"Their memory in turn, such as 24GiB,80GiB." placeholder:"SIZE" group:"Fleet"`
	Models    int             `help:"How many models people use." placeholder:"NUMBER" group:"Fleet"`
	LoadTimes []time.Duration `help:"How long the first and the last model take to load, such as 5s,120s." placeholder:"DURATION" group:"Fleet"`

	Bands    time.Duration `help:"How often those who wait are told how long it still takes; 0: never." default:"5m" placeholder:"DURATION" group:"Report"`
	HTML     string        `name:"html" help:"Write a report with plots." placeholder:"FILE" group:"Report"`
	Pictures string        `help:"Write a picture of each class into the folder." placeholder:"DIR" group:"Report"`
}

// classFigures is what --json prints of a class.
type classFigures struct {
	Class   string             `json:"class"`
	People  int                `json:"people"`
	Seconds float64            `json:"seconds"`
	Seed    uint64             `json:"seed"`
	Fleet   []rehearse.GPU     `json:"fleet"`
	Models  []*rehearse.Model  `json:"models"`
	Modes   []rehearse.Figures `json:"modes"`
}

// Run rehearses and prints.
func (cmd *simSchedule) Run(c *call) error {
	classes, modes, err := cmd.plan()
	if err != nil {
		return err
	}
	var sections []report.Section
	for _, class := range classes {
		s := report.Section{Class: class, Command: cmd.again(class)}
		for _, m := range modes {
			runs, err := class.Hold(c.ctx, m)
			if err != nil {
				return err
			}
			s.Figures = append(s.Figures, class.Measure(m, runs))
		}
		sections = append(sections, s)
	}
	if err := cmd.write(sections); err != nil {
		return err
	}
	facts := make([]classFigures, len(sections))
	for i, s := range sections {
		facts[i] = classFigures{
			s.Class.Name, len(s.Class.People), s.Class.Length.Seconds(), s.Class.Seed, s.Class.Fleet, s.Class.Models, s.Figures,
		}
	}
	return c.print(facts, func(w io.Writer) { printSections(w, sections) })
}

// plan makes the classes and modes that the flags ask for.
func (cmd *simSchedule) plan() (classes []*rehearse.Class, modes []rehearse.Mode, err error) {
	o := rehearse.Options{
		Users: cmd.Users, Length: cmd.Hours, GPUs: cmd.GPUs, Speeds: cmd.Speeds, Models: cmd.Models, Seed: cmd.Seed,
		Ask: cmd.Bands, Practice: cmd.Practice,
	}
	switch {
	case cmd.Bands < 0:
		return nil, nil, wrongUse("--bands can't be less than 0.")
	case cmd.Bands == 0:
		o.Ask = -1
	}
	switch len(cmd.LoadTimes) {
	case 0:
	case 1:
		o.Quickest, o.Slowest = cmd.LoadTimes[0], cmd.LoadTimes[0]
	case 2:
		o.Quickest, o.Slowest = cmd.LoadTimes[0], cmd.LoadTimes[1]
	default:
		return nil, nil, wrongUse("--load-times are one or two times, such as 5s,120s.")
	}
	for _, text := range cmd.Memory {
		size, err := config.ParseSize(text)
		if err != nil {
			return nil, nil, wrongUse("--memory: %v.", err)
		}
		o.Memory = append(o.Memory, float64(size)/(1<<30))
	}
	names := cmd.Class
	if len(names) == 0 {
		names = rehearse.Names()
	}
	for _, o.Class = range names {
		class, err := rehearse.New(o)
		if err != nil {
			return nil, nil, err
		}
		classes = append(classes, class)
	}
	for _, name := range cmd.Modes {
		if !slices.ContainsFunc(rehearse.Modes(), func(m rehearse.Mode) bool { return string(m.Order) == name }) {
			return nil, nil, wrongUse("There is no mode %q.", name)
		}
	}
	for _, m := range rehearse.Modes() {
		asked := len(cmd.Modes) == 0 || slices.Contains(cmd.Modes, string(m.Order))
		if asked && (cmd.Affinity == "both" || m.Affinity == (cmd.Affinity == "on")) {
			modes = append(modes, m)
		}
	}
	return classes, modes, nil
}

// again is the command that gives a class's figures again.
func (cmd *simSchedule) again(class *rehearse.Class) string {
	words := []string{"comfyume sim schedule --class " + class.Name}
	add := func(flag, value string) { words = append(words, "--"+flag+" "+value) }
	if len(cmd.Modes) > 0 {
		add("modes", strings.Join(cmd.Modes, ","))
	}
	if cmd.Affinity != "both" {
		add("affinity", cmd.Affinity)
	}
	add("seed", strconv.FormatUint(cmd.Seed, 10))
	for _, n := range []struct {
		flag  string
		value int
	}{{"users", cmd.Users}, {"gpus", cmd.GPUs}, {"models", cmd.Models}} {
		if n.value > 0 {
			add(n.flag, strconv.Itoa(n.value))
		}
	}
	if cmd.Practice != 2 {
		add("practice", strconv.Itoa(cmd.Practice))
	}
	if cmd.Bands != 5*time.Minute {
		add("bands", cmd.Bands.String())
	}
	if cmd.Hours > 0 {
		add("for", cmd.Hours.String())
	}
	if len(cmd.Speeds) > 0 {
		list := make([]string, len(cmd.Speeds))
		for i, x := range cmd.Speeds {
			list[i] = strconv.FormatFloat(x, 'g', -1, 64)
		}
		add("speeds", strings.Join(list, ","))
	}
	if len(cmd.Memory) > 0 {
		add("memory", strings.Join(cmd.Memory, ","))
	}
	if len(cmd.LoadTimes) > 0 {
		list := make([]string, len(cmd.LoadTimes))
		for i, d := range cmd.LoadTimes {
			list[i] = d.String()
		}
		add("load-times", strings.Join(list, ","))
	}
	return strings.Join(words, " ")
}

// write writes the files that were asked for.
func (cmd *simSchedule) write(sections []report.Section) error {
	file := func(name, text string) error {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			return fault.Wrap(fault.Unavailable, err, "The report %s can't be written.", name)
		}
		return nil
	}
	if cmd.HTML != "" {
		var page strings.Builder
		if err := report.Page(&page, sections); err != nil {
			return err
		}
		if err := file(cmd.HTML, page.String()); err != nil {
			return err
		}
	}
	if cmd.Pictures == "" {
		return nil
	}
	for _, s := range sections {
		if err := file(filepath.Join(cmd.Pictures, "schedule-"+s.Class.Name+".svg"), report.Picture(s)); err != nil {
			return err
		}
	}
	return nil
}

func printSections(w io.Writer, sections []report.Section) {
	for i, s := range sections {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%s (simulated, seed %d)\n", s.Class.Title, s.Class.Seed)
		rows := make([][]string, 0, len(s.Figures))
		for _, f := range s.Figures {
			affinity := "off"
			if f.Affinity {
				affinity = "on"
			}
			held := "–"
			if f.Bands.Told > 0 {
				held = report.Percent(f.Bands.Held)
			}
			rows = append(rows, []string{
				f.Order, affinity, report.Seconds(f.Wait.P50), report.Seconds(f.Wait.P95), report.Seconds(f.Wait.Max),
				report.Index(f.Fairness, f.Fairness.Worst), report.Index(f.Fairness, f.Fairness.Mean),
				fmt.Sprintf("%.0f", f.PerHour), strconv.Itoa(f.Loads), report.Percent(f.Use), cmp.Or(held, "–"),
			})
		}
		table(w, []string{"MODE", "AFFINITY", "WAIT P50", "P95", "MAX", "JAIN WORST", "MEAN", "JOBS/H", "LOADS", "GPU USE", "IN BAND"}, rows)
	}
}
