package cli

import (
	"testing"

	"github.com/ahelme/comfyume/internal/cli/args"
)

// TestCommands: the structs make a tree, and whatever stands at its ends can be run.
func TestCommands(t *testing.T) {
	t.Parallel()
	_, tree, err := commands()
	if err != nil {
		t.Fatal(err)
	}
	ends := 0
	var look func(*args.Command)
	look = func(at *args.Command) {
		if _, ok := at.Target().(command); ok != (len(at.Commands) == 0) {
			t.Errorf("%s has %d commands below; can it be run? %v", at.FullPath(), len(at.Commands), ok)
		}
		if len(at.Commands) == 0 {
			ends++
		}
		for _, c := range at.Commands {
			look(c)
		}
	}
	look(tree)
	if ends < 50 {
		t.Errorf("there are only %d commands", ends)
	}
}
