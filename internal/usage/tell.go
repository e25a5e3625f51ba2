package usage

import (
	"fmt"
	"strings"
	"time"
)

// Line is a quota as people read it.
type Line struct {
	Text    string
	Percent int // that is used, 0 to 100; below 0: there is no quota
}

// Lines says in a sentence for each quota what a person and their group took, what is left and until when. Where no
// quota is set it says what the person took today, if anything.
func Lines(person, ofGroup Usage) (lines []Line) {
	for _, of := range []struct {
		subject string
		Usage
	}{{"You have", person}, {"Your group has", ofGroup}} {
		for _, span := range []struct {
			of string
			Span
		}{{"this hour", of.Hour}, {"today", of.Day}} {
			until := span.Ends.Format("15:04")
			if span.of == "today" {
				until = "midnight"
			}
			if most := span.MostJobs; most > 0 {
				lines = append(lines, line(fmt.Sprintf("%s sent %d of %d jobs of %s", of.subject, span.Jobs, most, span.of),
					fmt.Sprint(max(most-span.Jobs, 0)), until, float64(span.Jobs)/float64(most)))
			}
			if most := span.MostGPU; most > 0 {
				lines = append(lines, line(fmt.Sprintf("%s used %s of %s", of.subject, ofGPU(span.GPU, most), span.of),
					amount(most-span.GPU, most), until, float64(span.GPU)/float64(most)))
			}
		}
	}
	if today := person.Day; len(lines) == 0 && today.Jobs > 0 {
		text := fmt.Sprintf("You have sent %d jobs today", today.Jobs)
		if today.Jobs == 1 {
			text = "You have sent 1 job today"
		}
		if today.GPU >= time.Second {
			_, name := unit(today.GPU)
			n := amount(today.GPU, today.GPU)
			if n == "1" {
				name = strings.TrimSuffix(name, "s")
			}
			text += fmt.Sprintf(" and used %s GPU %s", n, name)
		}
		lines = append(lines, Line{Text: text + ".", Percent: -1})
	}
	return lines
}

func line(text, left, until string, part float64) Line {
	verb := "are"
	if left == "1" {
		verb = "is"
	}
	if left == "0" {
		left = "none"
	}
	return Line{Text: fmt.Sprintf("%s; %s %s left until %s.", text, left, verb, until), Percent: int(100 * min(max(part, 0), 1))}
}
