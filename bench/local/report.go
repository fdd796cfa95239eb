package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// row is one figure. Ratio is ours ÷ peer of a cost: lower is better. A row that has no
// figure, or nothing to compare it with, has a Reason.
type row struct {
	Row      string   `json:"row"`
	Unit     string   `json:"unit"`
	Ours     *float64 `json:"ours"`
	Peer     *float64 `json:"peer"`
	PeerName string   `json:"peer_name"`
	Ratio    *float64 `json:"ratio"`
	Rounds   int      `json:"rounds"`
	Min      *float64 `json:"min"`
	Max      *float64 `json:"max"`
	// Target is what ours, or the ratio where there is one to reach, is to stay below.
	Target *float64 `json:"target"`
	Reason string   `json:"reason,omitempty"`

	title       string
	values      []float64
	ratioTarget bool
}

// of gives a row its figures, one a round: the median, and the range.
func (r row) of(values []float64) row {
	mid, lo, hi := median(values), slices.Min(values), slices.Max(values)
	r.Ours, r.Min, r.Max, r.Rounds, r.values = &mid, &lo, &hi, len(values), values
	return r
}

// within sets the target.
func (r row) within(target float64) row {
	r.Target = &target
	return r
}

// against compares with a peer measured in the same rounds: the ratio is the median of the
// rounds' ratios, so that a round in which the machine was busy counts as any other.
func (r row) against(name string, values []float64) row {
	ratios := make([]float64, len(values))
	for i, v := range values {
		ratios[i] = r.values[i] / v
	}
	mid, ratio := median(values), median(ratios)
	r.Peer, r.PeerName, r.Ratio = &mid, name, &ratio
	return r
}

// add takes a row and tells it.
func (b *bench) add(r row) {
	b.rows = append(b.rows, r)
	b.say("%s: %s; against %s", r.Row, r.figure(), r.comparison())
}

// figure is a row's value for people, with its range.
func (r row) figure() string {
	if r.Ours == nil {
		return "not measured: " + r.Reason
	}
	text := number(r.Ours) + " " + r.Unit
	if r.Rounds > 1 {
		text += fmt.Sprintf(" (%s – %s, %d)", number(r.Min), number(r.Max), r.Rounds)
	}
	return text
}

// comparison is a row's peer for people.
func (r row) comparison() string {
	switch {
	case r.Peer != nil:
		return fmt.Sprintf("%s %s, ratio %s (%s)", number(r.Peer), r.Unit, number(r.Ratio), r.PeerName)
	case r.Ours != nil && r.Reason != "":
		return r.Reason
	}
	return "–"
}

// goal is a row's target for people.
func (r row) goal() string {
	switch {
	case r.Target == nil:
		return "–"
	case r.ratioTarget:
		return "ratio ≤ " + number(r.Target)
	}
	return "≤ " + number(r.Target) + " " + r.Unit
}

// number has three digits that count.
func number(v *float64) string {
	if v == nil || math.IsNaN(*v) || math.IsInf(*v, 0) {
		return "?"
	}
	decimals := 2
	if a := math.Abs(*v); a >= 100 {
		decimals = 0
	} else if a >= 10 {
		decimals = 1
	}
	text := strconv.FormatFloat(*v, 'f', decimals, 64)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text
}

// report is one run.
type report struct {
	Commit  string `json:"commit"`
	Date    string `json:"date"`
	Machine string `json:"machine"`
	Rows    []row  `json:"rows"`

	took time.Duration
}

func newReport(ctx context.Context, began time.Time, before, after string, rows []row) *report {
	return &report{Commit: commit(ctx), Date: began.UTC().Format(time.RFC3339), Rows: rows, took: time.Since(began),
		Machine: fmt.Sprintf("%d × %s, %s, load average %s before and %s after", runtime.NumCPU(), processor(), runtime.Version(), before, after)}
}

// commit is what was measured, as Git tells it.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--exclude", "*").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

func processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				return strings.TrimSpace(value)
			}
		}
	}
	return runtime.GOARCH
}

func (r *report) writeJSON(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// table writes what docs/benchmarks.md shows.
func (r *report) table(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Measured %s at commit %s in %s: %s. Medians, and in brackets range and rounds; a ratio is the median\n"+
		"of those of the rounds, and means more than a figure where the load averages say that the machine had other work. Written by `make bench-local` (`QUICK=1` for under 3 minutes; `go run ./bench/local -h`), HAProxy as configured in\n"+
		"[client.cfg](../bench/local/peer/client.cfg) and [server.cfg](../bench/local/peer/server.cfg).\n\n",
		r.Date[:10], r.Commit, r.took.Round(time.Second), r.Machine)
	b.WriteString("| figure | target | today | against |\n|---|---|---|---|\n")
	for _, one := range r.Rows {
		fmt.Fprintf(&b, "| %s (`%s`) | %s | %s | %s |\n", one.title, one.Row, one.goal(), one.figure(), one.comparison())
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Markers between which writeDocs writes.
const (
	markBegin = "<!-- bench/local: begin -->"
	markEnd   = "<!-- bench/local: end -->"
)

// writeDocs replaces what stands between the markers of a document.
func (r *report) writeDocs(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var table bytes.Buffer
	if err := r.table(&table); err != nil {
		return err
	}
	out, err := between(text, table.Bytes())
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.WriteFile(path, out, 0o644)
}

func between(text, table []byte) ([]byte, error) {
	head, rest, ok := bytes.Cut(text, []byte(markBegin))
	_, tail, ok2 := bytes.Cut(rest, []byte(markEnd))
	if !ok || !ok2 {
		return nil, fmt.Errorf("it lacks %q or, behind it, %q", markBegin, markEnd)
	}
	return slices.Concat(head, []byte(markBegin+"\n"), table, []byte(markEnd), tail), nil
}

// median of values, which stay as they are; that of none is NaN.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(values))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// quantile q of 0 to 1, by nearest rank; 0 of none.
func quantile(values []time.Duration, q float64) time.Duration {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	return s[max(0, int(math.Ceil(q*float64(len(s))))-1)]
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1e3 }
