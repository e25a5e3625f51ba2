package rehearse

import (
	"time"

	"github.com/ahelme/comfyume/internal/job"
)

// The graphs that people run.
var (
	sketch  = Graph{Name: "sketch", Model: 0, Work: 5 * time.Second, Spread: 0.3, Prepare: time.Second}
	picture = Graph{Name: "picture", Model: 1, Work: 14 * time.Second, Spread: 0.4, Prepare: 2 * time.Second}
	poster  = Graph{Name: "poster", Model: 2, Work: 35 * time.Second, Spread: 0.5, Prepare: 5 * time.Second}
	clip    = Graph{Name: "clip", Model: 3, Work: 3 * time.Minute, Spread: 0.4, Prepare: 10 * time.Second}
	shot    = Graph{Name: "shot", Model: 4, Work: 10 * time.Minute, Spread: 0.2, Prepare: 20 * time.Second}
)

// often returns the graph, so many times as likely as others.
func (g Graph) often(n float64) Graph {
	g.Often = n
	return g
}

// plans are the classes.
var plans = []plan{
	{
		name: "workshop", title: "A workshop of 20 people",
		text: "Everybody follows the same exercises on three GPUs, with a break half-way. The instructor shows something now and then.",

		users: 20, length: 3 * time.Hour, window: 30 * time.Minute,
		gpus: 3, speeds: []float64{1, 1, 0.7}, memory: []float64{24}, models: 3, load: Span{5 * time.Second, 40 * time.Second},
		people: workshop,
	},
	{
		name: "studio", title: "A studio of 200 people",
		text: "They come and go, in four groups, on 24 GPUs of three kinds. Some run films that only a large GPU has room for.",

		users: 200, length: 3 * time.Hour, window: 30 * time.Minute,
		gpus: 24, speeds: []float64{1, 1, 0.6, 1.6}, memory: []float64{24, 24, 16, 80}, models: 5, load: Span{5 * time.Second, 120 * time.Second},
		shares: map[string]float64{"motion": 2}, people: studioPerson,
	},
	{
		name: "batch", title: "A batch of 500 jobs among 30 others",
		text: "Ten minutes after the begin one person presses Run with 500 jobs. Thirty others go on as if nothing had happened.",

		users: 31, length: 3 * time.Hour, window: 30 * time.Minute,
		gpus: 4, speeds: []float64{1}, memory: []float64{24}, models: 3, load: Span{5 * time.Second, 40 * time.Second},
		people: batch,
	},
	{
		name: "film", title: "A film lab with jobs of ten minutes",
		text: "Twelve people render shots of about ten minutes on six GPUs for eight hours, and look at short clips between.",

		users: 12, length: 8 * time.Hour, window: 3 * time.Hour,
		gpus: 6, speeds: []float64{1, 1, 1.5}, memory: []float64{48, 48, 80}, models: 5, load: Span{5 * time.Second, 120 * time.Second},
		people: film,
	},
}

// workshop: the first one is the instructor.
func workshop(i, _ int, length time.Duration, draw chance) Person {
	late := draw.between(0, length/40)
	half := length / 2
	p := Person{
		Kind: "participant", Group: "class", Class: job.ClassNormal,
		There: []Span{{late, half - length/24}, {half + length/24 + late/2, length}},
		Think: draw.about(80*time.Second, 0.3), Press: [2]int{1, 3}, Repeat: 0.6,
		Graphs: []Graph{sketch.often(3), picture.often(5), poster.often(1)},
	}
	if i == 0 {
		p.Kind, p.Group, p.Class = "instructor", "staff", job.ClassInstructor
		p.Think, p.Press = 4*time.Minute, [2]int{1, 1}
	}
	return p
}

func studioPerson(i, _ int, length time.Duration, draw chance) Person {
	come := draw.between(0, length*2/3)
	stay := draw.between(length/4, length)
	p := Person{Class: job.ClassNormal, There: []Span{{come, min(come+stay, length)}}, Think: draw.about(2*time.Minute, 0.4), Press: [2]int{1, 2}, Repeat: 0.5}
	switch i % 10 {
	case 0, 1: // films
		p.Kind, p.Group, p.Class = "film", "motion", job.ClassHigh
		p.Think, p.Press = 6*time.Minute, [2]int{1, 1}
		p.Graphs = []Graph{clip.often(4), shot.often(1), picture.often(1)}
	case 2: // series over night, by day
		p.Kind, p.Group, p.Class = "series", "print", job.ClassLow
		p.Press, p.Repeat = [2]int{10, 40}, 0.9
		p.Graphs = []Graph{picture.often(1), poster.often(2)}
	case 3, 4, 5:
		p.Kind, p.Group = "poster", "print"
		p.Graphs = []Graph{poster.often(3), picture.often(1)}
	default:
		p.Kind, p.Group = "picture", "web"
		if i%2 == 1 {
			p.Group = "school"
		}
		p.Graphs = []Graph{sketch.often(2), picture.often(4), poster.often(1)}
	}
	return p
}

// batch: the last one has the batch.
func batch(i, users int, length time.Duration, draw chance) Person {
	if i == users-1 {
		return Person{
			Kind: "batch", Group: "class", Class: job.ClassNormal, There: []Span{{length / 18, length}}, Once: true,
			Press: [2]int{500, 500}, Repeat: 1, Graphs: []Graph{picture.often(1)},
		}
	}
	return Person{
		Kind: "other", Group: "class", Class: job.ClassNormal, There: []Span{{draw.between(0, length/20), length}},
		Think: draw.about(3*time.Minute, 0.3), Press: [2]int{1, 2}, Repeat: 0.5,
		Graphs: []Graph{sketch.often(3), picture.often(4), poster.often(1)},
	}
}

// film: every third person works on clips only.
func film(i, _ int, length time.Duration, draw chance) Person {
	p := Person{
		Kind: "shots", Group: "lab", Class: job.ClassNormal, There: []Span{{draw.between(0, length/16), length}},
		Ahead: 2, Press: [2]int{1, 1}, Repeat: 0.3, Graphs: []Graph{shot.often(1)},
	}
	if i%3 == 0 {
		p.Kind, p.Ahead, p.Class = "clips", 0, job.ClassHigh
		p.Think, p.Press, p.Graphs = draw.about(6*time.Minute, 0.3), [2]int{1, 2}, []Graph{clip.often(3), poster.often(2)}
	}
	return p
}
