package config

import (
	"fmt"
	"regexp"
	"strings"
)

// packRoute is an address of a custom node's own.
var packRoute = regexp.MustCompile(`^(/[A-Za-z0-9_.~-]+)+/?$`)

// taken are first parts of addresses that are not a custom node's.
var taken = []string{
	"prompt", "queue", "history", "interrupt", "free", "view", "view_metadata", "upload", "ws", "object_info", "system_stats", "embeddings",
	"models", "extensions", "userdata", "users", "settings", "i18n", "features", "internal", "jobs", "workflow_templates", "global_subgraphs",
	"studio", "admin", "me", "signin", "signout", "join", "link", "healthz", "readyz", "metrics", "qm", "u", "k", "assets", "scripts", "docs",
}

// packs checks whose files and which addresses of custom nodes are open.
func (l *loader) packs(p Packs) {
	for list, names := range map[string][]string{"packs.allow": p.Allow, "packs.deny": p.Deny} {
		for i, pack := range names {
			l.pack(fmt.Sprintf("%s[%d]", list, i), pack)
		}
	}
	for pack, routes := range p.Routes {
		path := "packs.routes." + pack
		l.pack(path, pack)
		for _, route := range routes {
			first, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(route, "/api"), "/"), "/")
			own := true
			for _, word := range taken {
				own = own && first != word
			}
			switch {
			case !packRoute.MatchString(route) || strings.Contains(route, "/.") || first == "":
				l.wrong(path, "%q is not the beginning of an address such as /some_pack/", route)
			case !own:
				l.wrong(path, "%q is an address of ComfyUI or of the studio", route)
			}
		}
	}
}

// pack checks the name of a pack: one with a slip of the pen would let through what was to be denied.
func (l *loader) pack(path, name string) {
	if name == "" || strings.Trim(name, ".") == "" || strings.ContainsAny(name, "/\\\x00") {
		l.wrong(path, "%q is not the name of a folder in custom_nodes", name)
	}
}
