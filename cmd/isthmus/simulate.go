package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/isthmus-mesh/isthmus/cli"
	"github.com/isthmus-mesh/isthmus/sim/traffic"
)

// simulate runs a scenario and prints what came of it.
func simulate(ctx context.Context, o cli.SimulateOptions) error {
	m := o.Scenario
	lines, err := traffic.Run(ctx, m, m.Policies, m.Seeds)
	if err != nil {
		return err
	}
	if o.JSON {
		out := json.NewEncoder(os.Stdout)
		out.SetIndent("", "  ")
		err = out.Encode(map[string]any{"scenario": m.Name, "policies": traffic.All(lines)})
	} else {
		err = traffic.WriteTable(os.Stdout, m, lines)
	}
	if o.Events {
		traffic.WriteEvents(os.Stderr, lines)
	}
	return errors.Join(err,
		writeTo(o.CSV, func(w io.Writer) error { return traffic.WriteCSV(w, lines) }),
		writeTo(o.SVG, func(w io.Writer) error { return traffic.WriteSVG(w, m, lines) }))
}

// writeTo writes a file, if it has a name.
func writeTo(path string, write func(io.Writer) error) error {
	if path == "" {
		return nil
	}
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	return errors.Join(write(f), f.Close())
}
