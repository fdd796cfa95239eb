package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/bench/report"
)

func TestHelloAsksForItsServerName(t *testing.T) {
	const name = "0.pass.bench.eu-west.isthmus.local"
	first, err := hello(name)
	if err != nil {
		t.Fatal(err)
	}
	// RFC 8446 §5.1 and §4: one record of a handshake, which is a ClientHello.
	if len(first) < 6 || first[0] != 22 || first[5] != 1 || !bytes.Contains(first, []byte(name)) {
		t.Errorf("hello begins %x and has the name: %v", first[:min(6, len(first))], bytes.Contains(first, []byte(name)))
	}
}

func TestARowIsHeldAgainstTheCheaperPeerThatAnswered(t *testing.T) {
	b := &bench{Report: report.Begin(t.Context(), "x")}
	ours, dear, cheap, gone := &way{name: "ours"}, &way{name: "dear"}, &way{name: "cheap"}, &way{name: "gone", missing: "gone does not run"}
	r := report.Row{Row: "x", Unit: "µs"}
	got := b.compare(r.Of([]float64{10}), []*way{ours, dear, cheap, gone}, [][]float64{{10}, {40}, {20}, nil}, false)
	if got.Ratio == nil || *got.Ratio != 0.5 || got.PeerName != "cheap; dear: 40 µs" {
		t.Errorf("row: %s", got)
	}
	got = b.compare(r.Of([]float64{10}), []*way{ours, gone}, [][]float64{{10}, nil}, false)
	if got.Ratio != nil || !strings.Contains(got.Reason, "gone does not run") {
		t.Errorf("row without a peer: %s", got)
	}
	got = b.compare(r.Of([]float64{10}), []*way{ours, {name: "old"}, cheap}, [][]float64{{10}, {1}, {20}}, true)
	if got.Ratio == nil || *got.Ratio != 0.5 {
		t.Errorf("the baseline is no peer: %s", got)
	}
}
