package workspace

import (
	"path"
	"strings"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/file"
)

// lookup brings a reference that is asked for into its one form. Names that can't exist are simply not there; only
// leaving the folder is refused.
func lookup(ref file.Ref) (file.Ref, error) {
	if err := file.CheckType(ref.Type); err != nil {
		return file.Ref{}, err
	}
	if ref.Name == ".." || strings.HasPrefix(ref.Subfolder, "/") || strings.Contains("/"+ref.Subfolder+"/", "/../") {
		return file.Ref{}, fault.New(fault.Invalid, "The subfolder leads out of your files.").WithCode(file.CodeOutside)
	}
	if ref.Subfolder != "" {
		if ref.Subfolder = path.Clean(ref.Subfolder); ref.Subfolder == "." {
			ref.Subfolder = ""
		}
	}
	return ref, nil
}

// checkUser guards folders and keys against names that no account can have.
func checkUser(user string) error {
	ok := user != "" && len(user) <= 32
	for i := range len(user) {
		c := user[i]
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_' || c == '-')
	}
	if !ok {
		return fault.New(fault.Invalid, "The name of an account is 1 to 32 of a-z, 0-9, _ and -.").WithCode("bad_user")
	}
	return nil
}

// ErrNoFile returns the error for a file that a person does not have.
func ErrNoFile() error {
	return fault.New(fault.Missing, "There is no such file among yours.").WithCode("no_file")
}
