// Command detection measures how soon a dead path to another cluster is noticed, against
// how often one that lives is taken for dead. Its one idea: the first figure without the second says
// nothing, so every rule is drawn as a curve of both, and the constants of core/liveness are
// read off the curve (docs/adr/0009-detection-thresholds.md).
//
// In virtual time, over a model of TCP on a lossy path, it compares rules (rules.go) and
// then drives the product's own state machine, liveness.Detector, over the same networks
// (drive.go). With -real it confirms some cells over sockets: the product's prober, gateway
// and WAN link in processes that are stopped by signals.
//
// It does not measure what proxies notice by themselves on connections that carry
// requests. The first type to read is rule, then driver.
//
//	go run ./bench/detection -out docs        # docs/detection.svg and docs/detection.tsv, 3 minutes on two cores
//	go run ./bench/detection -real            # 5 minutes, prints a table
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/core/liveness"
)

// plotted is the period of the figure.
const plotted = liveness.ProbeEvery

func main() {
	out := flag.String("out", "docs", "folder for detection.svg and detection.tsv")
	seeds := flag.Int("seeds", 1000, "seeds a cell, of ten minutes each")
	real := flag.Bool("real", false, "confirm over sockets and processes instead")
	child := flag.String("child", "", "run as a part of -real")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	switch {
	case *child != "":
		err = beChild(ctx, *child)
	case *real:
		err = confirm(ctx, os.Stdout)
	default:
		err = simulate(*out, *seeds)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "detection:", err)
		os.Exit(1)
	}
}

func simulate(out string, seeds int) error {
	began := time.Now()
	g := fullGrid(seeds)
	progress := func(what string) { fmt.Fprintf(os.Stderr, "%5.0f s  %s\n", time.Since(began).Seconds(), what) }
	product := driven(g, func(r row) { progress("product: " + r.Cell + ", " + r.Fault + ", " + r.Observer) })
	points := sweep(g, func(c cell) { progress("rules: " + c.String()) })
	if err := os.WriteFile(filepath.Join(out, "detection.svg"), []byte(plot(g, points, product)), 0o644); err != nil {
		return fmt.Errorf("write the figure: %w", err)
	}
	if err := os.WriteFile(filepath.Join(out, "detection.tsv"), []byte(table(points, product)), 0o644); err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	return nil
}

// table is the raw data, the product's own rule first.
func table(points []point, product []row) string {
	var b strings.Builder
	b.WriteString("rule\tcell\tperiod\tmargin (RTOs)\tfault\tobserver\thours\tfalse trips\tan hour\tdials an hour\tp50 ms\tp99 ms\tmax ms\tmissed\n")
	for _, r := range product {
		fmt.Fprintf(&b, "core/liveness\t%s\t%v\t\t%s\t%s\t%.0f\t%d\t%.4f\t%.0f\t%.0f\t%.0f\t%.0f\t%d\n", r.Cell, liveness.ProbeEvery, r.Fault, r.Observer,
			r.Hours, r.Trips, float64(r.Trips)/r.Hours, r.Dials, r.P50, r.P99, r.Max, r.Missed)
	}
	for _, p := range points {
		fmt.Fprintf(&b, "%s\t%s\t%s\t%.2f\tall\trunning\t%.0f\t%d\t%.4f\t\t%.0f\t%.0f\t%.0f\t\n", p.Rule, p.Cell, p.Period, p.Margin, p.Hours, p.Trips, p.perHour(), p.P50, p.P99, p.Max)
	}
	return b.String()
}
