package account_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/ahelme/comfyume/internal/account"
	"github.com/ahelme/comfyume/internal/account/accounttest"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cheap makes hashes cost nothing, for tests of everything else.
var cheap = account.Cost{MemoryKiB: 8, Passes: 1, Lanes: 1}

func setup(t testing.TB, o account.Options) (*account.Service, *accounttest.Memory) {
	t.Helper()
	if o.Cost == (account.Cost{}) {
		o.Cost = cheap
	}
	store := accounttest.NewMemory()
	s := account.New(store, o)
	for _, n := range []account.NewUser{
		{Name: "ann", Group: "class-a", Password: "correct horse"},
		{Name: "ben"},
		{Name: "ina", Role: identity.Instructor, Password: "battery staple"},
	} {
		if _, err := s.AddUser(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	return s, store
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// refused checks an error's kind and code.
func refused(t testing.TB, err error, kind fault.Kind, code string) {
	t.Helper()
	var got string
	e, _ := asFault(err)
	if e != nil {
		got = e.Code
	}
	if !fault.Is(err, kind) || got != code {
		t.Fatalf("error is %v (code %q), want kind %v, code %q", err, got, kind, code)
	}
}

func asFault(err error) (*fault.Error, bool) {
	e, is := err.(*fault.Error)
	return e, is
}

var here = account.Attempt{Address: "192.0.2.7", Device: "Firefox on Linux"}

func TestSignIn(t *testing.T) {
	t.Parallel()
	s, _ := setup(t, account.Options{})
	ctx := t.Context()
	in, err := s.SignIn(ctx, " Ann ", "correct horse", here)
	ok(t, err)
	c, err := s.Session(ctx, in.Cookie)
	ok(t, err)
	want := account.Credential{
		Person: identity.Person{Name: "ann", Group: "class-a", Role: identity.Participant},
		Kind:   account.KindSession, ID: in.ID, Scope: account.ScopeAll,
	}
	if d := cmp.Diff(want, c); d != "" {
		t.Error(d)
	}
	list, err := s.Sessions(ctx, "ann")
	ok(t, err)
	if len(list) != 1 || list[0].Device != here.Device || list[0].Via != "password" {
		t.Errorf("sessions: %+v", list)
	}
	for _, wrong := range [][2]string{
		{"ann", "wrong"},
		{"nobody", "correct horse"},
		{"ben", ""},
		{"ben", "x"},
		{"ann", strings.Repeat("x", 10_000)},
	} {
		_, err := s.SignIn(ctx, wrong[0], wrong[1], here)
		refused(t, err, fault.Denied, account.CodeWrong)
	}
	for _, cookie := range []string{"", "x", in.Cookie[1:] + "A", strings.Repeat("A", 43)} {
		_, err := s.Session(ctx, cookie)
		refused(t, err, fault.Denied, account.CodeSignedOut)
	}
	ok(t, s.SignOut(ctx, in.Cookie))
	ok(t, s.SignOut(ctx, in.Cookie))
	_, err = s.Session(ctx, in.Cookie)
	refused(t, err, fault.Denied, account.CodeSignedOut)
}

// TestSixtyNewcomers is a class that comes in: one code, one address, one minute, the real cost of hashing.
func TestSixtyNewcomers(t *testing.T) {
	t.Parallel()
	s := account.New(accounttest.NewMemory(), account.Options{})
	ctx := t.Context()
	_, err := s.AddGroup(ctx, "class-b", "Class B")
	ok(t, err)
	code, err := s.NewCode(ctx, "class-b", "ina", 0, 0)
	ok(t, err)
	started := time.Now()
	var wg sync.WaitGroup
	pins := make([]string, 60)
	for n := range pins {
		wg.Go(func() {
			in, pin, err := s.Join(ctx, code.Code, fmt.Sprint("p", n), here)
			if err != nil {
				t.Errorf("person %d: %v", n, err)
				return
			}
			if c, err := s.Session(ctx, in.Cookie); err != nil || c.Person.Group != "class-b" {
				t.Errorf("person %d: %+v, %v", n, c, err)
			}
			pins[n] = pin
		})
	}
	wg.Wait()
	if d := time.Since(started); d > time.Minute {
		t.Errorf("60 people took %v", d)
	}
	// And everybody mistypes once and comes back.
	for n := range 5 {
		name := fmt.Sprint("p", n)
		_, err := s.Return(ctx, code.Code, name, "0"+pins[n], here)
		refused(t, err, fault.Denied, account.CodeWrong)
		_, err = s.Return(ctx, strings.ToLower(strings.ReplaceAll(code.Code, "-", " ")), name, " "+pins[n][:3]+" "+pins[n][3:], here)
		ok(t, err)
	}
	if _, err := s.Password(ctx, "p0", pins[0], ""); !fault.Is(err, fault.Denied) {
		t.Errorf("a PIN counts as a password for programs: %v", err)
	}
	if _, err := s.SignIn(ctx, "p0", pins[0], here); err != nil {
		t.Errorf("a PIN is not good for the sign-in page: %v", err)
	}
}

func TestSessionEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, _ := setup(t, account.Options{SessionIdle: 24 * time.Hour, SessionMax: 100 * time.Hour})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { s.Run(ctx); close(done) }()
		in, err := s.SignIn(ctx, "ann", "correct horse", here)
		ok(t, err)
		for range 4 { // sliding: used every 23 hours
			time.Sleep(23 * time.Hour)
			_, err := s.Session(ctx, in.Cookie)
			ok(t, err)
		}
		time.Sleep(2 * time.Minute) // the use is written
		u, err := s.User(ctx, "ann")
		ok(t, err)
		if age := time.Since(u.Seen); age > 5*time.Minute {
			t.Errorf("last seen %v ago", age)
		}
		time.Sleep(8*time.Hour - 3*time.Minute) // 100 hours: the end, however much used
		_, err = s.Session(ctx, in.Cookie)
		ok(t, err)
		time.Sleep(2 * time.Minute)
		_, err = s.Session(ctx, in.Cookie)
		refused(t, err, fault.Denied, account.CodeSignedOut)

		in, err = s.SignIn(ctx, "ann", "correct horse", here)
		ok(t, err)
		time.Sleep(24*time.Hour - time.Second)
		_, err = s.Session(ctx, in.Cookie) // hot or cold, the use counts
		ok(t, err)
		time.Sleep(24 * time.Hour)
		_, err = s.Session(ctx, in.Cookie)
		refused(t, err, fault.Denied, account.CodeSignedOut)
		time.Sleep(2 * time.Hour) // swept
		list, err := s.Sessions(ctx, "ann")
		ok(t, err)
		if len(list) != 0 {
			t.Errorf("sessions that are over: %+v", list)
		}
		stop()
		<-done
	})
}

