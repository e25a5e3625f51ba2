package redis

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/ahelme/comfyume/internal/account"
	"github.com/ahelme/comfyume/internal/fault"
)

// What people carry, as accounts.lua describes it.
type (
	sessionRecord struct {
		ID      string `json:"id"`
		User    string `json:"user"`
		Device  string `json:"device"`
		Address string `json:"address"`
		Via     string `json:"via"`
		Created int64  `json:"created"`
		Seen    int64  `json:"seen"`
		Expires int64  `json:"expires"`
	}
	tokenRecord struct {
		ID      string        `json:"id"`
		User    string        `json:"user"`
		Label   string        `json:"label"`
		Scope   account.Scope `json:"scope"`
		Created int64         `json:"created"`
		Used    int64         `json:"used"`
		Expires int64         `json:"expires"`
	}
	linkRecord struct {
		User    string `json:"user"`
		By      string `json:"by"`
		Created int64  `json:"created"`
		Expires int64  `json:"expires"`
		Used    int64  `json:"used"`
	}
	codeRecord struct {
		Group   string `json:"group"`
		By      string `json:"by"`
		Places  int    `json:"places"`
		Joined  int    `json:"joined"`
		Created int64  `json:"created"`
		Expires int64  `json:"expires"`
	}
)

// The letters of what people carry.
const (
	letterSession = "s"
	letterToken   = "t"
)

func missing(what string) error { return fault.New(fault.Missing, "There is no such %s.", what) }

func (r sessionRecord) session(h account.Hash) account.SessionRecord {
	return account.SessionRecord{Hash: h, Session: account.Session{
		ID: r.ID, User: r.User, Device: r.Device, Address: r.Address, Via: r.Via,
		Created: fromStamp(r.Created), Seen: fromStamp(r.Seen), Expires: fromStamp(r.Expires),
	}}
}

func (r tokenRecord) token(h account.Hash) account.TokenRecord {
	return account.TokenRecord{Hash: h, Token: account.Token{
		ID: r.ID, User: r.User, Label: r.Label, Scope: r.Scope,
		Created: fromStamp(r.Created), Used: fromStamp(r.Used), Expires: fromStamp(r.Expires),
	}}
}

func (r codeRecord) code(code, title string) account.Code {
	return account.Code{
		Code: code, Group: r.Group, Title: title, By: r.By, Places: r.Places, Joined: r.Joined,
		Created: fromStamp(r.Created), Expires: fromStamp(r.Expires),
	}
}

// AddSession implements account.Store.
func (a *Accounts) AddSession(ctx context.Context, r account.SessionRecord, keep int) (gone []account.Hash, err error) {
	more, err := a.act(ctx, reasons{"no_user": account.NoUser(r.User)}, "session", string(r.Hash[:]), encode(sessionRecord{
		ID: r.ID, User: r.User, Device: r.Device, Address: r.Address, Via: r.Via,
		Created: stamp(r.Created), Seen: stamp(r.Seen), Expires: stamp(r.Expires),
	}), decimal(int64(keep)))
	for _, h := range more {
		gone = append(gone, account.Hash([]byte(h)))
	}
	return gone, err
}

// carrier looks a session or token up, and whose it is.
func (a *Accounts) carrier(ctx context.Context, key, what string, h account.Hash) (record string, u userRecord, err error) {
	reply, err := a.db.ask(ctx, scriptCarrier, a.db.keys("meta", key, "users"), []string{string(h[:])})
	if err != nil {
		return "", u, err
	}
	if len(reply) < 3 {
		return "", u, missing(what)
	}
	u, err = decode[userRecord](reply[2])
	return reply[1], u, err
}

// Session implements account.Store.
func (a *Accounts) Session(ctx context.Context, h account.Hash) (account.SessionRecord, account.User, error) {
	text, u, err := a.carrier(ctx, "sessions", "session", h)
	if err != nil {
		return account.SessionRecord{}, account.User{}, err
	}
	r, err := decode[sessionRecord](text)
	return r.session(h), u.user(r.User), err
}

// Token implements account.Store.
func (a *Accounts) Token(ctx context.Context, h account.Hash) (account.TokenRecord, account.User, error) {
	text, u, err := a.carrier(ctx, "tokens", "token", h)
	if err != nil {
		return account.TokenRecord{}, account.User{}, err
	}
	r, err := decode[tokenRecord](text)
	return r.token(h), u.user(r.User), err
}

