package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Warm is a time of the week in which at least Min containers of a serverless back end are kept awake. Days and hours
// are those of the clock of the machine that the studio runs on.
type Warm struct {
	Days Days  `yaml:"days" doc:"mon-fri, or sat,sun; empty: every day"`
	From Clock `yaml:"from" doc:"09:00"`
	To   Clock `yaml:"to" doc:"17:00; up to 24:00, and before from: on the next day"`
	Min  int   `yaml:"min" doc:"so many containers; 1 where nothing is said"`
}

// Days are days of the week, a bit for each from Sunday on. No day at all stands for every day.
type Days uint8

var dayWords = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// ParseDays reads days such as mon-fri or sat,sun. A range may go over the weekend: fri-mon.
func ParseDays(s string) (Days, error) {
	var days Days
	text := strings.ToLower(strings.ReplaceAll(s, " ", ""))
	if text == "" {
		return 0, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, to := slices.Index(dayWords, first), slices.Index(dayWords, last)
		if from < 0 || to < 0 {
			return 0, fmt.Errorf("%q is not a list of days such as mon-fri or sat,sun", s)
		}
		for d := from; ; d = (d + 1) % 7 {
			days |= 1 << d
			if d == to {
				break
			}
		}
	}
	return days, nil
}

// Has reports whether the day is one of them.
func (d Days) Has(day time.Weekday) bool { return d == 0 || d&(1<<day) != 0 }

// String returns the days in a form that ParseDays reads back to the same.
func (d Days) String() string {
	if d == 1<<1|1<<2|1<<3|1<<4|1<<5 {
		return "mon-fri"
	}
	var words []string
	for i := range dayWords {
		if at := (i + 1) % 7; d&(1<<at) != 0 { // a week begins on Monday
			words = append(words, dayWords[at])
		}
	}
	return strings.Join(words, ",")
}

// Clock is a time of the day in minutes from midnight, 24:00 included.
type Clock int

// ParseClock reads a time of the day such as 09:00.
func ParseClock(s string) (Clock, error) {
	var hour, minute int
	var rest string
	n, err := fmt.Sscanf(s+" .", "%d:%d %s", &hour, &minute, &rest)
	c := Clock(hour*60 + minute)
	if n != 3 || err != nil || rest != "." || hour < 0 || minute < 0 || minute > 59 || c > 24*60 {
		return 0, fmt.Errorf("%q is not a time of the day such as 09:00", s)
	}
	return c, nil
}

// String returns the time as 09:00.
func (c Clock) String() string { return fmt.Sprintf("%02d:%02d", c/60, c%60) }

// on returns the time on the day that t lies in, moved by so many days.
func (c Clock) on(t time.Time, days int) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day()+days, int(c)/60, int(c)%60, 0, 0, t.Location())
}

// WarmAt returns how many containers a plan keeps awake at t, and when that may change next; the zero time for an
// empty plan, which never says anything else. It is a pure function: whoever keeps containers awake asks it again then.
func WarmAt(plan []Warm, t time.Time) (least int, next time.Time) {
	for _, w := range plan {
		for days := -1; days <= 7; days++ {
			from := w.From.on(t, days)
			if !w.Days.Has(from.Weekday()) {
				continue
			}
			to := w.To.on(t, days)
			if w.To <= w.From {
				to = w.To.on(t, days+1)
			}
			if !t.Before(from) && t.Before(to) {
				least = max(least, w.Min)
			}
			for _, edge := range []time.Time{from, to} {
				if edge.After(t) && (next.IsZero() || edge.Before(next)) {
					next = edge
				}
			}
		}
	}
	return least, next
}

// warm checks when a back end is kept awake.
func (l *loader) warm(at string, b *Back) {
	if len(b.Warm) > 0 && b.Driver != "serverless" {
		l.wrong(at+".warm", "belongs to the driver serverless")
		return
	}
	for i := range b.Warm {
		w, here := &b.Warm[i], fmt.Sprintf("%s.warm[%d]", at, i)
		for path, value := range map[string]Clock{"from": w.From, "to": w.To} {
			if !l.out.IsSet(here + "." + path) {
				l.wrong(here+"."+path, "is needed, as a time of the day such as 09:00")
			} else if path == "from" && value == 24*60 {
				l.wrong(here+".from", "24:00 is the end of a day; write 00:00")
			}
		}
		if w.From == w.To && l.out.IsSet(here+".from") && l.out.IsSet(here+".to") {
			l.wrong(here+".to", "is the same as from; a whole day is from 00:00 to 24:00")
		}
		if !l.out.IsSet(here + ".min") {
			w.Min = 1
		}
		l.atLeast(here+".min", int64(w.Min), 1)
	}
}

// Providers are the control interfaces of whoever runs containers for us.
type Providers struct {
	Verda VerdaAccount `yaml:"verda" doc:"provider of serverless containers; back ends name it under provider"`
}

// VerdaAccount is what the control interface of Verda is asked with. Both words of the account are secrets.
type VerdaAccount struct {
	ClientID     Secret `yaml:"client_id" doc:"of an API credential with the scope cloud-api-v1; env:NAME or file:PATH"`
	ClientSecret Secret `yaml:"client_secret" doc:"of the same credential; env:NAME or file:PATH"`
	URL          string `yaml:"url" doc:"address of the control interface"`
}

// IsSet reports whether the account can be asked at all.
func (v VerdaAccount) IsSet() bool { return v.ClientID.IsSet() && v.ClientSecret.IsSet() }

// providers checks what the control interfaces are asked with.
func (l *loader) providers(v VerdaAccount) {
	u, err := url.Parse(v.URL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		l.wrong("providers.verda.url", "%q is not an address such as https://api.verda.com/v1", v.URL)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "": // it may have a password in it
		l.wrong("providers.verda.url", "may have a path, and neither a name, nor ?, nor #")
	case u.Scheme == "http" && !loopback(u.Hostname()):
		l.wrong("providers.verda.url", "%q would send the credential unencrypted; write https", v.URL)
	}
	if v.ClientID.IsSet() != v.ClientSecret.IsSet() {
		missing := "client_id"
		if v.ClientID.IsSet() {
			missing = "client_secret"
		}
		l.wrong("providers.verda."+missing, "is needed beside the other word of the credential")
	}
}

// loopback reports whether a host is this machine.
func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