func TestThrottle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, _ := setup(t, account.Options{})
		ctx := t.Context()
		tries := func(name, address string) (n int) {
			for {
				_, err := s.SignIn(ctx, name, "wrong", account.Attempt{Address: address})
				if fault.Is(err, fault.Busy) {
					e, _ := asFault(err)
					if e.RetryAfter <= 0 || e.Remedy == "" {
						t.Errorf("no word on when to try again: %+v", e)
					}
					return n
				}
				refused(t, err, fault.Denied, account.CodeWrong)
				n++
			}
		}
		if n := tries("ann", "192.0.2.1"); n != 6 {
			t.Errorf("%d tries for one account from one address, want 6", n)
		}
		_, err := s.SignIn(ctx, "ann", "correct horse", account.Attempt{Address: "192.0.2.1"})
		refused(t, err, fault.Busy, account.CodeThrottled)
		_, err = s.SignIn(ctx, "ann", "correct horse", account.Attempt{Address: "192.0.2.2"})
		ok(t, err) // somebody else's tries don't lock the person out elsewhere
		if n := tries("nobody", "192.0.2.1"); n != 6 {
			t.Errorf("%d tries for an unknown name: it can be told from a known one", n)
		}
		time.Sleep(20 * time.Second)
		_, err = s.SignIn(ctx, "ann", "correct horse", account.Attempt{Address: "192.0.2.1"})
		ok(t, err)

		all := 0
		for n := range 40 {
			all += tries("ina", fmt.Sprintf("198.51.100.%d", n))
		}
		if all != 30 {
			t.Errorf("%d tries for one account from many addresses, want 30", all)
		}
		all = 0
		for n := range 100 {
			all += tries(fmt.Sprint("name", n), fmt.Sprintf("2001:db8::%d", n)) // one network
		}
		if all < 100 || all > 106 {
			t.Errorf("%d failures from one network, want 100", all)
		}
	})
}

