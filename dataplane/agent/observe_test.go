package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/mesh"
)

func TestAccessLogSaysWhyAndIsBounded(t *testing.T) {
	var out bytes.Buffer
	o := newObserver(&Config{ID: "shop/frontend"}, slog.New(slog.DiscardHandler), &Options{AccessLog: &out})
	over, end := context.WithCancel(t.Context())
	end()
	lines := func() int {
		_ = o.lines.Run(over) // writes what there is
		return strings.Count(out.String(), "\n")
	}
	at := time.Unix(1000, 0)
	o.done(&proxy.Record{Start: at, Status: 200})
	if lines() != 0 {
		t.Errorf("a request that was served was logged: %s", out.String())
	}
	for range 3 * linesMax {
		o.done(&proxy.Record{Start: at, Status: 403, Reason: mesh.ReasonDenied, Path: []byte("/admin"), Detail: "a Deny rule matches"})
	}
	if n := lines(); n != linesMax {
		t.Errorf("%d lines in a second, want %d", n, linesMax)
	}
	var line map[string]any
	first, _, _ := strings.Cut(out.String(), "\n")
	if err := json.Unmarshal([]byte(first), &line); err != nil {
		t.Fatal(err)
	}
	if line["reason"] != "access_denied" || line["path"] != "/admin" || line["status"] != 403.0 {
		t.Errorf("the line says %v", line)
	}
	o.done(&proxy.Record{Start: at.Add(time.Second), Status: 502, Reason: mesh.ReasonReset})
	if n := lines(); n != linesMax+1 {
		t.Errorf("%d lines: the next second has room again", n)
	}
}

func TestAccessLogFollowsTheConfiguration(t *testing.T) {
	for name, c := range map[string]struct {
		told mesh.Telemetry
		want func(out string) bool
	}{
		"a tenth, in text": {mesh.Telemetry{AccessLog: "Text", LogSampleMilliPercent: 10_000}, func(out string) bool {
			return strings.Count(out, "\n") == 101 && strings.Count(out, " 502 upstream_reset ") == 1 && !strings.Contains(out, "{")
		}},
		"all, in JSON": {mesh.Telemetry{AccessLog: "JSON", LogSampleMilliPercent: 100_000}, func(out string) bool {
			return strings.Count(out, "\n") == 1001 && strings.HasPrefix(out, "{")
		}},
		"off": {mesh.Telemetry{AccessLog: "Off", LogSampleMilliPercent: 100_000}, func(out string) bool { return out == "" }},
	} {
		var out bytes.Buffer
		o := newObserver(&Config{ID: "shop/frontend"}, slog.New(slog.DiscardHandler), &Options{AccessLog: &out})
		o.reporting.Store(&reporting{Telemetry: c.told})
		var n uint64
		o.rand = func() uint64 { n += 100; return n } // every share exactly
		for range 1000 {
			o.done(&proxy.Record{Start: time.Unix(1000, 0), Status: 200})
		}
		o.done(&proxy.Record{Start: time.Unix(1000, 0), Status: 502, Reason: mesh.ReasonReset})
		over, end := context.WithCancel(t.Context())
		end()
		_ = o.lines.Run(over)
		if !c.want(out.String()) {
			t.Errorf("%s: %d lines, the first %q", name, strings.Count(out.String(), "\n"), strings.SplitN(out.String(), "\n", 2)[0])
		}
	}
}

func TestTellingNothingAllocatesNothing(t *testing.T) {
	o := newObserver(&Config{ID: "shop/frontend", TrustDomain: "eu-west.isthmus.local"}, slog.New(slog.DiscardHandler), &Options{})
	r := &proxy.Record{Start: time.Unix(1000, 0), Status: 200}
	o.done(r)
	if n := testing.AllocsPerRun(100, func() { o.done(r) }); n != 0 {
		t.Errorf("%v allocations a request, want 0", n)
	}
}
