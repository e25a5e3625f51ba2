package backend

import "strings"

// sticky are errors of GPUs after which nothing runs in the same program any more, as CUDA's and HIP's documents have them:
// to go on, the program has to be started anew. Running out of memory is none of them.
var sticky = []string{
	"device-side assert triggered", "an illegal memory access was encountered", "unspecified launch failure",
	"an illegal instruction was encountered", "misaligned address", "the launch timed out and was terminated",
	"hardware stack error", "invalid program counter", "operation not supported on global/shared address space",
	"uncorrectable ecc error encountered", "the gpu has fallen off the bus", "unknown error",
}

// BrokenGPU finds in what torch says of an exception, or in a line that it printed, that the GPU failed so that nothing runs
// in this program any more. what is the error in its own words.
func BrokenGPU(text string) (what string, ok bool) {
	for line := range strings.Lines(text) {
		low := strings.ToLower(line)
		for _, maker := range []string{"cuda error: ", "hip error: "} {
			at := strings.Index(low, maker)
			if at < 0 {
				continue
			}
			for _, s := range sticky {
				if strings.HasPrefix(low[at+len(maker):], s) {
					return s, true
				}
			}
		}
	}
	return "", false
}
