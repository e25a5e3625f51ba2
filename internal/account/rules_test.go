package account_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ahelme/comfyume/internal/account"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/identity"
)

func TestCheckName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a", "ann", "ann-2", "_x", "7", strings.Repeat("a", 32), "com", "com10"} {
		if err := account.CheckName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{
		"", "Ann", "-rf", "a b", "..", ".", "a/b", `a\b`, "a.b", "ä", "аnn", "con", "nul", "com1", "lpt9",
		strings.Repeat("a", 33), "a\x00", "a\n", "%61",
	} {
		if err := account.CheckName(name); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestSuggestName(t *testing.T) {
	t.Parallel()
	for typed, want := range map[string]string{
		" Ann Müller ": "ann-mueller", "Łukasz": "lukasz", "O'Neil, Sean": "o-neil-sean", "李": "", "../etc": "etc",
		"CON": "con-1", "ann@school.example": "ann-school-example", "--": "", "Ann": "ann",
	} {
		if got := account.SuggestName(typed); got != want {
			t.Errorf("%q gives %q, want %q", typed, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		typed := rapid.String().Draw(t, "typed")
		got := account.SuggestName(typed)
		if got == "" {
			return
		}
		if err := account.CheckName(got); err != nil {
			t.Errorf("%q gives %q: %v", typed, got, err)
		}
		if again := account.SuggestName(got); again != got {
			t.Errorf("%q gives %q gives %q", typed, got, again)
		}
	})
}

func TestReadRoster(t *testing.T) {
	t.Parallel()
	const roster = "\ufeffName;Role;Group;Seat\r\nAnn;;Class-A;3\r\n;;;\r\n\"ben\";instructor;;\r\n"
	got, err := account.ReadRoster(strings.NewReader(roster))
	ok(t, err)
	want := []account.NewUser{
		{Name: "ann", Group: "class-a", Role: identity.Participant},
		{Name: "ben", Role: identity.Instructor},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	_, err = account.ReadRoster(strings.NewReader("name,role,password\nann,boss,\nä b,,\ncem,,short\nann,,\nann,,\n"))
	told, _ := fault.Public(err) // what people see
	for _, part := range []string{
		"Line 2: There is no role “boss”", "Line 3: ", "ae-b", "Line 4: The password has fewer",
		"Line 6: “ann” is in line 5 already",
	} {
		if !strings.Contains(told, part) {
			t.Errorf("the report lacks %q:\n%v", part, told)
		}
	}
	for _, bad := range []string{"", "first,last\nann,b\n", "name\n\"ann"} {
		if _, err := account.ReadRoster(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
}

func TestImport(t *testing.T) {
	t.Parallel()
	s, _ := setup(t, account.Options{})
	made, there, err := s.Import(t.Context(), strings.NewReader("name,group\nann,class-z\ndan,class-z\neva,\n"))
	ok(t, err)
	if len(made) != 2 || there != 1 {
		t.Errorf("made %+v, there %d", made, there)
	}
	u, err := s.User(t.Context(), "ann")
	ok(t, err)
	if u.Group != "class-a" {
		t.Errorf("ann is in %q: an import changes who is there", u.Group)
	}
	if _, err := s.EnsureUsers(t.Context(), []account.NewUser{{Name: "fay"}, {Name: "Ö"}, {Name: "gil", Role: "x"}}); err == nil {
		t.Error("wrong people are made")
	}
	if _, err := s.User(t.Context(), "fay"); !fault.Is(err, fault.Missing) {
		t.Errorf("a wrong list was begun: %v", err)
	}
}

func TestTokenRules(t *testing.T) {
	t.Parallel()
	s, _ := setup(t, account.Options{})
	_, _, err := s.NewToken(t.Context(), "ann", "", "everything", 0)
	refused(t, err, fault.Invalid, "bad_scope")
	_, _, err = s.NewToken(t.Context(), "ann", strings.Repeat("x", 81), "", 0)
	refused(t, err, fault.Invalid, "bad_label")
	secret, _, err := s.NewToken(t.Context(), "ann", "", account.ScopeComfy, 0)
	ok(t, err)
	c, err := s.Token(t.Context(), secret)
	ok(t, err)
	if c.Scope != account.ScopeComfy || c.Kind != account.KindToken {
		t.Errorf("%+v", c)
	}
	for _, wrong := range []string{"", "cm_", secret[3:], secret + "x", strings.Replace(secret, "cm_", "xm_", 1)} {
		_, err := s.Token(t.Context(), wrong)
		refused(t, err, fault.Denied, account.CodeSignedOut)
	}
	for range 49 {
		if _, _, err = s.NewToken(t.Context(), "ann", "", "", 0); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err = s.NewToken(t.Context(), "ann", "", "", 0)
	refused(t, err, fault.Conflict, account.CodeTooMany)
}

// The look-up that every request pays for.
func BenchmarkTokenHot(b *testing.B) {
	s, _ := setup(b, account.Options{})
	secret, _, err := s.NewToken(b.Context(), "ann", "", "", 0)
	ok(b, err)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Token(ctx, secret); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSessionHot(b *testing.B) {
	s, _ := setup(b, account.Options{})
	in, err := s.SignIn(b.Context(), "ann", "correct horse", here)
	ok(b, err)
	ctx := b.Context()
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if _, err := s.Session(ctx, in.Cookie); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkPasswordHot(b *testing.B) {
	s, _ := setup(b, account.Options{})
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Password(ctx, "ann", "correct horse", "192.0.2.1"); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSignIn is one sign-in at the real cost of a hash.
func BenchmarkSignIn(b *testing.B) {
	s, _ := setup(b, account.Options{Cost: account.Cost{MemoryKiB: 19 * 1024, Passes: 2, Lanes: 1}})
	for b.Loop() {
		if _, err := s.SignIn(b.Context(), "ann", "correct horse", here); err != nil {
			b.Fatal(err)
		}
	}
}
