package args_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/cli/args"
)

type program struct {
	Server string    `help:"Where it is." env:"SERVER" placeholder:"URL"`
	JSON   bool      `name:"json" help:"As JSON."`
	Help   args.Help `short:"h" help:"Show help."`

	Cook  cookCmd  `cmd:"" help:"Cook something."`
	Shop  shopCmd  `cmd:"" help:"Buy things."`
	Words wordsCmd `cmd:"" hidden:"" help:"Print words."`
}

type spice string

type part struct {
	Left  string `xor:"side" help:"The left one."`
	Right string `xor:"side" help:"The right one."`
}

type cookCmd struct {
	part   `embed:""`
	What   spice             `arg:"" help:"What."`
	Mode   string            `arg:"" optional:"" default:"slow" enum:"slow,fast"`
	Times  int               `default:"1" help:"How often."`
	Seed   uint64            `help:"A number."`
	Rate   float64           `help:"How much."`
	For    time.Duration     `help:"How long." default:"5m" group:"Time"`
	Add    []string          `help:"What else."`
	As     []string          `help:"As it is." sep:"none"`
	Sizes  []float64         `help:"Sizes."`
	Label  map[string]string `help:"Labels."`
	Most   *int              `help:"At most."`
	Lid    *bool             `help:"With a lid."`
	Taste  bool              `negatable:"" default:"true" help:"Taste it."`
	Watch  bool              `short:"w" help:"Watch it."`
	Pinch  pinch             `help:"Pinches."`
	Extras args.Fields       `embed:""`
}

// Help says more.
func (*cookCmd) Help() string { return "It takes a while." }

// pinch is a flag that takes all words up to the next flag.
type pinch struct{ Of []string }

// Decode reads them.
func (p *pinch) Decode(words *args.Words, tag reflect.StructTag) error {
	text, ok := words.Attached()
	if !ok {
		text, ok = words.Next()
	}
	if !ok {
		return errors.New("needs a value: " + tag.Get("help"))
	}
	for ; ok; text, ok = words.Next() {
		p.Of = append(p.Of, text)
	}
	return nil
}

type shopCmd struct {
	Go   goCmd   `cmd:"" default:"withargs" help:"Go and buy."`
	List listCmd `cmd:"" help:"List what to buy."`
}

type goCmd struct {
	Money int `help:"How much."`
}

type listCmd struct {
	Names []string `arg:"" name:"name"`
}

type wordsCmd struct {
	Words []string `arg:"" optional:"" passthrough:""`
}

// tree reads the commands above.
func tree(t testing.TB) *args.Command {
	t.Helper()
	p := &program{}
	p.Cook.Extras = args.Fields{&struct {
		Extra *string `name:"extra" help:"Made while it runs."`
	}{}}
	c, err := args.Read(p, "kitchen", "A kitchen.")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func nothing(string) (string, bool) { return "", false }

// parse reads a line whose words have | between them, and returns the command's fields as JSON.
func parse(t testing.TB, words []string) (path, values string, err error) {
	t.Helper()
	c := tree(t)
	at, err := c.Parse(words, nothing)
	text, jsonErr := json.Marshal([]any{at.Target(), c.Target().(*program).Server, c.Target().(*program).JSON})
	if jsonErr != nil { // a rate of NaN
		text = []byte(jsonErr.Error())
	}
	return at.FullPath(), string(text), err
}

func TestParse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ line, path, want string }{
		{"cook|rice", "kitchen cook", `"What":"rice","Mode":"slow","Times":1,`},
		{"cook|rice", "kitchen cook", `"Add":null,`},
		{"cook|rice", "kitchen cook", `"Taste":true,`},
		{"cook|rice|fast|--times|0x10", "kitchen cook", `"Mode":"fast","Times":16,`},
		{"--times=-2|cook|rice", "", ""},
		{"cook|--times=-2|rice", "kitchen cook", `"Times":-2,`},
		{"cook|--|-x", "kitchen cook", `"What":"-x"`},
		{"cook|-", "kitchen cook", `"What":"-"`},
		{"cook|rice|--add|a,b\\,c|--add=d", "kitchen cook", `"Add":["a","b,c","d"],`},
		{"cook|rice|--add|", "kitchen cook", `"Add":[],`},
		{"cook|rice|--add|\\a,b\\", "kitchen cook", `"Add":["\\a","b\\"],`},
		{"cook|rice|--as|a,b|--as=-c", "kitchen cook", `"As":["a,b","-c"],`},
		{"cook|rice|--sizes|1,.5", "kitchen cook", `"Sizes":[1,0.5],`},
		{"cook|rice|--label|a=b=c;d=|--label=e=f", "kitchen cook", `"Label":{"a":"b=c","d":"","e":"f"},`},
		{"cook|rice|--most=3|--lid=no", "kitchen cook", `"Most":3,"Lid":false,`},
		{"cook|rice|--no-taste", "kitchen cook", `"Taste":false,`},
		{"cook|rice|--no-taste=false", "kitchen cook", `"Taste":true,`},
		{"cook|rice|--taste=NO", "kitchen cook", `"Taste":false,`},
		{"cook|rice|-w|--for|90s|--seed|7|--rate=1e3", "kitchen cook", `"Seed":7,"Rate":1000,"For":90000000000,`},
		{"cook|rice|-ww", "kitchen cook", `"Watch":true,`},
		{"cook|--pinch|salt|sugar|--json|rice", "kitchen cook", `"Of":["salt","sugar"]`},
		{"cook|rice|--extra=x", "kitchen cook", `"Extra":"x"`},
		{"cook|rice|--left=x|--json|--server|y", "kitchen cook", `"Left":"x",`},
		{"--json|cook|rice|--server|y", "kitchen cook", `"y",true]`},
		{"cook|\xff", "kitchen cook", "\"What\":\"\ufffd\""},
		{"shop", "kitchen shop go", `"Money":0`},
		{"shop|--money|3", "kitchen shop go", `"Money":3`},
		{"shop|list|a|b|--json|--|", "", ""},
		{"shop|list|a|b", "kitchen shop list", `"Names":["a","b"]`},
		{"words|--a=b|-c|--json", "kitchen words", `"Words":["--a","b","-c","--json"]`},
		{"words|--|--json", "kitchen words", `"Words":["--","--json"]`},
		{"words|--json|x", "kitchen words", `["x"]},"",true]`},
	} {
		path, values, err := parse(t, strings.Split(c.line, "|"))
		switch {
		case c.path == "" && err == nil:
			t.Errorf("%s is read as %s", c.line, values)
		case c.path != "" && (err != nil || path != c.path || !strings.Contains(values, c.want)):
			t.Errorf("%s is %s %s (%v), want %s", c.line, path, values, err, c.want)
		}
	}
}

func TestParseErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ line, path, want string }{
		{"cok", "kitchen", `unexpected argument cok, did you mean "cook"?`},
		{"word", "kitchen", `unexpected argument word`},
		{"--jsn|cook", "kitchen", `unknown flag --jsn, did you mean "--json"?`},
		{"cook|--lef", "kitchen cook", `unknown flag --lef, did you mean one of "--left", "--lid"?`},
		{"cook|rice|-wx", "kitchen cook", `unknown flag -x, did you mean one of "-h", "-w"?`},
		{"--json", "kitchen", `expected one of "cook", "shop"`},
		{"cook", "kitchen cook", `expected "<what>"`},
		{"shop|list", "kitchen shop list", `expected "<name> ..."`},
		{"cook|rice|quick", "kitchen cook", `[<mode>] must be one of "slow","fast" but got "quick"`},
		{"cook|rice|fast|more", "kitchen cook", `unexpected argument more`},
		{"cook|rice|--times|x", "kitchen cook", `--times: expected a valid 64 bit int but got "x"`},
		{"cook|rice|--seed=-1", "kitchen cook", `--seed: expected a valid 64 bit uint but got "-1"`},
		{"cook|rice|--rate=x", "kitchen cook", `--rate: expected a float but got "x" (string)`},
		{"cook|rice|--for=x", "kitchen cook", `--for: expected duration but got "x": time: invalid duration "x"`},
		{"cook|rice|--times", "kitchen cook", `--times: expected int value but got "EOL" (<EOL>)`},
		{"cook|rice|--times|-1", "kitchen cook", `--times: expected int value but got "-1" (short flag); perhaps try --times="-1"?`},
		{"cook|rice|--server|--json", "kitchen cook", `--server: expected string value but got "--json" (long flag); perhaps try --server="--json"?`},
		{"cook|rice|--add", "kitchen cook", `--add: missing value, expecting "<arg>,..."`},
		{"cook|rice|--as", "kitchen cook", `--as: missing value, expecting "<arg>"`},
		{"cook|rice|--label=x", "kitchen cook", `--label: expected "<key>=<value>" but got "x"`},
		{"cook|rice|--label", "kitchen cook", `--label: missing value, expecting "<key>=<value>;..."`},
		{"cook|rice|--watch=maybe", "kitchen cook", `--watch: bool value must be true, 1, yes, false, 0 or no but got "maybe"`},
		{"cook|rice|--no-taste=maybe", "kitchen cook", `bool value must be true, 1, yes, false, 0 or no but got "maybe"`},
		{"cook|rice|--pinch|--json", "kitchen cook", `--pinch: needs a value: Pinches.`},
		{"cook|rice|--left|a|--right|b", "kitchen cook", `--left and --right can't be used together`},
		{"shop|--money|3|list|a", "kitchen shop", `flag --money applies to the default command "go", not "list"`},
		{"shop|bread", "kitchen shop go", `unexpected argument bread`},
		{"cook|-h|--times|x", "kitchen cook", `--times: expected a valid 64 bit int but got "x"`},
		{"--help", "kitchen", args.ErrHelp.Error()},
		{"cook|-h", "kitchen cook", args.ErrHelp.Error()},
		{"-h|shop", "kitchen shop go", args.ErrHelp.Error()},
	} {
		path, _, err := parse(t, strings.Split(c.line, "|"))
		if err == nil || err.Error() != c.want || path != c.path {
			t.Errorf("%s\n got %s: %v\nwant %s: %s", c.line, path, err, c.path, c.want)
		}
	}
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	env := func(name string) (string, bool) { return "-there", name == "SERVER" }
	for line, want := range map[string]string{"cook|rice": "-there", "cook|rice|--server=here": "here", "cook|rice|--server=": ""} {
		c := tree(t)
		if _, err := c.Parse(strings.Split(line, "|"), env); err != nil || c.Target().(*program).Server != want {
			t.Errorf("%s: %q (%v), want %q", line, c.Target().(*program).Server, err, want)
		}
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{"": `Usage: kitchen <command> [flags]

A kitchen.

Flags:
      --server=URL    Where it is ($SERVER).
      --json          As JSON.
  -h, --help          Show help.

Commands:
  cook         Cook something.
  shop go      Go and buy.
  shop list    List what to buy.
`, "shop list": `Usage: kitchen shop list <name> ...

List what to buy.

Arguments:
  <name> ...

Flags:
      --server=URL    Where it is ($SERVER).
      --json          As JSON.
  -h, --help          Show help.
`, "cook": `Usage: kitchen cook <what> [<mode>] [flags]

Cook something.

It takes a while.

Arguments:
  <what>      What.
  [<mode>]

Flags:
      --server=URL             Where it is
                               ($SERVER).
      --json                   As JSON.
  -h, --help                   Show help.

      --left=STRING            The left one.
      --right=STRING           The right one.
      --times=1                How often.
      --seed=UINT-64           A number.
      --rate=FLOAT-64          How much.
      --add=ADD,...            What else.
      --as=AS                  As it is.
      --sizes=SIZES,...        Sizes.
      --label=KEY=VALUE;...    Labels.
      --most=MOST              At most.
      --lid                    With a lid.
      --[no-]taste             Taste it.
  -w, --watch                  Watch it.
      --pinch=PINCH            Pinches.
      --extra=EXTRA            Made while it
                               runs.

Time
  --for=5m    How long.
`} {
		at := tree(t)
		for name := range strings.FieldsSeq(path) {
			at = at.Commands[slices.IndexFunc(at.Commands, func(c *args.Command) bool { return c.Name == name })]
		}
		var b strings.Builder
		if err := at.WriteHelp(&b, 48); err != nil {
			t.Fatal(err)
		}
		if b.String() != want {
			t.Errorf("%s has the help\n%s\nwant\n%s", at.FullPath(), &b, want)
		}
	}
}

