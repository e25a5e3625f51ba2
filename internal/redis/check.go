package redis

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/rueidis"

	"github.com/ahelme/comfyume/internal/fault"
)

// Finding is something about the Redis that its operator should know.
type Finding struct {
	Grave    bool   // acknowledged work may be lost in ordinary trouble
	Sentence string // what it is and what may happen
	Remedy   string
}

// oldest is the first version that has what the scripts use.
const oldest = 7

// Check looks at how the Redis keeps what it acknowledges. A Redis that can't serve at all is an error; one that may lose
// work is told in findings, worst first. Where looking is forbidden, a finding says that.
func (db *DB) Check(ctx context.Context) ([]Finding, error) {
	info, err := db.read(ctx, db.client.B().Info().Section("server", "replication", "persistence").Build())
	if err != nil {
		return nil, err
	}
	text, err := info[0].ToString()
	if err != nil {
		return nil, db.fail(ctx, err)
	}
	facts := facts(text)
	if major, _, _ := strings.Cut(facts["redis_version"], "."); major != "" {
		if n, err := strconv.Atoi(major); err == nil && n < oldest {
			return nil, fault.New(fault.Unavailable, "The studio's Redis has version %s, and the studio needs 7 or newer.", facts["redis_version"]).
				WithRemedy("Upgrade it.").WithCode("redis_version")
		}
	}
	settings, err := db.settings(ctx)
	if err != nil {
		return nil, err
	}
	if settings == nil {
		return []Finding{{
			Sentence: "How the studio's Redis keeps its data could not be checked: it does not allow CONFIG GET.",
			Remedy:   "See that it has appendonly yes, appendfsync always and maxmemory-policy noeviction.",
		}}, nil
	}
	return judge(settings, facts), nil
}

// facts reads what INFO says.
func facts(text string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			out[name] = value
		}
	}
	return out
}

// settings are those that say what Redis promises; nil where it is forbidden to ask.
func (db *DB) settings(ctx context.Context) (map[string]string, error) {
	results, err := db.read(ctx, db.client.B().ConfigGet().
		Parameter("appendonly", "appendfsync", "maxmemory-policy", "save", "no-appendfsync-on-rewrite").Build())
	if err != nil {
		if e, ok := errors.AsType[*rueidis.RedisError](err); ok &&
			(strings.HasPrefix(e.Error(), "NOPERM") || strings.HasPrefix(e.Error(), "ERR unknown command")) {
			return nil, nil
		}
		return nil, err
	}
	all, err := results[0].AsStrMap()
	if err != nil {
		return nil, fmt.Errorf("read the settings of Redis: %w", err)
	}
	return all, nil
}

func judge(set, facts map[string]string) (all []Finding) {
	add := func(grave bool, sentence, remedy string) { all = append(all, Finding{grave, sentence, remedy}) }
	if p := set["maxmemory-policy"]; p != "noeviction" {
		add(true, fmt.Sprintf("The studio's Redis throws data away when its memory is full (maxmemory-policy %s).", p),
			"Set maxmemory-policy noeviction.")
	}
	switch {
	case set["appendonly"] != "yes" && set["save"] == "":
		add(true, "The studio's Redis keeps its data in memory only: when it ends, everything is lost.",
			"Set appendonly yes and appendfsync always.")
	case set["appendonly"] != "yes":
		add(true, "The studio's Redis writes its data down now and then: when it crashes, everything since the last snapshot is lost (save "+set["save"]+").",
			"Set appendonly yes and appendfsync always.")
	case set["appendfsync"] == "everysec":
		add(false, "When the machine of the studio's Redis crashes, what was acknowledged in its last second is lost (appendfsync everysec).",
			"Set appendfsync always if that is too much.")
	case set["appendfsync"] != "always":
		add(true, "When the machine of the studio's Redis crashes, what its system had not yet written to the disk is lost (appendfsync "+set["appendfsync"]+").",
			"Set appendfsync always, or everysec.")
	}
	if set["appendonly"] == "yes" && set["appendfsync"] == "always" && set["no-appendfsync-on-rewrite"] == "yes" {
		add(false, "While the studio's Redis rewrites its append-only file it does not wait for the disk (no-appendfsync-on-rewrite yes).",
			"Set no-appendfsync-on-rewrite no.")
	}
	if n, err := strconv.Atoi(facts["connected_slaves"]); err == nil && n > 0 {
		add(false, "Replicas of the studio's Redis are a moment behind: a fail-over may lose what was acknowledged in that moment.",
			"Set min-replicas-to-write and min-replicas-max-lag to bound it.")
	}
	if facts["aof_last_write_status"] == "err" || facts["aof_last_bgrewrite_status"] == "err" || facts["rdb_last_bgsave_status"] == "err" {
		add(true, "The studio's Redis could not write to its disk the last time it tried.", "Look at its log and at the room on its disk.")
	}
	return all
}