// TestThrottleParallel: many tries at once are no way around the budget.
func TestThrottleParallel(t *testing.T) {
	t.Parallel()
	s, _ := setup(t, account.Options{})
	var checked atomic.Int64
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if _, err := s.SignIn(t.Context(), "ann", "wrong", here); fault.Is(err, fault.Denied) {
				checked.Add(1)
			}
		})
	}
	wg.Wait()
	if n := checked.Load(); n != 6 {
		t.Errorf("%d of 100 tries at once were checked, want 6", n)
	}
}

func TestLink(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, _ := setup(t, account.Options{LinkLife: 48 * time.Hour})
		ctx := t.Context()
		code, expires, err := s.NewLink(ctx, "ben", "ina", 0)
		ok(t, err)
		if d := time.Until(expires); d != 48*time.Hour {
			t.Errorf("link lives %v", d)
		}
		first, err := s.UseLink(ctx, code, here)
		ok(t, err)
		time.Sleep(14 * time.Minute)
		second, err := s.UseLink(ctx, code, here)
		ok(t, err)
		if first.Cookie == second.Cookie {
			t.Error("a session was given twice")
		}
		time.Sleep(2 * time.Minute)
		_, err = s.UseLink(ctx, code, here)
		refused(t, err, fault.Conflict, account.CodeLinkUsed)
		if _, remedy := fault.Public(err); !strings.Contains(remedy, "ina") {
			t.Errorf("it does not say whom to ask: %q", remedy)
		}
		_, err = s.Session(ctx, first.Cookie)
		ok(t, err)

		code, _, err = s.NewLink(ctx, "ben", "", time.Hour)
		ok(t, err)
		time.Sleep(time.Hour)
		_, err = s.UseLink(ctx, code, here)
		refused(t, err, fault.Conflict, account.CodeLinkOver)
		_, err = s.UseLink(ctx, "nonsense", here)
		refused(t, err, fault.Missing, "no_link")
		_, _, err = s.NewLink(ctx, "nobody", "", 0)
		if !fault.Is(err, fault.Missing) {
			t.Errorf("a link for nobody: %v", err)
		}
	})
}

func TestJoin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, _ := setup(t, account.Options{Left: func(_ context.Context, name string) (bool, error) {
			return strings.HasPrefix(name, "gone"), nil
		}})
		ctx := t.Context()
		code, err := s.NewCode(ctx, "class-a", "ina", 2, time.Hour)
		ok(t, err)
		_, _, err = s.Join(ctx, code.Code, "gone", here)
		refused(t, err, fault.Conflict, account.CodeNameTaken)
		if _, remedy := fault.Public(err); strings.Contains(remedy, "gone-") {
			t.Errorf("a name is suggested that is not free: %q", remedy)
		}
		_, _, err = s.Join(ctx, code.Code, "Ann", here)
		refused(t, err, fault.Conflict, account.CodeNameTaken)
		if _, remedy := fault.Public(err); !strings.Contains(remedy, "ann-2") {
			t.Errorf("no name is suggested: %q", remedy)
		}
		_, _, err = s.Join(ctx, code.Code, "Jürgen Groß", here)
		refused(t, err, fault.Invalid, "bad_name")
		if _, remedy := fault.Public(err); !strings.Contains(remedy, "juergen-gross") {
			t.Errorf("no name is suggested: %q", remedy)
		}
		_, pin, err := s.Join(ctx, code.Code, "dan", here)
		ok(t, err)
		_, _, err = s.Join(ctx, "ZZZZ-ZZZZ", "eva", here)
		refused(t, err, fault.Missing, "no_code")
		_, _, err = s.Join(ctx, code.Code, "eva", here)
		ok(t, err)
		_, _, err = s.Join(ctx, code.Code, "fay", here)
		refused(t, err, fault.Conflict, account.CodeClassFull)
		_, err = s.Return(ctx, code.Code, "dan", pin, here)
		ok(t, err)
		_, err = s.Return(ctx, code.Code, "ina", "battery staple", here) // not of this class
		refused(t, err, fault.Denied, account.CodeWrong)

		over, err := s.NewCode(ctx, "class-a", "ina", 0, time.Hour)
		ok(t, err)
		time.Sleep(2 * time.Hour)
		_, _, err = s.Join(ctx, over.Code, "gil", here)
		refused(t, err, fault.Conflict, account.CodeLinkOver)
		_, err = s.Return(ctx, over.Code, "dan", pin, here) // who is in comes back
		ok(t, err)

		next, err := s.NewPIN(ctx, "dan")
		ok(t, err)
		_, err = s.SignIn(ctx, "dan", next, here)
		ok(t, err)
	})
}

