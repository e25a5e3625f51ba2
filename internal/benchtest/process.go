package benchtest

import (
	"bufio"
	"os"
	"os/exec"
	"testing"
)

// Process starts this test's own binary once more, with a variable such as "ROLE=server" in its environment by which its
// TestMain knows that it is to serve and not to test. Its standard input ends with the benchmark, and so should it.
// Process returns the first lines of its standard output, n of them, and its process id.
func Process(b *testing.B, variable string, n int) (said []string, pid int) {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env, cmd.Stderr = append(os.Environ(), variable), os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	})
	lines := bufio.NewScanner(out)
	for len(said) < n && lines.Scan() {
		said = append(said, lines.Text())
	}
	if len(said) < n {
		b.Fatalf("the process with %s did not start: %v", variable, lines.Err())
	}
	return said, cmd.Process.Pid
}
