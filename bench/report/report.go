// Package report tells the figures of a benchmark: as JSON for machines, as a table and a
// plot between two markers of a document for people. Its one idea is that a figure of a
// shared machine means something only beside another of the same minute: a row is medians
// of rounds with their range, and its ratio is the median of those of the rounds.
//
// It measures nothing. Read Row first.
package report

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
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

// Row is one figure. Ratio is ours ÷ peer of a cost: lower is better. A row that has no
// figure, or nothing to compare it with, has a Reason.
type Row struct {
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

	// Title is for people.
	Title string `json:"-"`
	// RatioTarget says that Target is for the ratio.
	RatioTarget bool `json:"-"`

	values, ratios []float64
}

// Of gives a row its figures, one a round: the median, and the range.
func (r Row) Of(values []float64) Row {
	mid, lo, hi := Median(values), slices.Min(values), slices.Max(values)
	r.Ours, r.Min, r.Max, r.Rounds, r.values = &mid, &lo, &hi, len(values), values
	return r
}

// Within sets the target.
func (r Row) Within(target float64) Row {
	r.Target = &target
	return r
}

// Against compares with a peer measured in the same rounds: the ratio is the median of the
// rounds' ratios, so that a round in which the machine was busy counts as any other.
func (r Row) Against(name string, values []float64) Row {
	ratios := make([]float64, len(values))
	for i, v := range values {
		ratios[i] = r.values[i] / v
	}
	mid, ratio := Median(values), Median(ratios)
	r.Peer, r.PeerName, r.Ratio, r.ratios = &mid, name, &ratio, ratios
	return r
}

// String tells a row in a line.
func (r Row) String() string {
	return r.Row + ": " + r.figure() + "; against " + r.comparison()
}

// figure is a row's value for people, with its range.
func (r Row) figure() string {
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
func (r Row) comparison() string {
	switch {
	case r.Peer != nil:
		return fmt.Sprintf("%s %s, ratio %s (%s)", number(r.Peer), r.Unit, number(r.Ratio), r.PeerName)
	case r.Ours != nil && r.Reason != "":
		return r.Reason
	}
	return "–"
}

// goal is a row's target for people.
func (r Row) goal() string {
	switch {
	case r.Target == nil:
		return "–"
	case r.RatioTarget:
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

// Report is one run.
type Report struct {
	Commit  string `json:"commit"`
	Date    string `json:"date"`
	Machine string `json:"machine"`
	Rows    []Row  `json:"rows"`

	// Name of the benchmark: of its file of results, and in the markers of the document.
	Name string `json:"-"`
	// How is told above the table: what wrote it, and where the configurations are.
	How string `json:"-"`
	// Plot is the name of the picture beside the document; empty: there is none.
	Plot string `json:"-"`
	// PlotTargets says that the picture is of figures beside their targets, else it is of ratios to the peers.
	PlotTargets bool `json:"-"`

	began  time.Time
	before string
}

// Begin notes when a run begins and how busy the machine is.
func Begin(ctx context.Context, name string) *Report {
	now := time.Now()
	return &Report{Name: name, Commit: commit(ctx), Date: now.UTC().Format(time.RFC3339), began: now, before: loadAverage()}
}

// Add takes a row and tells it.
func (r *Report) Add(row Row) {
	r.Rows = append(r.Rows, row)
	r.Say("%s", row)
}

// Say tells on stderr how far the run is.
func (r *Report) Say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%4.0f s  %s\n", time.Since(r.began).Seconds(), fmt.Sprintf(format, args...))
}

// Write prints the table and, with results and docs, writes NAME.json there, and what stands
// between the markers of benchmarks.md.
func (r *Report) Write(results, docs string) error {
	r.Machine = fmt.Sprintf("%d × %s, %s, load average %s before and %s after", runtime.NumCPU(), processor(), runtime.Version(), r.before, loadAverage())
	if err := r.table(os.Stdout); err != nil || docs == "" {
		return err
	}
	errs := []error{r.writeJSON(filepath.Join(results, r.Name+".json")), r.writeDocs(filepath.Join(docs, "benchmarks.md"))}
	if r.Plot != "" {
		errs = append(errs, os.WriteFile(filepath.Join(docs, r.Plot), []byte(r.plot()), 0o644))
	}
	return errors.Join(errs...)
}

// WriteResults writes NAME.json in results, of a report whose table stands elsewhere.
func (r *Report) WriteResults(results string) error {
	r.Machine = fmt.Sprintf("%d × %s, %s, load average %s before and %s after", runtime.NumCPU(), processor(), runtime.Version(), r.before, loadAverage())
	return r.writeJSON(filepath.Join(results, r.Name+".json"))
}

// loadAverage is that of the last minute, as told by the machine; "unknown" without /proc.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	one, _, _ := strings.Cut(string(text), " ")
	return one
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

func (r *Report) writeJSON(path string) error {
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
func (r *Report) table(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Measured %s at commit %s in %s: %s. Medians, and in brackets range and rounds; a ratio is the median\n"+
		"of those of the rounds, and means more than a figure where the load averages say that the machine had other work. %s\n\n",
		r.Date[:10], r.Commit, time.Since(r.began).Round(time.Second), r.Machine, r.How)
	if r.Plot != "" {
		fmt.Fprintf(&b, "![the rows as a picture](%s)\n\n", r.Plot)
	}
	b.WriteString("| figure | target | today | against |\n|---|---|---|---|\n")
	for _, one := range r.Rows {
		fmt.Fprintf(&b, "| %s (`%s`) | %s | %s | %s |\n", one.Title, one.Row, one.goal(), one.figure(), one.comparison())
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// marks are what writeDocs writes between.
func (r *Report) marks() (begin, end string) {
	return "<!-- bench/" + r.Name + ": begin -->", "<!-- bench/" + r.Name + ": end -->"
}

// writeDocs replaces what stands between the markers of a document.
func (r *Report) writeDocs(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var table bytes.Buffer
	if err := r.table(&table); err != nil {
		return err
	}
	out, err := r.between(text, table.Bytes())
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.WriteFile(path, out, 0o644)
}

func (r *Report) between(text, table []byte) ([]byte, error) {
	begin, end := r.marks()
	head, rest, ok := bytes.Cut(text, []byte(begin))
	_, tail, ok2 := bytes.Cut(rest, []byte(end))
	if !ok || !ok2 {
		return nil, fmt.Errorf("it lacks %q or, behind it, %q", begin, end)
	}
	return slices.Concat(head, []byte(begin+"\n"), table, []byte(end), tail), nil
}

// Median of values, which stay as they are; that of none is NaN.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(values))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// Quantile q of 0 to 1, by nearest rank; 0 of none.
func Quantile(values []time.Duration, q float64) time.Duration {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	return s[max(0, int(math.Ceil(q*float64(len(s))))-1)]
}

func Milliseconds(d time.Duration) float64 { return d.Seconds() * 1e3 }
