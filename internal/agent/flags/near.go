package flags

import "github.com/ahelme/comfyume/internal/near"

// Meant returns "; did you mean X?" with the candidate that word was probably meant to be, or "".
func Meant(word string, candidates []string) string {
	if n := near.Best(word, candidates); n != "" {
		return "; did you mean " + n + "?"
	}
	return ""
}
