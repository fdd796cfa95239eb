// Command isthmus-proxy is the proxy alone, for images: no control plane, no store and
// no console are linked.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/isthmus-mesh/isthmus/dataplane/agent"
	"github.com/isthmus-mesh/isthmus/internal/parallel"
	"github.com/isthmus-mesh/isthmus/internal/parent"
)

// version is set by the linker.
var version = "dev"

func main() {
	config := flag.String("config", "", "configuration, a JSON file")
	show := flag.Bool("version", false, "print the version and exit")
	flag.Parse()
	if *show {
		fmt.Println("isthmus-proxy", version)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(parent.Watch(ctx), *config); err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, parent.ErrGone) {
		fmt.Fprintln(os.Stderr, "isthmus-proxy:", err)
		os.Exit(2)
	}
}

func run(ctx context.Context, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open the configuration (--config): %w", err)
	}
	cfg, err := agent.ReadConfig(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil)).With("proxy", cfg.ID, "cluster", cfg.Cluster)
	a, err := agent.New(cfg, log, agent.Options{Version: version})
	if err != nil {
		return err
	}
	return parallel.During(ctx, a.Run)
}
