package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/isthmus-mesh/isthmus/control/plane"
	"github.com/isthmus-mesh/isthmus/control/storeserver"
	"github.com/isthmus-mesh/isthmus/core/skew"
	"github.com/isthmus-mesh/isthmus/dataplane/agent"
	"github.com/isthmus-mesh/isthmus/dataplane/capture"
	"github.com/isthmus-mesh/isthmus/internal/parallel"
	"github.com/isthmus-mesh/isthmus/internal/parent"
	"github.com/isthmus-mesh/isthmus/localmesh/app"
	"github.com/isthmus-mesh/isthmus/localmesh/link"
	"github.com/spf13/cobra"
)

// groupParts is the group of package cli for them.
const groupParts = "parts"

// parts are the long-running commands, each with --config FILE: what a local mesh, a unit
// file or a container starts.
func parts() []*cobra.Command {
	return []*cobra.Command{
		controlPlaneCommand(),
		part("relay", "run the relay of a remote cluster, which serves its proxies and follows a primary", relay),
		proxyCommand(),
		part("store", "run the standalone object store of a control plane", store),
		part("link", "run the emulated WAN between two clusters of a local mesh", wan),
		workloads(),
	}
}

// workloads are the applications of the local mesh.
func workloads() *cobra.Command {
	c := &cobra.Command{Use: "workload", Short: "run an application of a local mesh", GroupID: groupParts}
	for _, what := range []string{app.Echo, app.Shop, app.Exec} {
		sub := part(what, "run "+what, workload(what))
		sub.GroupID, sub.Example = "", "  isthmus workload "+what+" --config app.json"
		c.AddCommand(sub)
	}
	return c
}

func part(name, short string, run func(context.Context, string, *slog.Logger) error) *cobra.Command {
	return partAt(name, short, new(slog.LevelVar), run)
}

// partAt is part with the log's level in a variable that run may change.
func partAt(name, short string, l *slog.LevelVar, run func(context.Context, string, *slog.Logger) error) *cobra.Command {
	var config, level string
	c := &cobra.Command{Use: name + " --config FILE", Short: short, Args: cobra.NoArgs, SilenceUsage: true, GroupID: groupParts,
		Example: "  isthmus " + name + " --config " + name + ".json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := l.UnmarshalText([]byte(level)); err != nil {
				return fmt.Errorf("--log-level %q: want debug, info, warn or error", level)
			}
			log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: l}))
			err := run(parent.Watch(cmd.Context()), config, log)
			if errors.Is(err, context.Canceled) || errors.Is(err, parent.ErrGone) {
				return nil // asked to end
			}
			return err
		}}
	c.Flags().StringVar(&config, "config", "", "configuration, a JSON file")
	c.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	_ = c.MarkFlagRequired("config")
	return c
}

// read opens a configuration and reads it.
func read[C any](path string, parse func(io.Reader) (C, error)) (C, error) {
	f, err := os.Open(path)
	if err != nil {
		var none C
		return none, err
	}
	defer f.Close()
	return parse(f)
}

// controlPlaneCommand has flags for what differs between replicas of one configuration.
func controlPlaneCommand() *cobra.Command {
	var endpoints []string
	var prefix string
	var files plane.StoreTLS
	c := part("control-plane", "run a cluster's control plane", func(ctx context.Context, config string, log *slog.Logger) error {
		return controlPlane(ctx, config, endpoints, prefix, files, log)
	})
	c.Example += "\n  isthmus control-plane --config control-plane.json --etcd-endpoints https://10.0.0.1:2379,https://10.0.0.2:2379 --etcd-ca ca.pem"
	f := c.Flags()
	f.StringSliceVar(&endpoints, "etcd-endpoints", nil, "an external etcd instead of a store of our own")
	f.StringVar(&prefix, "etcd-prefix", "", "what every key begins with, where clusters share an etcd (default /isthmus/)")
	f.StringVar(&files.CA, "etcd-ca", "", "PEM file of the CAs that etcd's servers are verified by")
	f.StringVar(&files.Certificate, "etcd-cert", "", "PEM file of the certificate to show to etcd")
	f.StringVar(&files.Key, "etcd-key", "", "PEM file of its key")
	return c
}

