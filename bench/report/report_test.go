package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMediansAndQuantiles(t *testing.T) {
	if got := Median([]float64{3, 1, 2}); got != 2 {
		t.Errorf("median of three = %v, want 2", got)
	}
	if got := Median([]float64{4, 1, 2, 3}); got != 2.5 {
		t.Errorf("median of four = %v, want 2.5", got)
	}
	var ds []time.Duration
	for i := 100; i > 0; i-- {
		ds = append(ds, time.Duration(i))
	}
	for q, want := range map[float64]time.Duration{0: 1, 0.5: 50, 0.99: 99, 1: 100} {
		if got := Quantile(ds, q); got != want {
			t.Errorf("quantile %v = %d, want %d", q, got, want)
		}
	}
	if got := Quantile(nil, 0.5); got != 0 {
		t.Errorf("quantile of none = %v", got)
	}
}

func TestTheReportHasTheFormOfTheContract(t *testing.T) {
	compared := Row{Row: "mtls-pair-vs-h2", Unit: "µs", Title: "CPU", RatioTarget: true}.Of([]float64{10, 30, 20}).Against("peer", []float64{20, 20, 20}).Within(0.9)
	if *compared.Ours != 20 || *compared.Min != 10 || *compared.Max != 30 || *compared.Ratio != 1 || compared.Rounds != 3 {
		t.Errorf("row: %+v", compared)
	}
	r := Begin(t.Context(), "local")
	r.Rows = []Row{compared, {Row: "gone", Unit: "s", Title: "what is not here", Reason: "no such thing"}}
	path := filepath.Join(t.TempDir(), "results", "local.json")
	if err := r.writeJSON(path); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var form struct {
		Commit, Date, Machine string
		Rows                  []map[string]any
	}
	if err := json.Unmarshal(text, &form); err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{"row", "unit", "ours", "peer", "peer_name", "ratio", "rounds", "min", "max", "target"} {
		if _, ok := form.Rows[0][field]; !ok {
			t.Errorf("the row has no field %s", field)
		}
	}
	if form.Rows[1]["ours"] != nil || form.Rows[1]["reason"] != "no such thing" {
		t.Errorf("a row that was not measured: %v", form.Rows[1])
	}
	var table bytes.Buffer
	if err := r.table(&table); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| CPU (`mtls-pair-vs-h2`) | ratio ≤ 0.9 | 20 µs (10 – 30, 3) | 20 µs, ratio 1 (peer) |",
		"| what is not here (`gone`) | – | not measured: no such thing | – |",
	} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, table.String())
		}
	}
}

func TestOnlyWhatStandsBetweenTheMarkersIsReplaced(t *testing.T) {
	r := &Report{Name: "local"}
	begin, end := r.marks()
	got, err := r.between([]byte("a\n"+begin+"\nold\n"+end+"\nz\n"), []byte("new\n"))
	if want := "a\n" + begin + "\nnew\n" + end + "\nz\n"; err != nil || string(got) != want {
		t.Errorf("between = %q, %v; want %q", got, err, want)
	}
	for _, bad := range []string{"", begin, end + begin} {
		if _, err := r.between([]byte(bad), nil); err == nil {
			t.Errorf("between(%q): no error", bad)
		}
	}
}

// The document of this repository is one that each run can write into.
func TestTheDocumentHasMarkers(t *testing.T) {
	text, err := os.ReadFile("../../docs/benchmarks.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"local", "dataplane"} {
		r := &Report{Name: name}
		if _, err := r.between(text, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestThePlotIsOfTheRowsThatHaveARatio(t *testing.T) {
	r := Begin(t.Context(), "x")
	r.Rows = []Row{
		Row{Row: "dearer", RatioTarget: true}.Of([]float64{10, 30, 20}).Against("a peer", []float64{10, 10, 10}).Within(0.9),
		Row{Row: "alone"}.Of([]float64{1}),
	}
	svg := r.plot()
	if err := xml.Unmarshal([]byte(svg), new(struct{})); err != nil {
		t.Errorf("not well formed: %v", err)
	}
	if !strings.Contains(svg, ">dearer<") || strings.Contains(svg, ">alone<") || !strings.Contains(svg, ">2 (a peer)<") {
		t.Errorf("the picture is not that of the rows:\n%s", svg)
	}
	if lo, hi := r.Rows[0].ratioRange(); lo != 1 || hi != 3 {
		t.Errorf("range %v – %v, want 1 – 3", lo, hi)
	}
}

func TestThePlotOfTargetsIsOfTheRowsThatHaveOne(t *testing.T) {
	r := Begin(t.Context(), "x")
	r.PlotTargets = true
	r.Rows = []Row{
		Row{Row: "cheap", Unit: "ms"}.Of([]float64{10, 30, 20}).Against("a peer", []float64{40, 40, 40}).Within(40),
		Row{Row: "scales", RatioTarget: true}.Of([]float64{15}).Against("a tenth", []float64{10}).Within(1.25),
		Row{Row: "free"}.Of([]float64{1}),
	}
	svg := r.plot()
	if err := xml.Unmarshal([]byte(svg), new(struct{})); err != nil {
		t.Errorf("not well formed: %v", err)
	}
	if !strings.Contains(svg, ">20 of 40 ms; 0.5 of a peer<") || !strings.Contains(svg, ">1.5 of 1.25<") || strings.Contains(svg, ">free<") {
		t.Errorf("the picture is not that of the rows:\n%s", svg)
	}
	if bars := r.targetBars(); bars[0].value != 0.5 || bars[0].lo != 0.25 || bars[0].hi != 0.75 || bars[0].missed || bars[1].value != 1.2 || !bars[1].missed {
		t.Errorf("%+v", bars)
	}
}
