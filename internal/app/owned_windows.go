package app

import "io/fs"

// owned reports whether a file belongs to this account: the folder for temporary files is each account's own here.
func owned(fs.FileInfo) bool { return true }
