package redis

import "context"

// Place keeps what names something that all servers of the studio must share, such as the folder of people's bytes: the
// first that says so decides. It returns what was decided.
func (db *DB) Place(ctx context.Context, name, id string) (kept string, err error) {
	reply, err := db.exec(ctx, scriptPlace, []string{db.key("meta")}, []string{db.generation, "place:" + name, id}).ToString()
	if err != nil {
		return "", db.fail(ctx, err)
	}
	if reply == "" {
		return "", db.lost()
	}
	return reply, nil
}
