package flags

import "github.com/ahelme/comfyume/internal/config"

// Meant returns "; did you mean X?" with the candidate that word was probably meant to be, or "".
func Meant(word string, candidates []string) string {
	if n := config.Near(word, candidates); n != "" {
		return "; did you mean " + n + "?"
	}
	return ""
}