// carried returns the records of what a person carries of a kind, by their hashes.
func (a *Accounts) carried(ctx context.Context, letter, key, user string) (map[string]string, error) {
	begin := letter + user + "\x00"
	results, err := a.db.read(ctx, a.db.client.B().Zrangebylex().Key(a.db.key("carried")).
		Min("["+begin).Max("("+letter+user+"\x01").Build())
	if err != nil {
		return nil, err
	}
	hashes, err := results[0].AsStrSlice()
	if err != nil {
		return nil, a.db.fail(ctx, err)
	}
	for i := range hashes {
		hashes[i] = strings.TrimPrefix(hashes[i], begin)
	}
	return a.db.fields(ctx, key, hashes)
}

// Sessions implements account.Store.
func (a *Accounts) Sessions(ctx context.Context, user string) ([]account.SessionRecord, error) {
	found, err := a.carried(ctx, letterSession, "sessions", user)
	if err != nil {
		return nil, err
	}
	var all []account.SessionRecord
	for hash, text := range found {
		r, err := decode[sessionRecord](text)
		if err != nil {
			return nil, err
		}
		all = append(all, r.session(account.Hash([]byte(hash))))
	}
	slices.SortFunc(all, func(x, y account.SessionRecord) int {
		return cmp.Or(y.Seen.Compare(x.Seen), y.Created.Compare(x.Created), cmp.Compare(x.ID, y.ID))
	})
	return all, nil
}

// DeleteSession implements account.Store.
func (a *Accounts) DeleteSession(ctx context.Context, user, id string) error {
	_, err := a.act(ctx, reasons{"missing": missing("session")}, "lose", letterSession, user, id)
	return err
}

// DeleteSessions implements account.Store.
func (a *Accounts) DeleteSessions(ctx context.Context, user, except string) error {
	_, err := a.act(ctx, nil, "unsession", user, except)
	return err
}

// AddToken implements account.Store.
func (a *Accounts) AddToken(ctx context.Context, r account.TokenRecord, most int) error {
	many := errors.New("there are too many tokens")
	more, err := a.act(ctx, reasons{"no_user": account.NoUser(r.User), "too_many": many}, "token", string(r.Hash[:]), encode(tokenRecord{
		ID: r.ID, User: r.User, Label: r.Label, Scope: r.Scope,
		Created: stamp(r.Created), Used: stamp(r.Used), Expires: stamp(r.Expires),
	}), decimal(int64(most)))
	if errors.Is(err, many) && len(more) == 1 {
		return fault.New(fault.Conflict, "There are %s tokens already.", more[0]).
			WithRemedy("Revoke one that is not needed any more.").WithCode(account.CodeTooMany)
	}
	return err
}

// Tokens implements account.Store.
func (a *Accounts) Tokens(ctx context.Context, user string) ([]account.TokenRecord, error) {
	found, err := a.carried(ctx, letterToken, "tokens", user)
	if err != nil {
		return nil, err
	}
	var all []account.TokenRecord
	for hash, text := range found {
		r, err := decode[tokenRecord](text)
		if err != nil {
			return nil, err
		}
		all = append(all, r.token(account.Hash([]byte(hash))))
	}
	slices.SortFunc(all, func(x, y account.TokenRecord) int {
		return cmp.Or(y.Created.Compare(x.Created), cmp.Compare(x.ID, y.ID))
	})
	return all, nil
}

// DeleteToken implements account.Store.
func (a *Accounts) DeleteToken(ctx context.Context, user, id string) error {
	_, err := a.act(ctx, reasons{"missing": missing("token")}, "lose", letterToken, user, id)
	return err
}

// AddLink implements account.Store.
func (a *Accounts) AddLink(ctx context.Context, r account.LinkRecord) error {
	_, err := a.act(ctx, reasons{"no_user": account.NoUser(r.User)}, "link", string(r.Hash[:]), encode(linkRecord{
		User: r.User, By: r.By, Created: stamp(r.Created), Expires: stamp(r.Expires), Used: stamp(r.Used),
	}))
	return err
}

