// Command isthmus is the whole of Isthmus in one file: the commands people type, the
// control plane, the store, the proxy and a mesh on one machine.
package main

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/isthmus-mesh/isthmus/cli"
	"github.com/isthmus-mesh/isthmus/localmesh"
)

// version is set by the linker.
var version = "dev"

// protocols is set by the linker in tests, "MIN-MAX": an older or newer build is made so. Empty is what this code speaks.
var protocols string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Run(ctx, cli.Options{Name: filepath.Base(os.Args[0]), In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Version: version,
		Getenv: os.Getenv, Terminal: isTerminal(os.Stdout), ErrTerminal: isTerminal(os.Stderr), Up: up, Down: localmesh.Down, Simulate: simulate, Extra: parts(),
		StateDir: func() (string, error) { return localmesh.DefaultStateDir(os.Getenv) }}, os.Args[1:])
	stop()
	os.Exit(code)
}

// isTerminal reports whether colours may be used.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
