package flags

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// maxScan bounds how much of a cli_args.py is read; that of 0.3.64 has 15 KB.
const maxScan = 1 << 20

// argument finds one call that declares a flag. What follows the name, to the end of the line, tells what kind it is.
var argument = regexp.MustCompile(`(?m)\.add_argument\(\s*"--([A-Za-z0-9_-]+)"([^\n]*)`)

// Scan reads which flags the ComfyUI in dir has from its own source: name → how it is declared. Nil: there is no such
// file, or it declares nothing in a form that is understood.
func Scan(dir string) map[string]string {
	f, err := os.Open(filepath.Join(dir, "comfy", "cli_args.py"))
	if err != nil {
		return nil // another layout: ComfyUI itself will say what it does not like
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxScan))
	if err != nil {
		return nil
	}
	return scan(string(text))
}

func scan(text string) map[string]string {
	known := map[string]string{}
	for _, m := range argument.FindAllStringSubmatch(text, -1) {
		known[m[1]] = strings.TrimSpace(m[2])
	}
	if len(known) == 0 {
		return nil
	}
	return known
}
