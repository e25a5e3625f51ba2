package config_test

import (
	"slices"
	"strings"
	"testing"
)

// TestWhatBackEndsAndPacksDoNotTake: what would do nothing, or would show a secret, is said and not passed over.
func TestWhatBackEndsAndPacksDoNotTake(t *testing.T) {
	t.Parallel()
	const serverless = "driver: serverless, url: 'https://h', mode: plain"
	for text, want := range map[string]string{
		"backends: [{name: a, url: 'http://me:hush@h'}]":                           "backends[0].url: a name and password do not stand in an address",
		"backends: [{name: a, url: 'http://h', storage: 'file:///mnt/x'}]":         "backends[0].storage: belongs to the driver serverless",
		"backends: [{name: a, driver: agent, storage: 'file:///mnt/x'}]":           "backends[0].storage: belongs to the driver serverless",
		"backends: [{name: a, driver: agent, key: 'env:K'}]":                       "backends[0].key: an agent gets its key when it joins",
		"backends: [{name: a, " + serverless + ", storage: 'file:///x?input=/y'}]": "backends[0].storage: behind the ? stands inputs",
		"backends: [{name: a, url: 'http://h', labels: {'': x}}]":                  "backends[0].labels: a label has no name",
		"backends: [{name: a, url: 'http://h', price_per_hour: -2}]":               "backends[0].price_per_hour: -2 is below 0",
		"packs: {allow: [good, a/b]}":                                              `packs.allow[1]: "a/b" is not the name of a folder`,
		"packs: {deny: ['']}":                                                      `packs.deny[0]: "" is not the name of a folder`,
		"packs: {routes: {'..': [/x/]}}":                                           `packs.routes...: ".." is not the name of a folder`,
		"limits: {upload: -1}":                                                     `limits.upload: "-1" is no size between 0 and 8 EiB`,
		"queue: {max_running_per_user: -3}":                                        "queue.max_running_per_user: -3 is too little; it has to be at least 1",
	} {
		_, err := load(t, text, nil, nil)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	fine := []string{
		"backends: [{name: a, " + serverless + ", storage: 'file:///x?inputs=/y'}]",
		"packs: {allow: [Some-Pack, pack.v2], deny: ['@pack']}",
	}
	if i := slices.IndexFunc(fine, func(text string) bool { _, err := load(t, text, nil, nil); return err != nil }); i >= 0 {
		t.Errorf("refused: %s", fine[i])
	}
}
