package e2e

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestQuotasOutliveAKill: what a person took is the same after a sudden end, and what is left is as well.
func TestQuotasOutliveAKill(t *testing.T) {
	t.Parallel()
	s := startStudio(t, studioOptions{config: "queue:\n  quotas: {everyone: {jobs_per_day: 5, gpu_per_day: 1m}}\n"})
	base := s.scheme + "://" + s.host
	send := func(name string, want int) string {
		body, err := json.Marshal(node{"prompt": slow(1, 1.2)})
		if err != nil {
			t.Fatal(err)
		}
		return askAs(t, s, name, http.MethodPost, base+"/prompt", string(body), want)
	}
	took := func(name string) string {
		t.Helper()
		page := askAs(t, s, name, http.MethodGet, base+"/me", "", http.StatusOK)
		return strings.Join(regexp.MustCompile(`You have (sent|used) [^<]*`).FindAllString(page, -1), " ")
	}
	c := s.person(t, "ann")
	for range 3 {
		c.run(t, slow(1, 1.2), nil)
	}
	before := took("ann")
	if !strings.Contains(before, "You have sent 3 of 5 jobs of today; 2 are left until midnight.") ||
		!regexp.MustCompile(`You have used [3-9](\.\d)? of 60 GPU seconds of today`).MatchString(before) {
		t.Errorf("after three runs of more than a second: %s", before)
	}
	s.server.kill()
	s.server.start(t)
	s.waitReady(t)
	if after := took("ann"); after != before {
		t.Errorf("before the kill %s\nafter it %s", before, after)
	}
	send("ann", http.StatusOK)
	send("ann", http.StatusOK)
	if answer := send("ann", http.StatusTooManyRequests); !strings.Contains(answer, "You have sent 5 of 5 jobs of today; more tomorrow at 00:00.") {
		t.Errorf("a sixth job: %s", answer)
	}
	if other := took("bob"); strings.Contains(other, "3 of 5") || !strings.Contains(other, "You have sent 0 of 5 jobs of today") {
		t.Errorf("another person reads %s", other)
	}
	send("bob", http.StatusOK)
}

// TestQuotaInTheEditor presses Run once more than there is room for: the official editor shows the studio's sentence.
func TestQuotaInTheEditor(t *testing.T) {
	b := startBrowser(t)
	for version := range generations {
		t.Run(version, func(t *testing.T) {
			s := startStudio(t, studioOptions{frontend: version, config: "queue:\n  quotas: {everyone: {jobs_per_day: 1}}\n"})
			e := openEditor(t, b.profile(t), s.link(t, "ann", s.host), version)
			e.load(t, "quota", plain(0x0000ff))
			e.press(t)
			e.untilFinished(t, 1)
			e.press(t)
			e.until(t, 20*time.Second, "the sentence", `document.body.innerText.includes('You have sent 1 of 1 jobs of today; more tomorrow at 00:00.')`)
			e.shot(t, "quota")
		})
	}
}
