// Command isthmus is the whole of Isthmus in one file: the commands people type, the
// control plane, the store, the proxy and a mesh on one machine.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{Use: "isthmus", Short: "one mesh over many clusters", SilenceErrors: true}
	root.AddGroup(&cobra.Group{ID: "parts", Title: "Long-running parts:"})
	root.AddCommand(parts()...)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "isthmus:", err)
		os.Exit(2)
	}
}
