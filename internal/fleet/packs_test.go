package fleet_test

import (
	"io"
	"strings"
)

func newReader(s string) io.Reader { return strings.NewReader(s) }
