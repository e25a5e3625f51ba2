package accounttest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/account"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/identity"
)

// Run tests a store. Each call of open gives an empty one.
func Run(t *testing.T, open func(t *testing.T) account.Store) {
	for name, test := range map[string]func(*testing.T, bundle){
		"users":    testUsers,
		"secret":   testSecret,
		"groups":   testGroups,
		"sessions": testSessions,
		"tokens":   testTokens,
		"links":    testLinks,
		"codes":    testCodes,
		"race":     testRaces,
		"use":      testUse,
		"sweep":    testSweep,
		"foreign":  testForeign,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, bundle{open(t), t.Context()})
		})
	}
}

type bundle struct {
	account.Store
	ctx context.Context
}

var day = time.Date(2026, 11, 24, 8, 0, 0, int(time.Millisecond)*123, time.UTC)

func hash(n int) (h account.Hash) {
	copy(h[:], fmt.Sprintf("hash %d", n))
	return h
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func kind(t *testing.T, err error, want fault.Kind) {
	t.Helper()
	if !fault.Is(err, want) {
		t.Fatalf("error is %v, want one of kind %v", err, want)
	}
}

func same(t *testing.T, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("(-want +got):\n%s", d)
	}
}

func person(name, group string) account.Record {
	return account.Record{User: account.User{
		Name: name, Group: group, Role: identity.Participant, Proof: account.PIN, Created: day,
	}, Secret: "phc of " + name}
}

// people adds group class-a with ann and ben in it, and cem in none.
func (b bundle) people(t *testing.T) {
	t.Helper()
	ok(t, b.CreateGroup(b.ctx, account.Group{Name: "class-a", Title: "Class A", Created: day}))
	ok(t, b.CreateUser(b.ctx, person("ben", "class-a")))
	ok(t, b.CreateUser(b.ctx, person("ann", "class-a")))
	ok(t, b.CreateUser(b.ctx, person("cem", "")))
}

func testUsers(t *testing.T, b bundle) {
	kind(t, b.CreateUser(b.ctx, person("ann", "class-a")), fault.Missing) // no such group
	b.people(t)
	kind(t, b.CreateUser(b.ctx, person("ann", "")), fault.Conflict)
	got, err := b.User(b.ctx, "ann")
	ok(t, err)
	same(t, got, person("ann", "class-a"))
	_, err = b.User(b.ctx, "Ann")
	kind(t, err, fault.Missing)

	names := func(group string) (out []string) {
		users, err := b.Users(b.ctx, group)
		ok(t, err)
		for _, u := range users {
			out = append(out, u.Name)
		}
		return out
	}
	same(t, names(""), []string{"ann", "ben", "cem"})
	same(t, names("class-a"), []string{"ann", "ben"})
	same(t, names("class-b"), []string(nil))

	role, yes, none := identity.Instructor, true, ""
	ok(t, b.ChangeUser(b.ctx, "ann", account.Change{Role: &role}))
	ok(t, b.ChangeUser(b.ctx, "ann", account.Change{Suspended: &yes, Group: &none}))
	got, err = b.User(b.ctx, "ann")
	ok(t, err)
	want := person("ann", "")
	want.Role, want.Suspended = role, true
	same(t, got, want)
	other := "class-b"
	kind(t, b.ChangeUser(b.ctx, "ann", account.Change{Group: &other}), fault.Missing)
	kind(t, b.ChangeUser(b.ctx, "dan", account.Change{Role: &role}), fault.Missing)

	ok(t, b.DeleteUser(b.ctx, "ann"))
	kind(t, b.DeleteUser(b.ctx, "ann"), fault.Missing)
	same(t, names(""), []string{"ben", "cem"})
}

func testSecret(t *testing.T, b bundle) {
	b.people(t)
	ok(t, b.SetSecret(b.ctx, "ann", account.Password, "new", ""))
	kind(t, b.SetSecret(b.ctx, "ann", account.Password, "newer", "phc of ann"), fault.Conflict)
	ok(t, b.SetSecret(b.ctx, "ann", account.Password, "newest", "new"))
	got, err := b.User(b.ctx, "ann")
	ok(t, err)
	same(t, []string{string(got.Proof), got.Secret}, []string{"password", "newest"})
	kind(t, b.SetSecret(b.ctx, "dan", account.Password, "x", ""), fault.Missing)
	kind(t, b.SetSecret(b.ctx, "dan", account.Password, "x", "y"), fault.Missing)
}

