// Package benchtest has what benchmarks of several packages measure with.
package benchtest
