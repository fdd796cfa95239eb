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
	"github.com/isthmus-mesh/isthmus/dataplane/capture"
	"github.com/isthmus-mesh/isthmus/internal/parallel"
	"github.com/isthmus-mesh/isthmus/internal/parent"
)

// version is set by the linker.
var version = "dev"

func main() {
	if len(os.Args) > 1 && os.Args[1] == "capture" {
		rules(os.Args[2:])
		return
	}
	config := flag.String("config", "", "configuration, a JSON file")
	replace := flag.Bool("replace", false, "take over the ports of the running proxy of this configuration, which then drains")
	show := flag.Bool("version", false, "print the version and exit")
	flag.Parse()
	if *show {
		fmt.Println("isthmus-proxy", version)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(parent.Watch(ctx), *config, *replace); err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, parent.ErrGone) {
		fmt.Fprintln(os.Stderr, "isthmus-proxy:", err)
		os.Exit(2)
	}
}

// rules is the command of an init container: it makes the rules of nftables that take the workload's
// connections, and ends.
func rules(args []string) {
	c := capture.Command{Rules: capture.Defaults()}
	f := flag.NewFlagSet("isthmus-proxy capture", flag.ExitOnError)
	c.Bind(f)
	_ = f.Parse(args) // ends the process at a fault
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := c.Run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "isthmus-proxy:", err)
		stop()
		os.Exit(2)
	}
}

func run(ctx context.Context, path string, replace bool) error {
	agent.Thrifty(os.Getenv("GOGC"))
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open the configuration (--config): %w", err)
	}
	cfg, err := agent.ReadConfig(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	level := new(slog.LevelVar)
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level})).With("proxy", cfg.ID, "cluster", cfg.Cluster)
	a, err := agent.New(cfg, log, agent.Options{Version: version, Replace: replace, Level: level, AccessLog: os.Stdout})
	if err != nil {
		return err
	}
	executable, err := os.Executable() // now: later it may have been replaced, and has another name then
	if err != nil {
		return err
	}
	successor := make(chan os.Signal, 1)
	signal.Notify(successor, syscall.SIGUSR2)
	return parallel.During(ctx, func(ctx context.Context) error {
		return a.Main(ctx, executable, os.Args[1:], os.Environ(), successor)
	})
}
