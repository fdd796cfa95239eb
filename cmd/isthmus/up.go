package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/isthmus-mesh/isthmus/cli"
	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/localmesh"
	"github.com/isthmus-mesh/isthmus/localmesh/app"
)

// up runs the local mesh, here or in the background.
func up(ctx context.Context, o cli.UpOptions) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the own executable: %w", err)
	}
	mesh, dir := localmesh.Default(), ""
	if o.File != "" {
		if mesh, err = readMesh(o.File); err != nil {
			return err
		}
		if dir, err = filepath.Abs(filepath.Dir(o.File)); err != nil {
			return err
		}
	}
	if o.Detach {
		summary, err := localmesh.Detach(ctx, localmesh.Detachment{Executable: exe, Args: o.Args, Environ: os.Environ(), StateDir: o.StateDir})
		if err != nil {
			return err
		}
		return summary.Print(os.Stdout)
	}
	reporter := localmesh.OpenReporter(os.Getenv(localmesh.ReportEnv))
	cfg := localmesh.Config{Mesh: mesh, MeshDir: dir, StateDir: o.StateDir, RuntimeDir: localmesh.DefaultRuntimeDir(os.Getenv),
		AddressBase: o.AddressBase, Executable: exe, Environ: os.Environ(), Topology: o.Topology, Out: os.Stdout, Ready: reporter.Ready}
	err = localmesh.Run(ctx, cfg, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	if errors.Is(err, context.Canceled) {
		err = nil // asked to end
	}
	if err != nil {
		reporter.Failed(err)
	}
	return err
}

// readMesh reads mesh.yaml; its faults are listed as apply lists them.
func readMesh(path string) (manifest.LocalMesh, error) {
	f, err := os.Open(path)
	if err != nil {
		return manifest.LocalMesh{}, err
	}
	defer f.Close()
	r, err := manifest.Read(path, io.Reader(f), manifest.Options{})
	if err != nil {
		return manifest.LocalMesh{}, err
	}
	for _, w := range r.Warnings {
		fmt.Fprintln(os.Stderr, "warning:", w)
	}
	for _, fault := range r.Faults {
		fmt.Fprintln(os.Stderr, fault)
	}
	if len(r.Faults) > 0 {
		return manifest.LocalMesh{}, fmt.Errorf("%s: %d faults; nothing was started", path, len(r.Faults))
	}
	for _, o := range r.Objects {
		if m, ok := o.Value.(*manifest.LocalMesh); ok && len(r.Objects) == 1 {
			return *m, nil
		}
	}
	return manifest.LocalMesh{}, fmt.Errorf("%s: want one LocalMesh and nothing else", path)
}

// workload runs an application of the local mesh.
func workload(what string) func(context.Context, string, *slog.Logger) error {
	return func(ctx context.Context, config string, log *slog.Logger) error {
		cfg, err := read(config, app.ReadConfig)
		if err != nil {
			return err
		}
		return app.Run(ctx, what, cfg, log)
	}
}
