// Package app is the composition root: it builds the parts of a studio, starts them in order and stops them in
// the reverse order. It is the only package that sees all others.
package app