func testGroups(t *testing.T, b bundle) {
	b.people(t)
	kind(t, b.CreateGroup(b.ctx, account.Group{Name: "class-a", Created: day}), fault.Conflict)
	ok(t, b.CreateGroup(b.ctx, account.Group{Name: "air", Created: day}))
	got, err := b.Groups(b.ctx)
	ok(t, err)
	same(t, got, []account.Group{
		{Name: "air", Created: day},
		{Name: "class-a", Title: "Class A", Created: day, Members: 2},
	})
	kind(t, b.DeleteGroup(b.ctx, "class-a"), fault.Conflict)
	ok(t, b.AddCode(b.ctx, account.Code{Code: "AAAA-AAAA", Group: "air", Places: 1, Created: day, Expires: day}))
	ok(t, b.DeleteGroup(b.ctx, "air"))
	kind(t, b.DeleteGroup(b.ctx, "air"), fault.Missing)
	_, err = b.Code(b.ctx, "AAAA-AAAA")
	kind(t, err, fault.Missing)
}

func session(n int, user string) account.SessionRecord {
	return account.SessionRecord{Session: account.Session{
		ID: fmt.Sprint("s", n), User: user, Device: "Firefox on Linux", Address: "192.0.2.1", Via: "link",
		Created: day, Seen: day.Add(time.Duration(n) * time.Hour), Expires: day.Add(48 * time.Hour),
	}, Hash: hash(n)}
}

func testSessions(t *testing.T, b bundle) {
	b.people(t)
	for n, user := range []string{"ann", "ann", "ann", "ben"} {
		gone, err := b.AddSession(b.ctx, session(n, user), 3)
		ok(t, err)
		same(t, len(gone), 0)
	}
	got, u, err := b.Session(b.ctx, hash(1))
	ok(t, err)
	same(t, got, session(1, "ann"))
	same(t, u, person("ann", "class-a").User)
	all, err := b.Sessions(b.ctx, "ann")
	ok(t, err)
	same(t, all, []account.SessionRecord{session(2, "ann"), session(1, "ann"), session(0, "ann")})

	gone, err := b.AddSession(b.ctx, session(9, "ann"), 3)
	ok(t, err)
	same(t, gone, []account.Hash{hash(0)})
	_, _, err = b.Session(b.ctx, hash(0))
	kind(t, err, fault.Missing)

	ok(t, b.DeleteSession(b.ctx, "ann", "s1"))
	kind(t, b.DeleteSession(b.ctx, "ann", "s1"), fault.Missing)
	_, err = b.AddSession(b.ctx, session(5, "ann"), 9)
	ok(t, err)
	ok(t, b.DeleteSessions(b.ctx, "ann", "s9"))
	all, err = b.Sessions(b.ctx, "ann")
	ok(t, err)
	same(t, all, []account.SessionRecord{session(9, "ann")})
	ok(t, b.DeleteUser(b.ctx, "ann"))
	_, _, err = b.Session(b.ctx, hash(9))
	kind(t, err, fault.Missing)
	_, err = b.AddSession(b.ctx, session(10, "ann"), 3)
	kind(t, err, fault.Missing)
	_, _, err = b.Session(b.ctx, hash(3)) // ben's
	ok(t, err)
}

func token(n int, user string) account.TokenRecord {
	return account.TokenRecord{Token: account.Token{
		ID: fmt.Sprint("t", n), User: user, Label: "laptop", Scope: account.ScopeAll,
		Created: day.Add(time.Duration(n) * time.Hour),
	}, Hash: hash(n)}
}

func testTokens(t *testing.T, b bundle) {
	b.people(t)
	ok(t, b.AddToken(b.ctx, token(1, "ann"), 2))
	two := token(2, "ann")
	two.Scope, two.Expires = account.ScopeComfy, day.Add(time.Hour)
	ok(t, b.AddToken(b.ctx, two, 2))
	kind(t, b.AddToken(b.ctx, token(3, "ann"), 2), fault.Conflict)
	ok(t, b.AddToken(b.ctx, token(3, "ben"), 2))
	kind(t, b.AddToken(b.ctx, token(4, "dan"), 2), fault.Missing)
	got, u, err := b.Token(b.ctx, hash(2))
	ok(t, err)
	same(t, got, two)
	same(t, u, person("ann", "class-a").User)
	all, err := b.Tokens(b.ctx, "ann")
	ok(t, err)
	same(t, all, []account.TokenRecord{two, token(1, "ann")})
	ok(t, b.DeleteToken(b.ctx, "ann", "t2"))
	kind(t, b.DeleteToken(b.ctx, "ann", "t2"), fault.Missing)
	_, _, err = b.Token(b.ctx, hash(2))
	kind(t, err, fault.Missing)
}

