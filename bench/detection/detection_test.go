package main

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/localmesh/link"
)

// TestTheModelIsThatOfTheLink: independent losses delay a question as localmesh/link, which
// the confirmation runs over, delays it.
func TestTheModelIsThatOfTheLink(t *testing.T) {
	shape := link.Shape{RTT: ms(60), Loss: 0.05}
	const questions = 200_000
	var ours, theirs [4]int // by how many timers the answer was late
	class := func(late time.Duration) int {
		return min(3, int(math.Round(float64(late)/float64(shape.RTO()))))
	}
	n := newNetwork(cell{shape: shape}, blackHole, never, 1)
	there, back := link.NewPath(shape, 1), link.NewPath(shape, 2)
	for i := range questions {
		now := time.Duration(i) * time.Second
		ours[class(n.connection().ask(now)-now-shape.RTT)]++
		var f, g link.Flow
		at, _ := there.Send(&f, now, 17)
		at, _ = back.Send(&g, at, 17)
		theirs[class(at-now-shape.RTT)]++
	}
	for i := range ours {
		if a, b := float64(ours[i]), float64(theirs[i]); math.Abs(a-b) > 5*math.Sqrt(a+b) {
			t.Errorf("late by %d timers: %d of %d questions here, %d over the link", i, ours[i], questions, theirs[i])
		}
	}
}

func TestABurstLosesAsMuchAsItSays(t *testing.T) {
	const hour = time.Hour
	n := newNetwork(cell{shape: link.Shape{RTT: ms(60), Loss: 0.05}, burst: ms(50)}, blackHole, hour, 1)
	w := way{net: n}
	lost, all := 0, 0
	for at := time.Duration(0); at < hour; at += 10 * time.Millisecond {
		all++
		if w.lost(at) {
			lost++
		}
	}
	if got := float64(lost) / float64(all); got < 0.045 || got > 0.055 {
		t.Errorf("%.4f of segments are lost, want 0.05", got)
	}
}

func TestTheProductKeepsItsTargets(t *testing.T) {
	g := grid{seeds: 24, run: 5 * time.Minute, workers: 2}
	for _, c := range []struct {
		cell    cell
		found   float64 // ms
		perHour float64
	}{
		{cell{shape: link.Shape{RTT: ms(20), Loss: 0.01}}, 1000, 0},
		{cell{shape: link.Shape{RTT: ms(60), Loss: 0.01}}, 1000, 0},
		{cell{shape: link.Shape{RTT: ms(250), Loss: 0.01}}, 1500, 0},
		{cell{shape: link.Shape{RTT: ms(60), Loss: 0.05}}, 3000, 1},
		{cell{shape: link.Shape{RTT: ms(60), Jitter: ms(30), Loss: 0.01}}, 1000, 0},
	} {
		for f := range faults {
			r := drivenCell(g, c.cell, f, running)
			if r.Missed > 0 || r.Max > c.found || float64(r.Trips)/r.Hours > c.perHour {
				t.Errorf("%v, %v: found after at most %.0f ms (%d missed), %d false trips in %.0f hours; want at most %.0f ms and %g an hour",
					c.cell, f, r.Max, r.Missed, r.Trips, r.Hours, c.found, c.perHour)
			}
		}
		for _, w := range []observer{stopped, starved} {
			if r := drivenCell(g, c.cell, blackHole, w); r.Missed > 0 || float64(r.Trips)/r.Hours > c.perHour {
				t.Errorf("%v, observer %v: %d false trips in %.0f hours, %d faults missed", c.cell, w, r.Trips, r.Hours, r.Missed)
			}
		}
	}
}

func TestTheFigureIsXMLAndReproducible(t *testing.T) {
	g := grid{losses: []float64{0, 5}, rtts: []float64{60}, margins: []float64{1.05, 3.05}, periods: []time.Duration{plotted}, seeds: 8, run: time.Minute, workers: 1}
	draw := func(workers int) string {
		g.workers = workers
		return plot(g, sweep(g, func(cell) {}), driven(g, func(row) {}))
	}
	one := draw(1)
	if one != draw(2) {
		t.Error("two workers draw another figure than one")
	}
	for d := xml.NewDecoder(strings.NewReader(one)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if strings.Count(one, "<polyline") != 2*len(rules()) || strings.Count(one, "<circle") != 1 {
		t.Error("a curve or the product's ring is missing")
	}
}
