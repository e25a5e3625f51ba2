package account

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/identity"
)

// Import makes the accounts of a roster that are missing; people who are there already stay as they are.
func (s *Service) Import(ctx context.Context, r io.Reader) (made []User, there int, err error) {
	list, err := ReadRoster(r)
	if err != nil {
		return nil, 0, err
	}
	made, err = s.EnsureUsers(ctx, list)
	return made, len(list) - len(made), err
}

// maxRoster bounds a roster.
const maxRoster = 10_000

// ReadRoster reads people from CSV. The first line names the columns: name is needed; group, role and password
// may be there; others are left alone. Commas, semicolons and tabs separate. Everything that is wrong is reported
// together, with its line.
func ReadRoster(r io.Reader) ([]NewUser, error) {
	raw, err := io.ReadAll(io.LimitReader(r, 4<<20))
	if err != nil {
		return nil, err
	}
	text := strings.TrimPrefix(string(raw), "\ufeff") // spreadsheets write one
	rows := csv.NewReader(strings.NewReader(text))
	first, _, _ := strings.Cut(text, "\n")
	for _, sep := range []rune{';', '\t'} {
		if strings.ContainsRune(first, sep) && !strings.ContainsRune(first, ',') {
			rows.Comma = sep
		}
	}
	rows.TrimLeadingSpace = true
	rows.FieldsPerRecord = -1
	head, err := rows.Read()
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "The roster has no first line with the names of the columns.").
			WithRemedy("Begin with: name,group,role,password")
	}
	column := map[string]int{}
	for i, h := range head {
		column[Normalize(h)] = i
	}
	if _, ok := column["name"]; !ok {
		return nil, fault.New(fault.Invalid, "The roster has no column “name”.").
			WithRemedy("Begin with: name,group,role,password")
	}
	return readRows(rows, column)
}

func readRows(rows *csv.Reader, column map[string]int) ([]NewUser, error) {
	var list []NewUser
	var problems []error
	lines := map[string]int{}
	for {
		rec, err := rows.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			problems = append(problems, fault.Wrap(fault.Invalid, err, "The roster can't be read further: %v.", err))
			break
		}
		line, _ := rows.FieldPos(0)
		get := func(name string) string {
			if i, ok := column[name]; ok && i < len(rec) {
				return strings.TrimSpace(rec[i])
			}
			return ""
		}
		n := NewUser{
			Name: get("name"), Group: get("group"),
			Role: identity.Role(Normalize(get("role"))), Password: get("password"),
		}
		if n == (NewUser{}) {
			continue // an empty line of a spreadsheet
		}
		err = n.check()
		if err == nil && lines[n.Name] != 0 {
			err = fault.New(fault.Invalid, "“%s” is in line %d already.", n.Name, lines[n.Name])
		}
		if err != nil {
			sentence, remedy := fault.Public(err)
			problems = append(problems, fault.New(fault.Invalid, "Line %d: %s", line, sentence).WithRemedy("%s", remedy))
			continue
		}
		lines[n.Name] = line
		list = append(list, n)
		if len(list) > maxRoster {
			problems = append(problems, fault.New(fault.Invalid, "The roster has more than %d people.", maxRoster))
			break
		}
	}
	return list, together(problems)
}

// maxTold is how many problems are told at once.
const maxTold = 20

// together makes one error of problems, so that who mends a list sees all of them.
func together(problems []error) error {
	if len(problems) < 2 {
		return errors.Join(problems...)
	}
	var all strings.Builder
	for n, err := range problems {
		if n == maxTold {
			fmt.Fprintf(&all, "\n  and %d more", len(problems)-n)
			break
		}
		sentence, remedy := fault.Public(err)
		all.WriteString("\n  " + strings.TrimSpace(sentence+" "+remedy))
	}
	return fault.New(fault.Invalid, "%d accounts can't be made:%s", len(problems), all.String()).
		WithRemedy("Mend these; none of the list was made.")
}
