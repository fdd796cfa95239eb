package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// application serves as beApp does until the test ends.
func application(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return ln.Addr().String()
}

func clients(t *testing.T, n int) []*client {
	t.Helper()
	cs, err := dialAll(t.Context(), n, application(t), get("/", "x"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAll(cs) })
	return cs
}

func TestClosedLoopSendsAsManyAsAskedFor(t *testing.T) {
	cs := clients(t, 4)
	for _, total := range []int{1, 3, 1000} {
		if done, err := closedLoop(cs, total, time.Minute); done != total || err != nil {
			t.Errorf("closed loop of %d: %d done, %v", total, done, err)
		}
	}
}

func TestOpenLoopCountsEveryRequestThatWasMeant(t *testing.T) {
	cs := clients(t, 4)
	for range 2 { // connections outlive a turn
		took, err := openLoop(t.Context(), cs, 1000, 100*time.Millisecond)
		if err != nil || len(took) != 100 {
			t.Fatalf("%d requests, %v; want 100", len(took), err)
		}
		for _, d := range took {
			if d <= 0 || d > requestTimeout {
				t.Errorf("a request took %v", d)
			}
		}
	}
}

func TestOpenLoopEndsWithItsContext(t *testing.T) {
	cs := clients(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := openLoop(ctx, cs, 1000, time.Hour); err == nil {
		t.Error("no error of a loop that was told to stop")
	}
}

func TestAnswersAreUnderstood(t *testing.T) {
	for _, c := range []struct {
		head string
		want int
		bad  bool
	}{
		{"HTTP/1.1 200 OK\r\n", -1, false},
		{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", 43, false},
		{"HTTP/1.1 503 no\r\ncontent-length: 5\r\n\r\n", 0, true},
		{"HTTP/1.1 200 OK\r\n\r\n", 0, true},
		{"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", 0, true},
	} {
		got, err := answerLength([]byte(c.head))
		if c.bad != (err != nil) || !c.bad && got != c.want {
			t.Errorf("answerLength(%q) = %d, %v; want %d", c.head, got, err, c.want)
		}
	}
}

func TestProcIsRead(t *testing.T) {
	u, err := parseStat([]byte("7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 250 31 0 0 20 0 5 0 100 1 2\n"))
	if want := (usage{2500 * time.Millisecond, 310 * time.Millisecond}); err != nil || u != want {
		t.Errorf("parseStat = %v, %v; want %v", u, err, want)
	}
	for _, bad := range []string{"", "7 (a) S 1", "7 (a) S 1 7 7 0 -1 0 0 0 0 0 x 31 0", "7 (a) S 1 7 7 0 -1 0 0 0 0 0 1 y 0"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("parseStat(%q): no error", bad)
		}
	}
	if v, err := parseKiB("Rss:  12 kB\nPss:     4321 kB\n", "Pss"); v != 4321 || err != nil {
		t.Errorf("Pss = %v, %v; want 4321", v, err)
	}
	for _, bad := range []string{"", "Pss: 12\n", "Pss: x kB\n"} {
		if _, err := parseKiB(bad, "Pss"); err == nil {
			t.Errorf("parseKiB(%q): no error", bad)
		}
	}
	if pids, err := processes(filepath.Base(os.Args[0]) + "\x00no such argument"); len(pids) != 0 || err != nil {
		t.Errorf("processes = %v, %v; want none", pids, err)
	}
}

func TestMediansAndQuantiles(t *testing.T) {
	if got := median([]float64{3, 1, 2}); got != 2 {
		t.Errorf("median of three = %v, want 2", got)
	}
	if got := median([]float64{4, 1, 2, 3}); got != 2.5 {
		t.Errorf("median of four = %v, want 2.5", got)
	}
	var ds []time.Duration
	for i := 100; i > 0; i-- {
		ds = append(ds, time.Duration(i))
	}
	for q, want := range map[float64]time.Duration{0: 1, 0.5: 50, 0.99: 99, 1: 100} {
		if got := quantile(ds, q); got != want {
			t.Errorf("quantile %v = %d, want %d", q, got, want)
		}
	}
	if got := quantile(nil, 0.5); got != 0 {
		t.Errorf("quantile of none = %v", got)
	}
}

func TestTheReportHasTheFormOfTheContract(t *testing.T) {
	compared := row{Row: "mtls-pair-vs-h2", Unit: "µs", title: "CPU", ratioTarget: true}.of([]float64{10, 30, 20}).against("peer", []float64{20, 20, 20}).within(0.9)
	if *compared.Ours != 20 || *compared.Min != 10 || *compared.Max != 30 || *compared.Ratio != 1 || compared.Rounds != 3 {
		t.Errorf("row: %+v", compared)
	}
	r := newReport(t.Context(), time.Unix(0, 0), "1", "2", []row{compared, {Row: "gone", Unit: "s", title: "what is not here", Reason: "no such thing"}})
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
	got, err := between([]byte("a\n"+markBegin+"\nold\n"+markEnd+"\nz\n"), []byte("new\n"))
	if want := "a\n" + markBegin + "\nnew\n" + markEnd + "\nz\n"; err != nil || string(got) != want {
		t.Errorf("between = %q, %v; want %q", got, err, want)
	}
	for _, bad := range []string{"", markBegin, markEnd + markBegin} {
		if _, err := between([]byte(bad), nil); err == nil {
			t.Errorf("between(%q): no error", bad)
		}
	}
}

// The document of this repository is one that a run can write into.
func TestTheDocumentHasMarkers(t *testing.T) {
	text, err := os.ReadFile("../../docs/benchmarks.md")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := between(text, nil); err != nil {
		t.Error(err)
	}
}
