// Command comfyume is the whole program; everything is in internal/cli.
package main

import (
	"context"
	"os"

	"github.com/ahelme/comfyume/internal/cli"
)

func main() { os.Exit(cli.Main(context.Background(), os.Args[1:], cli.OS())) }