// UseLink implements account.Store.
func (a *Accounts) UseLink(ctx context.Context, h account.Hash, t time.Time, grace time.Duration) (account.LinkRecord, bool, error) {
	more, err := a.act(ctx, reasons{"missing": missing("link")}, "use", string(h[:]), decimal(stamp(t)), decimal(grace.Milliseconds()))
	if err != nil {
		return account.LinkRecord{}, false, err
	}
	if len(more) != 2 {
		return account.LinkRecord{}, false, fmt.Errorf("read a link: %d answers", len(more))
	}
	r, err := decode[linkRecord](more[0])
	return account.LinkRecord{
		Hash: h, User: r.User, By: r.By, Created: fromStamp(r.Created), Expires: fromStamp(r.Expires), Used: fromStamp(r.Used),
	}, more[1] == "1", err
}

// AddCode implements account.Store.
func (a *Accounts) AddCode(ctx context.Context, c account.Code) error {
	_, err := a.act(ctx, reasons{"taken": fault.New(fault.Conflict, "The class code is taken.")}, "code", c.Code, encode(codeRecord{
		Group: c.Group, By: c.By, Places: c.Places, Joined: c.Joined, Created: stamp(c.Created), Expires: stamp(c.Expires),
	}))
	return err
}

// Code implements account.Store.
func (a *Accounts) Code(ctx context.Context, code string) (account.Code, error) {
	results, err := a.db.read(ctx, a.db.client.B().Hget().Key(a.db.key("codes")).Field(code).Build())
	if err != nil {
		return account.Code{}, err
	}
	text, err := results[0].ToString()
	if rueidis.IsRedisNil(err) {
		return account.Code{}, missing("code")
	}
	if err != nil {
		return account.Code{}, a.db.fail(ctx, err)
	}
	r, err := decode[codeRecord](text)
	if err != nil {
		return account.Code{}, err
	}
	groups, err := a.db.fields(ctx, "groups", []string{r.Group})
	if err != nil {
		return account.Code{}, err
	}
	g, found := groups[r.Group]
	if !found { // it has just been removed, with its codes
		return account.Code{}, missing("code")
	}
	group, err := decode[groupRecord](g)
	return r.code(code, group.Title), err
}

// Codes implements account.Store.
func (a *Accounts) Codes(ctx context.Context, group string) ([]account.Code, error) {
	records, err := a.db.hash(ctx, "codes")
	if err != nil {
		return nil, err
	}
	groups, err := a.Groups(ctx)
	if err != nil {
		return nil, err
	}
	titles := make(map[string]string, len(groups))
	for _, g := range groups {
		titles[g.Name] = g.Title
	}
	var all []account.Code
	for code, text := range records {
		r, err := decode[codeRecord](text)
		if err != nil {
			return nil, err
		}
		if group == "" || r.Group == group {
			all = append(all, r.code(code, titles[r.Group]))
		}
	}
	slices.SortFunc(all, func(x, y account.Code) int {
		return cmp.Or(y.Created.Compare(x.Created), cmp.Compare(x.Code, y.Code))
	})
	return all, nil
}

// DeleteCode implements account.Store.
func (a *Accounts) DeleteCode(ctx context.Context, code string) error {
	_, err := a.act(ctx, reasons{"missing": missing("code")}, "uncode", code)
	return err
}

// Join implements account.Store.
func (a *Accounts) Join(ctx context.Context, code string, r account.Record) (bool, error) {
	over := errors.New("the code is over or full")
	_, err := a.act(ctx, reasons{"missing": missing("code"), "over": over, "taken": account.NameTaken(r.Name)},
		"join", code, r.Name, encode(recordOfUser(r)))
	if errors.Is(err, over) {
		return false, nil
	}
	return err == nil, err
}

// touchPage is how many uses are recorded in one step.
const touchPage = 500

// Touch implements account.Store.
func (a *Accounts) Touch(ctx context.Context, uses []account.Use) error {
	for page := range slices.Chunk(uses, touchPage) {
		args := make([]string, 0, 4*len(page))
		for _, u := range page {
			letter := letterSession
			if u.Kind == account.KindToken {
				letter = letterToken
			}
			args = append(args, letter, string(u.Hash[:]), u.User, decimal(stamp(u.Seen)))
		}
		if _, err := a.act(ctx, nil, "touch", args...); err != nil {
			return err
		}
	}
	return nil
}

// Sweep implements account.Store.
func (a *Accounts) Sweep(ctx context.Context, t, idle, old time.Time) error {
	_, err := a.act(ctx, nil, "sweep", decimal(stamp(t)), decimal(stamp(idle)), decimal(stamp(old)))
	return err
}
