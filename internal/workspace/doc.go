// Package workspace holds what belongs to a person: files that nodes read and make ([Files]), and documents such as
// workflows and settings ([Home]).
//
// Files have names only in a table: a name is a type, a subfolder and a name, compared byte by byte, and points to
// bytes in a blob store under a random key. So no name can leave a folder, follow a link, or meet another one that
// merely looks like it, whatever file system is below. Documents are real files below one folder per person, so
// that an operator can look at them, and are reached through os.Root.
//
// Every call names the acting person, and nothing of anybody else comes back.
package workspace
