package orca

import (
	"math"
	"sync"
	"testing"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"google.golang.org/protobuf/encoding/protowire"
)

func head(fields ...string) *message.Head {
	h := &message.Head{}
	for i := 0; i < len(fields); i += 2 {
		h.Add(fields[i], fields[i+1])
	}
	return h
}

// TestReportsAreTakenOff answers, those too that are no good, and add up until they are read.
func TestReportsAreTakenOff(t *testing.T) {
	var g Gatherer
	for _, fields := range [][]string{
		{"content-type", "x", Field, "TEXT application_utilization=0.4,rps_fractional=100,eps=2"},
		{FieldBinary, base(busy(0.6)), "content-type", "x"},
		{Field, "TEXT application_utilization=1e99", "content-type", "x"},
		{Field, "TEXT application_utilization=0.1", "content-type", "x", FieldBinary, base(busy(0.9))}, // which of them?
		{Field, "TEXT mem_utilization=0.1", "content-type", "x"},
		{"content-type", "x"},
	} {
		h := head(fields...)
		left := 1
		if h.Get(FieldBinary) != nil { // is gRPC's own
			left++
		}
		if g.Head(h); len(h.Fields) != left || string(h.Get("content-type")) != "x" || h.Get(Field) != nil {
			t.Errorf("of %q there is left %q", fields, h.Fields)
		}
	}
	if got := g.Take(); got.Reports != 2 || math.Abs(got.Utilisation-0.5) > 1e-9 || got.RPS != 100 || got.EPS != 1 {
		t.Errorf("added up: %+v", got)
	}
	if got := g.Take(); got != (Window{}) {
		t.Errorf("and again: %+v", got)
	}
	if taken, ignored, without := g.taken.Load(), g.ignored.Load(), g.without.Load(); taken != 2 || ignored != 2 || without != 1 {
		t.Errorf("%d taken, %d ignored, %d without", taken, ignored, without)
	}
	trailers := head("grpc-status", "0", FieldBinary, base(busy(0.3))).Fields
	if got := g.Trailers(trailers, true); len(got) != 2 || string(got[1].Name) != FieldBinary {
		t.Errorf("of trailers there is left %q", got)
	}
	if got := g.Take(); got.Reports != 1 || got.Utilisation != 0.3 {
		t.Errorf("of a trailer: %+v", got)
	}
	texts := head(Field, "TEXT application_utilization=0.3", "grpc-status", "0").Fields
	if got := g.Trailers(texts, true); len(got) != 1 || string(got[0].Name) != "grpc-status" || len(texts) != 2 || string(texts[0].Name) != Field || g.Take().Reports != 1 {
		t.Errorf("of texts in trailers there is left %q, and of the engine's own %q", got, texts)
	}
	if got := g.Trailers(trailers, false); len(got) != 2 || g.Take() != (Window{}) {
		t.Errorf("of who is no application of ours: %q", got)
	}
}

// busy is a report in protobuf of so much.
func busy(utilisation float64) []byte {
	return report(map[protowire.Number]float64{application: utilisation}, nil)
}

// TestAnswersWithoutReportsCostNothing, and those with one no lock.
func TestAnswersWithoutReportsCostNothing(t *testing.T) {
	var g Gatherer
	h := head("content-type", "x", "date", "y", "endpoint-load-metricz", "z")
	trailers := head("grpc-status", "0").Fields
	if got := testing.AllocsPerRun(100, func() { g.Head(h); g.Trailers(trailers, true) }); got != 0 || len(h.Fields) != 3 {
		t.Errorf("%g allocations, %q left", got, h.Fields)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 1000 {
				g.Head(head(Field, "TEXT cpu_utilization=0.25"))
			}
		})
	}
	all.Wait()
	if got := g.Take(); got.Reports != 8000 || got.Utilisation != 0.25 {
		t.Errorf("8,000 reports at once: %+v", got)
	}
}