func testLinks(t *testing.T, b bundle) {
	b.people(t)
	link := account.LinkRecord{Hash: hash(1), User: "ann", By: "cem", Created: day, Expires: day.Add(time.Hour)}
	ok(t, b.AddLink(b.ctx, link))
	kind(t, b.AddLink(b.ctx, account.LinkRecord{Hash: hash(2), User: "dan", Created: day, Expires: day}), fault.Missing)
	const grace = 15 * time.Minute
	use := func(at time.Duration, want bool) account.LinkRecord {
		t.Helper()
		got, fine, err := b.UseLink(b.ctx, hash(1), day.Add(at), grace)
		ok(t, err)
		same(t, fine, want)
		return got
	}
	used := link
	used.Used = day.Add(50 * time.Minute)
	same(t, use(50*time.Minute, true), used)
	same(t, use(64*time.Minute, true), used) // in the grace, past its end
	same(t, use(65*time.Minute, false), used)
	_, _, err := b.UseLink(b.ctx, hash(7), day, grace)
	kind(t, err, fault.Missing)

	link.Hash = hash(3)
	ok(t, b.AddLink(b.ctx, link))
	got, fine, err := b.UseLink(b.ctx, hash(3), day.Add(time.Hour), grace)
	ok(t, err)
	same(t, fine, false)
	same(t, got, link)
	ok(t, b.DeleteUser(b.ctx, "ann"))
	_, _, err = b.UseLink(b.ctx, hash(3), day, grace)
	kind(t, err, fault.Missing)
}

func testCodes(t *testing.T, b bundle) {
	kind(t, b.AddCode(b.ctx, account.Code{Code: "AAAA-AAAA", Group: "class-a", Created: day, Expires: day}), fault.Missing)
	b.people(t)
	code := account.Code{
		Code: "AAAA-AAAA", Group: "class-a", By: "cem", Places: 2,
		Created: day, Expires: day.Add(time.Hour),
	}
	ok(t, b.AddCode(b.ctx, code))
	kind(t, b.AddCode(b.ctx, code), fault.Conflict)
	join := func(name string, at time.Duration) (bool, error) {
		r := person(name, "class-a")
		r.Created = day.Add(at)
		return b.Join(b.ctx, "AAAA-AAAA", r)
	}
	fine, err := join("dan", 0)
	ok(t, err)
	same(t, fine, true)
	_, err = join("dan", 0)
	kind(t, err, fault.Conflict)
	fine, err = join("eva", time.Hour) // over
	ok(t, err)
	same(t, fine, false)
	fine, err = join("eva", time.Minute)
	ok(t, err)
	same(t, fine, true)
	fine, err = join("fay", time.Minute) // full
	ok(t, err)
	same(t, fine, false)
	_, err = b.User(b.ctx, "fay")
	kind(t, err, fault.Missing)

	code.Joined, code.Title = 2, "Class A"
	got, err := b.Code(b.ctx, "AAAA-AAAA")
	ok(t, err)
	same(t, got, code)
	second := account.Code{Code: "BBBB-BBBB", Group: "class-a", Places: 1, Created: day.Add(1e9), Expires: day.Add(2e9)}
	ok(t, b.AddCode(b.ctx, second))
	second.Title = "Class A"
	all, err := b.Codes(b.ctx, "class-a")
	ok(t, err)
	same(t, all, []account.Code{second, code})
	all, err = b.Codes(b.ctx, "")
	ok(t, err)
	same(t, len(all), 2)
	ok(t, b.DeleteCode(b.ctx, "AAAA-AAAA"))
	kind(t, b.DeleteCode(b.ctx, "AAAA-AAAA"), fault.Missing)
	_, err = join("gil", 0)
	kind(t, err, fault.Missing)
	_, err = b.User(b.ctx, "dan")
	ok(t, err)
}

