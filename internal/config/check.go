package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ahelme/comfyume/internal/near"
)

// name is what users, groups and back ends may be called: it becomes a folder and a part of addresses.
var name = regexp.MustCompile(`^[a-z0-9_-]{1,32}$`)

var versionWord = regexp.MustCompile(`^[0-9]+(\.[0-9]+)+[0-9A-Za-z.+-]*$`)

// check finds everything that is wrong with values that could be read.
func (l *loader) check() {
	c := &l.out.Config
	l.address("listen", c.Listen, false)
	l.address("queue_api", c.QueueAPI, true)
	l.address("metrics", c.Metrics, true)
	l.publicURL(c.PublicURL)
	l.tls(c.TLS)
	for i, p := range c.TrustedProxies {
		if _, err := netip.ParsePrefix(p); err == nil {
			continue
		}
		if _, err := netip.ParseAddr(p); err != nil {
			l.wrong(fmt.Sprintf("trusted_proxies[%d]", i), "%q is neither an address nor a network such as 10.0.0.0/8", p)
		}
	}
	if c.Data == "" {
		l.wrong("data", "is empty; name the folder for the database and the files")
	}
	l.store(c)
	l.oneOf("isolation", c.Isolation, "shared", "strict")
	l.oneOf("comfy_account", c.ComfyAccount, "deny", "allow")
	l.oneOf("queue.mode", c.Queue.Mode, "fifo", "round_robin", "priority", "fair")
	if f := c.Frontend; f != "auto" && !versionWord.MatchString(f) && !strings.ContainsAny(f, `/\`) {
		l.wrong("frontend", "%q is neither auto, nor a version such as 1.58.1, nor a folder", f)
	}
	l.queue(c.Queue)
	l.budget(c.Budget)
	for path, n := range map[string]int64{
		"limits.upload": int64(c.Limits.Upload), "limits.disk_per_user": int64(c.Limits.DiskPerUser),
		"limits.sockets_per_user": int64(c.Limits.SocketsPerUser), "queue.max_pending": int64(c.Queue.MaxPending),
		"queue.max_pending_per_user": int64(c.Queue.MaxPendingPerUser), "queue.max_running_per_user": int64(c.Queue.MaxRunningPerUser),
	} {
		l.atLeast(path, n, 1)
	}
	l.users(c.Users)
	l.packs(c.Packs)
	l.backends(c.Backends)
	l.providers(c.Providers.Verda)
	l.notYet(reflect.ValueOf(c).Elem(), "")
}

// wrong reports a problem with the value at path, with where it came from.
func (l *loader) wrong(path, format string, args ...any) {
	where, at := l.out.origin[path], path
	for where == (Origin{}) && at != "" { // a missing value stands where its section or list item begins
		cut := strings.LastIndexAny(at, ".[")
		if cut < 0 {
			break
		}
		at = at[:cut]
		where = l.out.origin[at]
	}
	l.problem(where, path, format, args...)
}

func (l *loader) oneOf(path, value string, words ...string) {
	if !slices.Contains(words, value) {
		l.wrong(path, "%q is none of %s%s", value, strings.Join(words, ", "), maybe(near.Best(value, words)))
	}
}

func (l *loader) address(path, value string, mayBeEmpty bool) {
	if value == "" && mayBeEmpty {
		return
	}
	_, port, err := net.SplitHostPort(value)
	if err != nil {
		l.wrong(path, "%q is not an address such as 127.0.0.1:8080", value)
		return
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n > 65535 {
		l.wrong(path, "%q has no port between 0 and 65535", value)
	}
}

func (l *loader) publicURL(value string) {
	if value == "" {
		return
	}
	u, err := url.Parse(value)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		l.wrong("public_url", "%q is not an address such as https://lab.example/studio", value)
		return
	}
	if u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		l.wrong("public_url", "%q may have a path, and neither a name, nor ?, nor #", value)
	}
}

func (l *loader) tls(t TLS) {
	l.oneOf("tls.mode", t.Mode, "off", "files", "acme", "self")
	needs := map[string][]struct{ path, value string }{
		"files": {{"tls.cert", t.Cert}, {"tls.key", t.Key}},
		"acme":  {{"tls.domain", t.Domain}},
	}
	for _, n := range needs[t.Mode] {
		if n.value == "" {
			l.wrong(n.path, "is needed by tls.mode %s", t.Mode)
		}
	}
}

func (l *loader) store(c *Config) {
	switch {
	case c.Store == "sqlite":
	case c.Store.redis():
	default: // it may have a password in it
		l.wrong("store", "write sqlite, or the address of a Redis such as redis://HOST:6379/0")
	}
	switch {
	case c.Blob == "file", folderAddress(c.Blob):
	case strings.HasPrefix(c.Blob, "s3:"):
		l.bucket("blob", c.Blob)
	default: // it may have a key in it
		l.wrong("blob", "write file, or an absolute folder such as file:///mnt/outputs, or s3://bucket/prefix?endpoint=HOST")
	}
}

// folderAddress reports whether an address is that of a folder.
func folderAddress(address string) bool {
	u, err := url.Parse(address)
	return err == nil && u.Scheme == "file" && u.Host == "" && u.RawQuery == "" && u.Fragment == "" && filepath.IsAbs(u.Path)
}

// withoutInputs is the address of a folder of outputs without what may name a shared folder of inputs behind it.
func withoutInputs(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return address
	}
	if q := u.Query(); len(q) == 1 && filepath.IsAbs(q.Get("inputs")) {
		u.RawQuery = ""
	}
	return u.String()
}

// bucket checks the address of a bucket. Its text is not shown: it may have a key in it.
func (l *loader) bucket(path, address string) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "s3" || u.Host == "" || u.Fragment != "" {
		l.wrong(path, "write s3://bucket/prefix?endpoint=HOST")
		return
	}
	query, err := url.ParseQuery(u.RawQuery)
	if u.User != nil || err != nil {
		l.wrong(path, "keys do not stand in the address of a bucket: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or key=env:NAME&secret=file:PATH in it")
		return
	}
	for name, values := range query {
		switch name {
		case "endpoint", "region":
		case "key", "secret":
			if _, err := ParseSecret(values[0]); err != nil {
				l.wrong(path, "%s: %v", name, err)
			}
		default:
			l.wrong(path, "behind the ? stand endpoint, region, key and secret, and nothing else")
		}
	}
}

// queue checks how the GPUs are shared.
func (l *loader) queue(q Queue) {
	if q.HalfLife == 0 {
		l.wrong("queue.half_life", "has to be longer than 0")
	}
	l.atLeast("queue.keep_per_user", int64(q.KeepPerUser), 0)
	for path, weights := range map[string]map[string]float64{
		"queue.weights.users": q.Weights.Users, "queue.weights.groups": q.Weights.Groups,
	} {
		for who, w := range weights {
			l.named(path, who)
			if w < 0.01 || w > 100 {
				l.wrong(path+"."+who, "%v is not a weight between 0.01 and 100", w)
			}
		}
	}
	l.quota("queue.quotas.everyone", q.Quotas.Everyone)
	l.quota("queue.quotas.every_group", q.Quotas.EveryGroup)
	for path, quotas := range map[string]map[string]Quota{
		"queue.quotas.users": q.Quotas.Users, "queue.quotas.groups": q.Quotas.Groups,
	} {
		for who, quota := range quotas {
			l.named(path, who)
			l.quota(path+"."+who, quota)
		}
	}
}

// budget checks what may be spent.
func (l *loader) budget(b Budget) {
	if b.Wait == 0 {
		l.wrong("budget.wait", "has to be longer than 0")
	}
	l.money("budget", Money{b.PerHour, b.PerDay})
	for group, m := range b.Groups {
		l.named("budget.groups", group)
		l.money("budget.groups."+group, m)
	}
}

func (l *loader) money(path string, m Money) {
	for of, amount := range map[string]float64{"per_hour": m.PerHour, "per_day": m.PerDay} {
		if amount < 0 || amount > 1e9 {
			l.wrong(path+"."+of, "%v is not an amount between 0 and 1000000000", amount)
		}
	}
}

// named checks a name of a person or group in a list by names.
func (l *loader) named(path, who string) {
	if !name.MatchString(who) {
		l.wrong(path+"."+who, "%q is not a name: 1 to 32 lower-case letters, digits, - and _", who)
	}
}

func (l *loader) quota(path string, q Quota) {
	l.atLeast(path+".jobs_per_hour", int64(q.JobsPerHour), 0)
	l.atLeast(path+".jobs_per_day", int64(q.JobsPerDay), 0)
}

func (l *loader) atLeast(path string, n, least int64) {
	if n < least {
		l.wrong(path, "%d is too little; it has to be at least %d", n, least)
	}
}

func (l *loader) users(users []User) {
	seen := map[string]bool{}
	for i, u := range users {
		at := fmt.Sprintf("users[%d]", i)
		if !name.MatchString(u.Name) {
			l.wrong(at+".name", "%q is not a name: 1 to 32 lower-case letters, digits, - and _", u.Name)
		}
		if seen[u.Name] {
			l.wrong(at+".name", "%q is there twice", u.Name)
		}
		seen[u.Name] = true
		if u.Role == "" {
			users[i].Role = "participant"
		} else {
			l.oneOf(at+".role", u.Role, "participant", "instructor", "operator")
		}
		if u.Group != "" && !name.MatchString(u.Group) {
			l.wrong(at+".group", "%q is not a name: 1 to 32 lower-case letters, digits, - and _", u.Group)
		}
	}
}

func (l *loader) backends(backends []Back) {
	seen := map[string]bool{}
	for i, b := range backends {
		at := fmt.Sprintf("backends[%d]", i)
		if !name.MatchString(b.Name) {
			l.wrong(at+".name", "%q is not a name: 1 to 32 lower-case letters, digits, - and _", b.Name)
		}
		if seen[b.Name] {
			l.wrong(at+".name", "%q is there twice", b.Name)
		}
		seen[b.Name] = true
		if b.Driver == "" {
			backends[i].Driver = "comfyui"
		}
		l.driver(at, &backends[i])
	}
}

// CheckBack says what is wrong with a back end that no settings file names, and fills in what it leaves out.
func CheckBack(b Back) (Back, error) {
	l := &loader{out: &Loaded{Config: Default(), origin: map[string]Origin{}}}
	list := []Back{b}
	l.backends(list)
	if len(l.problems) == 0 {
		return list[0], nil
	}
	var told []string
	for _, p := range l.problems {
		told = append(told, strings.TrimPrefix(p.Path, "backends[0].")+": "+p.Text)
	}
	return b, errors.New(strings.Join(told, "; "))
}

// driver checks what one back end's driver needs.
func (l *loader) driver(at string, b *Back) {
	l.oneOf(at+".driver", b.Driver, "comfyui", "agent", "serverless")
	if b.Driver == "agent" {
		l.dialsHome(at, b)
	} else if u, err := url.Parse(b.URL); err == nil && u.User != nil { // it is shown to whoever sees the back end
		l.wrong(at+".url", "a name and password do not stand in an address; give a key, as env:NAME or file:PATH")
	} else if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		l.wrong(at+".url", "%q is not an address such as http://127.0.0.1:8188", b.URL)
	}
	if b.Driver == "serverless" {
		if b.Mode == "" {
			b.Mode = "agent"
		}
		l.oneOf(at+".mode", b.Mode, "agent", "plain", "async")
		if b.Mode == "plain" && b.Storage == "" {
			l.wrong(at+".storage", "is needed by mode plain: a balancer does not lead back to the container that has the files")
		}
		if b.MaxParallel == 0 {
			b.MaxParallel = 1
		}
	} else {
		for path, set := range map[string]bool{"mode": b.Mode != "", "max_parallel": b.MaxParallel != 0, "provider": b.Provider != Provider{}, "storage": b.Storage != ""} {
			if set {
				l.wrong(at+"."+path, "belongs to the driver serverless")
			}
		}
	}
	if b.Provider != (Provider{}) {
		l.oneOf(at+".provider.name", b.Provider.Name, "verda")
		if b.Provider.Deployment == "" {
			l.wrong(at+".provider.deployment", "is needed: how the provider calls it")
		}
	}
	l.warm(at, b)
	l.atLeast(at+".max_parallel", int64(b.MaxParallel), 0)
	if b.PricePerHour < 0 {
		l.wrong(at+".price_per_hour", "%v is below 0", b.PricePerHour)
	}
	switch {
	case b.Storage == "", b.Driver != "serverless", folderAddress(b.Storage), b.Mode == "plain" && folderAddress(withoutInputs(b.Storage)):
	case b.Mode == "plain" && strings.HasPrefix(b.Storage, "file:///"):
		l.wrong(at+".storage", "behind the ? stands inputs, an absolute folder, and nothing else: file:///mnt/outputs?inputs=/mnt/inputs")
	case strings.HasPrefix(b.Storage, "s3:") && b.Mode == "plain":
		l.wrong(at+".storage", "ComfyUI itself writes to folders only: mode plain needs file:///FOLDER")
	case strings.HasPrefix(b.Storage, "s3:"):
		l.bucket(at+".storage", b.Storage)
	default: // it may have a key in it
		l.wrong(at+".storage", "write an absolute folder such as file:///mnt/outputs, or s3://bucket/prefix?endpoint=HOST")
	}
	if _, ok := b.Labels[""]; ok {
		l.wrong(at+".labels", "a label has no name; write NAME: TEXT")
	}
	for j, g := range b.Groups {
		if !name.MatchString(g) {
			l.wrong(fmt.Sprintf("%s.groups[%d]", at, j), "%q is not a name: 1 to 32 lower-case letters, digits, - and _", g)
		}
	}
}

// dialsHome checks what an agent's back end does not have.
func (l *loader) dialsHome(at string, b *Back) {
	if b.URL != "" {
		l.wrong(at+".url", "an agent dials home: it has no address here")
	}
	if b.Key.IsSet() {
		l.wrong(at+".key", "an agent gets its key when it joins: it has none here")
	}
}

// notYet warns of values that are accepted and that this version does nothing with.
func (l *loader) notYet(v reflect.Value, prefix string) {
	for i := range v.NumField() {
		f, tag := v.Field(i), v.Type().Field(i).Tag
		path := prefix + tag.Get("yaml")
		switch {
		case isSection(f):
			l.notYet(f, path+".")
		case f.Kind() == reflect.Slice && f.Type().Elem().Kind() == reflect.Struct:
			for j := range f.Len() {
				l.notYet(f.Index(j), fmt.Sprintf("%s[%d].", path, j))
			}
		case tag.Get("yet") != "" && l.out.IsSet(path) && !f.IsZero():
			l.warn("%s %s in this version", path, tag.Get("yet"))
		}
	}
}