func TestReadErrors(t *testing.T) {
	t.Parallel()
	for want, root := range map[string]any{
		"t --when is a time.Time, which cannot be read": &struct{ When time.Time }{},
		"t --n is a int, which cannot have an enum": &struct {
			N int `enum:"1,2" default:"1"`
		}{},
		"t --mode has an enum and no default": &struct {
			Mode string `enum:"a,b"`
		}{},
		"the default of t --n cannot be read: expected a valid 64 bit int but got \"x\"": &struct {
			N int `default:"x"`
		}{},
		"t <b> can't stand behind <a> ...": &struct {
			A []string `arg:""`
			B string   `arg:""`
		}{},
		"t x --a is there already, as a": &struct {
			A string
			X struct{ A string } `cmd:""`
		}{},
		"t has arguments and commands; it can have one of them": &struct {
			A string   `arg:""`
			X struct{} `cmd:""`
		}{},
	} {
		if _, err := args.Read(root, "t", ""); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// FuzzParse: whatever is typed is read or refused, and --flag value is the same as --flag=value.
func FuzzParse(f *testing.F) {
	for _, line := range []string{
		"cook|rice|--add|a,b|--label|k=v|--sizes|1,2|-w", "shop|--money|3", "words|--a=b|-", "--json|cook|--|-x|--times|3",
		"cook|--pinch|a|b|--most|1|--no-taste=no|x", "cook|rice|--for|5s|--server||--left|x", "-|---|--=|-=|-é", "cook|-hw=|--\xff=",
	} {
		f.Add(line)
	}
	valued := strings.Fields("--server --times --seed --rate --for --add --as --sizes --label --most --left --right --extra --money")
	f.Fuzz(func(t *testing.T, line string) {
		words := strings.Split(line, "|")
		path, values, err := parse(t, words)
		if err != nil || path == "kitchen words" {
			return
		}
		var joined []string
		for i := 0; i < len(words); i++ {
			if words[i] == "--" {
				joined = append(joined, words[i:]...)
				break
			}
			if slices.Contains(valued, words[i]) {
				joined = append(joined, words[i]+"="+words[i+1])
				i++
				continue
			}
			joined = append(joined, words[i])
		}
		if path2, values2, err := parse(t, joined); err != nil || path2 != path || values2 != values {
			t.Errorf("%q is %s %s, but %q is %s %s (%v)", words, path, values, joined, path2, values2, err)
		}
	})
}