func controlPlane(ctx context.Context, config string, endpoints []string, prefix string, files plane.StoreTLS, log *slog.Logger) error {
	cfg, err := read(config, plane.ReadConfig)
	if err != nil {
		return err
	}
	if len(endpoints) > 0 {
		cfg.StoreEndpoints = endpoints
	}
	if prefix != "" {
		cfg.StorePrefix = prefix
	}
	if files != (plane.StoreTLS{}) {
		cfg.StoreTLS = files
	}
	if err := cfg.Validate(); err != nil {
		return err
	}
	return runPlane(ctx, cfg, log)
}

func relay(ctx context.Context, config string, log *slog.Logger) error {
	cfg, err := read(config, plane.ReadRelayConfig)
	if err != nil {
		return err
	}
	return runPlane(ctx, cfg, log)
}

// runPlane runs a control plane, or a relay, with its API.
func runPlane(ctx context.Context, cfg plane.Config, log *slog.Logger) error {
	agent.Thrifty(os.Getenv("GOGC"))
	log = log.With("cluster", cfg.Cluster)
	cfg.Build = skew.Build{Version: version, Protocols: skew.ParseRange(protocols)}
	p, err := plane.New(ctx, cfg, log)
	if err != nil {
		return err
	}
	return beside(ctx, func(ctx context.Context) error { return serveHealth(ctx, cfg, p) },
		func(ctx context.Context) error { return serveWithAPI(ctx, cfg, p, log) })
}

// proxyCommand can replace a running proxy; so can SIGUSR2 sent to that.
func proxyCommand() *cobra.Command {
	var replace bool
	level := new(slog.LevelVar)
	c := partAt("proxy", "run a proxy: a sidecar or an east-west gateway", level, func(ctx context.Context, config string, log *slog.Logger) error {
		return proxy(ctx, config, replace, level, log)
	})
	c.Example += "\n  isthmus proxy --config proxy.json --replace   # take over from the one that runs"
	c.Flags().BoolVar(&replace, "replace", false, "take over the ports of the running proxy of this configuration, which then drains")
	c.AddCommand(captureCommand())
	return c
}

// captureCommand is what an init container runs beside the proxy.
func captureCommand() *cobra.Command {
	rules := capture.Command{Rules: capture.Defaults()}
	take := &cobra.Command{Use: "capture", Short: "make the nftables rules that take a workload's connections", Args: cobra.NoArgs, SilenceUsage: true,
		Long: "Makes the nftables rules that redirect the TCP connections of this network namespace to its proxy, and ends.\n" +
			"While the proxy is down they fail: the rules stand until --undo. Run it before the workload, as root: as an\n" +
			"init container, or by ExecStartPre= of a unit file (and --undo by ExecStopPost=, where that is wanted).",
		Example: "  isthmus proxy capture --proxy-uid 1337 --exclude-outbound-ports 22,5432 --exclude-outbound-cidrs 169.254.169.254/32\n" +
			"  isthmus proxy capture --dry-run\n  isthmus proxy capture --undo",
		RunE: func(cmd *cobra.Command, _ []string) error { return rules.Run(cmd.Context(), cmd.OutOrStdout()) }}
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	rules.Bind(flags)
	take.Flags().AddGoFlagSet(flags)
	return take
}

func proxy(ctx context.Context, config string, replace bool, level *slog.LevelVar, log *slog.Logger) error {
	agent.Thrifty(os.Getenv("GOGC"))
	cfg, err := read(config, agent.ReadConfig)
	if err != nil {
		return err
	}
	a, err := agent.New(cfg, log.With("proxy", cfg.ID, "cluster", cfg.Cluster), agent.Options{Version: version, Protocols: skew.ParseRange(protocols), Replace: replace, Level: level, AccessLog: os.Stdout})
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

func store(ctx context.Context, config string, log *slog.Logger) error {
	cfg, err := storeserver.ReadConfig(config)
	if err != nil {
		return err
	}
	return storeserver.Run(ctx, cfg, log)
}

func wan(ctx context.Context, config string, log *slog.Logger) error {
	cfg, err := read(config, link.ReadConfig)
	if err != nil {
		return err
	}
	return link.Run(ctx, cfg, log)
}
