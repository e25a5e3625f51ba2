package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ahelme/comfyume/internal/cli/args"
)

// completeCmd prints a shell's completion script. The script asks the program itself, so it is never out of date.
type completeCmd struct {
	Bash  completeBash  `cmd:"" help:"For bash: eval \"$(comfyume completion bash)\""`
	Zsh   completeZsh   `cmd:"" help:"For zsh: eval \"$(comfyume completion zsh)\""`
	Fish  completeFish  `cmd:"" help:"For fish: comfyume completion fish | source"`
	Words completeWords `cmd:"" hidden:"" help:"Print what may follow the words."`
}

type (
	completeBash struct{}
	completeZsh  struct{}
	completeFish struct{}
)

// Run prints the script.
func (*completeBash) Run(c *call) error {
	_, err := fmt.Fprint(c.Stdout, `_comfyume() {
  local IFS=$'\n'
  COMPREPLY=($(comfyume completion words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _comfyume comfyume
`)
	return err
}

// Run prints the script.
func (*completeZsh) Run(c *call) error {
	_, err := fmt.Fprint(c.Stdout, `_comfyume() {
  local -a found
  found=("${(@f)$(comfyume completion words -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  compadd -a found
}
compdef _comfyume comfyume
`)
	return err
}

// Run prints the script.
func (*completeFish) Run(c *call) error {
	_, err := fmt.Fprint(c.Stdout, `complete -c comfyume -a '(comfyume completion words -- (commandline -opc)[2..] (commandline -ct))'
`)
	return err
}

type completeWords struct {
	Words []string `arg:"" optional:"" passthrough:""`
}

// Run prints the commands and flags that may stand in place of the last word.
func (cmd *completeWords) Run(c *call) error {
	words := cmd.Words
	if len(words) > 0 && words[0] == "--" {
		words = words[1:]
	}
	last := ""
	if n := len(words); n > 0 {
		last, words = words[n-1], words[:n-1]
	}
	for _, w := range follow(c.tree, words) {
		if strings.HasPrefix(w, last) && strings.HasPrefix(w, "-") == strings.HasPrefix(last, "-") {
			if _, err := fmt.Fprintln(c.Stdout, w); err != nil {
				return err
			}
		}
	}
	return nil
}

// follow returns the commands and flags below the command that words name.
func follow(at *args.Command, words []string) []string {
	for _, w := range words {
		i := slices.IndexFunc(at.Commands, func(c *args.Command) bool { return c.Name == w })
		if i >= 0 {
			at = at.Commands[i]
		}
	}
	var found []string
	for _, child := range at.Commands {
		if !child.Hidden {
			found = append(found, child.Name)
		}
	}
	for ; at != nil; at = at.Parent {
		for _, f := range at.Flags {
			found = append(found, "--"+f.Name)
		}
	}
	slices.Sort(found)
	return found
}