func TestRevoke(t *testing.T) {
	t.Parallel()
	var ended []account.Ended
	s, _ := setup(t, account.Options{Ended: func(e account.Ended) { ended = append(ended, e) }})
	ctx := t.Context()
	secret, token, err := s.NewToken(ctx, "ann", " my   laptop ", "", 0)
	ok(t, err)
	if token.Label != "my laptop" || !strings.HasPrefix(secret, account.TokenPrefix) {
		t.Errorf("token %+v", token)
	}
	in, err := s.SignIn(ctx, "ann", "correct horse", here)
	ok(t, err)
	other, err := s.SignIn(ctx, "ann", "correct horse", here)
	ok(t, err)
	_, err = s.Password(ctx, "ann", "correct horse", "")
	ok(t, err)
	live := func(want ...bool) {
		t.Helper()
		_, e1 := s.Session(ctx, in.Cookie)
		_, e2 := s.Session(ctx, other.Cookie)
		_, e3 := s.Token(ctx, secret)
		if d := cmp.Diff(want, []bool{e1 == nil, e2 == nil, e3 == nil}); d != "" {
			t.Errorf("live (session, other, token): %s", d)
		}
	}
	live(true, true, true)
	if err := s.EndSession(ctx, "ben", in.ID); !fault.Is(err, fault.Missing) {
		t.Errorf("ben ends ann's session: %v", err)
	}
	live(true, true, true)
	ok(t, s.EndSessions(ctx, "ann", other.ID))
	live(false, true, true)
	ok(t, s.RevokeToken(ctx, "ann", token.ID))
	live(false, true, false)
	role := identity.Instructor
	ok(t, s.ChangeUser(ctx, "ann", account.Change{Role: &role}))
	c, err := s.Session(ctx, other.Cookie)
	ok(t, err)
	if c.Person.Role != identity.Instructor {
		t.Errorf("role is %s after the change", c.Person.Role)
	}
	yes := true
	ok(t, s.ChangeUser(ctx, "ann", account.Change{Suspended: &yes}))
	_, err = s.Session(ctx, other.Cookie)
	refused(t, err, fault.Denied, account.CodeSuspended)
	_, err = s.Password(ctx, "ann", "correct horse", "")
	refused(t, err, fault.Denied, account.CodeSuspended)
	_, err = s.SignIn(ctx, "ann", "correct horse", here)
	refused(t, err, fault.Denied, account.CodeSuspended)
	no := false
	ok(t, s.ChangeUser(ctx, "ann", account.Change{Suspended: &no}))
	ok(t, s.SetPassword(ctx, "ann", "another password"))
	live(false, false, false)
	_, err = s.Password(ctx, "ann", "correct horse", "")
	refused(t, err, fault.Denied, account.CodeWrong)
	ok(t, s.RemoveUser(ctx, "ann"))
	want := []account.Ended{
		{User: "ann"},
		{User: "ann", ID: token.ID},
		{User: "ann"},
		{User: "ann"},
		{User: "ann"},
		{User: "ann"},
		{User: "ann"},
	}
	if d := cmp.Diff(want, ended); d != "" {
		t.Error(d)
	}
}

// TestRehash: a secret that was hashed at another cost is hashed anew when its person signs in.
func TestRehash(t *testing.T) {
	t.Parallel()
	_, store := setup(t, account.Options{})
	ctx := t.Context()
	before, err := store.User(ctx, "ann")
	ok(t, err)
	dearer := account.New(store, account.Options{Cost: account.Cost{MemoryKiB: 16, Passes: 2, Lanes: 1}})
	_, err = dearer.SignIn(ctx, "ann", "correct horse", here)
	ok(t, err)
	after, err := store.User(ctx, "ann")
	ok(t, err)
	if before.Secret == after.Secret || !strings.HasPrefix(after.Secret, "$argon2id$v=19$m=16,t=2,p=1$") {
		t.Errorf("hash is %q", after.Secret)
	}
	_, err = dearer.SignIn(ctx, "ann", "correct horse", here)
	ok(t, err)
}

// TestPasswordOfPrograms: thirty requests that come together cost one hash and one try.
func TestPasswordOfPrograms(t *testing.T) {
	t.Parallel()
	s, _ := setup(t, account.Options{})
	var wg sync.WaitGroup
	for range 30 {
		wg.Go(func() {
			if _, err := s.Password(t.Context(), "Ann", "correct horse", "192.0.2.9"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
