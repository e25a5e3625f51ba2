package redis

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/ahelme/comfyume/internal/account"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/identity"
)

// Accounts is the account.Store in Redis. Sessions, tokens, links and codes are in accounts_secrets.go. It is safe for
// concurrent use, by any number of servers.
//
// A change is one act of accounts.lua. Who asks for a person's rows names the person, and the rows are found by that name
// only. A change whose answer is lost may have happened: the error says that Redis did not answer, and asking again is
// answered as for any second time.
type Accounts struct {
	db   *DB
	keys []string
}

var _ account.Store = (*Accounts)(nil)

// NewAccounts returns the accounts' store in the database.
func NewAccounts(db *DB) *Accounts {
	return &Accounts{db: db, keys: db.keys("meta", "users", "groups", "members", "sessions", "tokens", "links", "codes",
		"carried", "ends", "rest")}
}

// userRecord is a person's record, as accounts.lua describes it.
type userRecord struct {
	Group     string        `json:"group"`
	Role      identity.Role `json:"role"`
	Suspended bool          `json:"suspended"`
	Proof     account.Proof `json:"proof"`
	Secret    string        `json:"secret"`
	Created   int64         `json:"created"`
	Seen      int64         `json:"seen"`
}

func recordOfUser(r account.Record) userRecord {
	return userRecord{
		Group: r.Group, Role: r.Role, Suspended: r.Suspended, Proof: r.Proof, Secret: r.Secret,
		Created: stamp(r.Created), Seen: stamp(r.Seen),
	}
}

func (r userRecord) user(name string) account.User {
	return account.User{
		Name: name, Group: r.Group, Role: r.Role, Suspended: r.Suspended, Proof: r.Proof,
		Created: fromStamp(r.Created), Seen: fromStamp(r.Seen),
	}
}

type groupRecord struct {
	Title   string `json:"title"`
	Created int64  `json:"created"`
}

