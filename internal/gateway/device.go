package gateway

import "strings"

// deviceOf names a browser for the list of sessions, such as "Firefox on Linux". People look for "the one in the
// library"; they don't read user agents.
func deviceOf(agent string) string {
	has := func(part string) bool { return strings.Contains(agent, part) }
	first := func(pairs ...string) string {
		for n := 0; n < len(pairs); n += 2 {
			if has(pairs[n]) {
				return pairs[n+1]
			}
		}
		return ""
	}
	browser := first("Edg", "Edge", "OPR/", "Opera", "SamsungBrowser", "Samsung Internet", "Firefox/", "Firefox",
		"FxiOS", "Firefox", "CriOS", "Chrome", "Chromium", "Chromium", "Chrome/", "Chrome", "Safari/", "Safari")
	system := first("iPhone", "iPhone", "iPad", "iPad", "Android", "Android", "CrOS", "Chromebook",
		"Windows", "Windows", "Mac OS X", "Mac", "Linux", "Linux")
	switch {
	case browser != "" && system != "":
		return browser + " on " + system
	case browser != "":
		return browser
	case system != "":
		return "A browser on " + system
	}
	name, _, _ := strings.Cut(agent, "/")
	name = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, name)
	if name == "" {
		return "An unknown program"
	}
	return name[:min(len(name), 40)]
}