// testRaces lets many take the same thing at once; as many get it as there are.
func testRaces(t *testing.T, b bundle) {
	b.people(t)
	ok(t, b.AddCode(b.ctx, account.Code{Code: "AAAA-AAAA", Group: "class-a", Places: 5, Created: day, Expires: day.Add(time.Hour)}))
	var joined, tokens, named atomic.Int64
	var wg sync.WaitGroup
	for n := range 20 {
		wg.Go(func() {
			if fine, err := b.Join(b.ctx, "AAAA-AAAA", person(fmt.Sprint("p", n), "class-a")); err != nil {
				t.Error(err)
			} else if fine {
				joined.Add(1)
			}
			if err := b.AddToken(b.ctx, token(n, "ann"), 4); err == nil {
				tokens.Add(1)
			} else if !fault.Is(err, fault.Conflict) {
				t.Error(err)
			}
			if err := b.CreateUser(b.ctx, person("zoe", "")); err == nil {
				named.Add(1)
			} else if !fault.Is(err, fault.Conflict) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	same(t, []int64{joined.Load(), tokens.Load(), named.Load()}, []int64{5, 4, 1})
}

func testUse(t *testing.T, b bundle) {
	b.people(t)
	_, err := b.AddSession(b.ctx, session(1, "ann"), 9)
	ok(t, err)
	ok(t, b.AddToken(b.ctx, token(2, "ben"), 9))
	ok(t, b.Touch(b.ctx, []account.Use{
		{Kind: account.KindSession, Hash: hash(1), User: "ann", Seen: day.Add(5 * time.Hour)},
		{Kind: account.KindToken, Hash: hash(2), User: "ben", Seen: day.Add(6 * time.Hour)},
		{Kind: account.KindToken, Hash: hash(8), User: "dan", Seen: day}, // gone
	}))
	s, u, err := b.Session(b.ctx, hash(1))
	ok(t, err)
	same(t, []time.Time{s.Seen, u.Seen}, []time.Time{day.Add(5 * time.Hour), day.Add(5 * time.Hour)})
	k, u, err := b.Token(b.ctx, hash(2))
	ok(t, err)
	same(t, []time.Time{k.Used, u.Seen}, []time.Time{day.Add(6 * time.Hour), day.Add(6 * time.Hour)})
}

func testSweep(t *testing.T, b bundle) {
	b.people(t)
	rest := session(1, "ann")
	idle := session(2, "ann")
	idle.Seen = day.Add(-time.Hour)
	over := session(3, "ann")
	over.Expires = day.Add(time.Hour)
	for _, s := range []account.SessionRecord{rest, idle, over} {
		_, err := b.AddSession(b.ctx, s, 9)
		ok(t, err)
	}
	ended := token(2, "ann")
	ended.Expires = day.Add(time.Minute)
	ok(t, b.AddToken(b.ctx, token(1, "ann"), 9))
	ok(t, b.AddToken(b.ctx, ended, 9))
	ok(t, b.AddLink(b.ctx, account.LinkRecord{Hash: hash(1), User: "ann", Created: day, Expires: day.Add(-time.Hour)}))
	ok(t, b.AddLink(b.ctx, account.LinkRecord{Hash: hash(2), User: "ann", Created: day, Expires: day}))
	ok(t, b.AddCode(b.ctx, account.Code{Code: "AAAA-AAAA", Group: "class-a", Created: day, Expires: day.Add(-time.Hour)}))
	ok(t, b.AddCode(b.ctx, account.Code{Code: "BBBB-BBBB", Group: "class-a", Created: day, Expires: day}))
	ok(t, b.Sweep(b.ctx, day.Add(time.Hour), day, day))
	all, err := b.Sessions(b.ctx, "ann")
	ok(t, err)
	same(t, all, []account.SessionRecord{rest})
	tokens, err := b.Tokens(b.ctx, "ann")
	ok(t, err)
	same(t, tokens, []account.TokenRecord{token(1, "ann")})
	_, _, err = b.UseLink(b.ctx, hash(1), day, time.Minute)
	kind(t, err, fault.Missing)
	_, _, err = b.UseLink(b.ctx, hash(2), day, time.Minute)
	ok(t, err)
	codes, err := b.Codes(b.ctx, "")
	ok(t, err)
	same(t, len(codes), 1)
}

// testForeign tries what one person can do with another's ids.
func testForeign(t *testing.T, b bundle) {
	b.people(t)
	_, err := b.AddSession(b.ctx, session(1, "ann"), 9)
	ok(t, err)
	ok(t, b.AddToken(b.ctx, token(2, "ann"), 9))
	kind(t, b.DeleteSession(b.ctx, "ben", "s1"), fault.Missing)
	kind(t, b.DeleteToken(b.ctx, "ben", "t2"), fault.Missing)
	ok(t, b.DeleteSessions(b.ctx, "ben", ""))
	for name, n := range map[string]int{"ann": 1, "ben": 0} {
		s, err := b.Sessions(b.ctx, name)
		ok(t, err)
		k, err := b.Tokens(b.ctx, name)
		ok(t, err)
		same(t, []int{len(s), len(k)}, []int{n, n})
	}
}