// stamp returns a time as people are stored with: Unix milliseconds, zero for never.
func stamp(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromStamp(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// encode writes a record. Records are of strings, numbers and booleans, which JSON always has words for.
func encode(record any) string {
	text, err := json.Marshal(record)
	if err != nil {
		panic(err)
	}
	return string(text)
}

func decode[T any](text string) (r T, err error) {
	if err = json.Unmarshal([]byte(text), &r); err != nil {
		err = fmt.Errorf("read a record of people: %w", err)
	}
	return r, err
}

// act does one thing of accounts.lua. reasons are the errors for the words that say why nothing changed.
func (a *Accounts) act(ctx context.Context, reasons map[string]error, what string, args ...string) (more []string, err error) {
	reply, err := a.db.exec(ctx, scriptAccounts, a.keys, append([]string{a.db.generation, what}, args...)).ToAny()
	if err != nil {
		return nil, a.db.fail(ctx, err)
	}
	list, _ := reply.([]any)
	if len(list) == 0 {
		return nil, a.db.lost()
	}
	words := make([]string, len(list))
	for i := range list {
		words[i], _ = list[i].(string)
	}
	if words[0] == "ok" {
		return words[1:], nil
	}
	if words[0] == "no_group" && len(words) == 2 {
		return nil, account.NoGroup(words[1])
	}
	if reason := reasons[words[0]]; reason != nil {
		return words[1:], reason
	}
	return nil, fmt.Errorf("accounts.lua answered %q to %q", words[0], what)
}

// reasons are the errors of one act by the words of accounts.lua.
type reasons = map[string]error

// CreateUser implements account.Store.
func (a *Accounts) CreateUser(ctx context.Context, r account.Record) error {
	_, err := a.act(ctx, reasons{"taken": account.NameTaken(r.Name)}, "create", r.Name, encode(recordOfUser(r)))
	return err
}

// User implements account.Store.
func (a *Accounts) User(ctx context.Context, name string) (account.Record, error) {
	results, err := a.db.read(ctx, a.db.client.B().Hget().Key(a.db.key("users")).Field(name).Build())
	if err != nil {
		return account.Record{}, err
	}
	text, err := results[0].ToString()
	if rueidis.IsRedisNil(err) {
		return account.Record{}, account.NoUser(name)
	}
	if err != nil {
		return account.Record{}, a.db.fail(ctx, err)
	}
	r, err := decode[userRecord](text)
	return account.Record{User: r.user(name), Secret: r.Secret}, err
}

// Users implements account.Store.
func (a *Accounts) Users(ctx context.Context, group string) ([]account.User, error) {
	found, err := a.usersOf(ctx, group)
	if err != nil {
		return nil, err
	}
	var all []account.User
	for name, text := range found {
		r, err := decode[userRecord](text)
		if err != nil {
			return nil, err
		}
		if group == "" || r.Group == group { // it may have changed since the members were read
			all = append(all, r.user(name))
		}
	}
	slices.SortFunc(all, func(x, y account.User) int { return cmp.Compare(x.Name, y.Name) })
	return all, nil
}

// usersOf returns the records of a group's members, of all people for "".
func (a *Accounts) usersOf(ctx context.Context, group string) (map[string]string, error) {
	if group == "" {
		return a.db.hash(ctx, "users")
	}
	begin := group + "\x00"
	results, err := a.db.read(ctx, a.db.client.B().Zrangebylex().Key(a.db.key("members")).Min("["+begin).Max("("+group+"\x01").Build())
	if err != nil {
		return nil, err
	}
	names, err := results[0].AsStrSlice()
	if err != nil {
		return nil, a.db.fail(ctx, err)
	}
	for i := range names {
		names[i] = strings.TrimPrefix(names[i], begin)
	}
	return a.db.fields(ctx, "users", names)
}

// hash reads a whole hash.
func (db *DB) hash(ctx context.Context, name string) (map[string]string, error) {
	results, err := db.read(ctx, db.client.B().Hgetall().Key(db.key(name)).Build())
	if err != nil {
		return nil, err
	}
	all, err := results[0].AsStrMap()
	if err != nil {
		return nil, db.fail(ctx, err)
	}
	return all, nil
}

// fields reads those of a hash's fields that are there.
func (db *DB) fields(ctx context.Context, name string, fields []string) (map[string]string, error) {
	all := make(map[string]string, len(fields))
	for page := range slices.Chunk(fields, scanCount) {
		results, err := db.read(ctx, db.client.B().Hmget().Key(db.key(name)).Field(page...).Build())
		if err != nil {
			return nil, err
		}
		values, err := results[0].ToArray()
		if err != nil {
			return nil, db.fail(ctx, err)
		}
		for i, field := range page {
			if text, err := values[i].ToString(); err == nil {
				all[field] = text
			}
		}
	}
	return all, nil
}

// ChangeUser implements account.Store.
func (a *Accounts) ChangeUser(ctx context.Context, name string, c account.Change) error {
	_, err := a.act(ctx, reasons{"no_user": account.NoUser(name)}, "change", name, encode(struct {
		Group     *string        `json:"group,omitempty"`
		Role      *identity.Role `json:"role,omitempty"`
		Suspended *bool          `json:"suspended,omitempty"`
	}(c)))
	return err
}

// SetSecret implements account.Store.
func (a *Accounts) SetSecret(ctx context.Context, name string, proof account.Proof, hash, onlyIf string) error {
	_, err := a.act(ctx, reasons{
		"no_user":  account.NoUser(name),
		"replaced": fault.New(fault.Conflict, "The secret has been replaced in the meantime."),
	}, "secret", name, string(proof), hash, onlyIf)
	return err
}

// DeleteUser implements account.Store.
func (a *Accounts) DeleteUser(ctx context.Context, name string) error {
	_, err := a.act(ctx, reasons{"no_user": account.NoUser(name)}, "remove", name)
	return err
}

// CreateGroup implements account.Store.
func (a *Accounts) CreateGroup(ctx context.Context, g account.Group) error {
	taken := fault.New(fault.Conflict, "There is a group “%s” already.", g.Name).WithCode(account.CodeNameTaken)
	_, err := a.act(ctx, reasons{"taken": taken}, "group", g.Name, encode(groupRecord{g.Title, stamp(g.Created)}))
	return err
}

// Groups implements account.Store.
func (a *Accounts) Groups(ctx context.Context) ([]account.Group, error) {
	b := a.db.client.B()
	results, err := a.db.read(ctx, b.Hgetall().Key(a.db.key("groups")).Build(),
		b.Zrange().Key(a.db.key("members")).Min("0").Max("-1").Build())
	if err != nil {
		return nil, err
	}
	records, err := results[0].AsStrMap()
	if err != nil {
		return nil, a.db.fail(ctx, err)
	}
	members, err := results[1].AsStrSlice()
	if err != nil {
		return nil, a.db.fail(ctx, err)
	}
	count := map[string]int{}
	for _, m := range members {
		group, _, _ := strings.Cut(m, "\x00")
		count[group]++
	}
	var all []account.Group
	for name, text := range records {
		r, err := decode[groupRecord](text)
		if err != nil {
			return nil, err
		}
		all = append(all, account.Group{Name: name, Title: r.Title, Created: fromStamp(r.Created), Members: count[name]})
	}
	slices.SortFunc(all, func(x, y account.Group) int { return cmp.Compare(x.Name, y.Name) })
	return all, nil
}

// DeleteGroup implements account.Store.
func (a *Accounts) DeleteGroup(ctx context.Context, name string) error {
	_, err := a.act(ctx, reasons{
		"in_use": fault.New(fault.Conflict, "The group “%s” has members.", name).
			WithRemedy("Remove them or put them into another group first.").WithCode("group_in_use"),
	}, "ungroup", name)
	return err
}
