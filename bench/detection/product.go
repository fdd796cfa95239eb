package main

import (
	"slices"
	"sync"
	"time"
)

// row is what the product's own rule (liveness.Detector) does in a cell.
type row struct {
	Cell     string  `json:"cell"`
	Observer string  `json:"observer"`
	Fault    string  `json:"fault"`
	Hours    float64 `json:"hours"`
	Trips    int     `json:"trips"`
	Changes  float64 `json:"changesPerHour"`
	Dials    float64 `json:"dialsPerHour"`
	P50      float64 `json:"p50ms"`
	P99      float64 `json:"p99ms"`
	Max      float64 `json:"maxms"`
	Missed   int     `json:"missed"` // not found in 30 s
}

// drivenCell runs the product's rule over all seeds of a cell and a fault.
func drivenCell(g grid, c cell, f fault, watch observer) row {
	out := make([]outcome, g.seeds)
	var workers sync.WaitGroup
	for w := range g.workers {
		workers.Go(func() {
			for seed := w; seed < g.seeds; seed += g.workers {
				out[seed] = drive(c, f, watch, g.run, uint64(seed))
			}
		})
	}
	workers.Wait()
	r := row{Cell: c.String(), Observer: watch.String(), Fault: f.String(), Hours: float64(g.seeds) * g.run.Hours()}
	var detected []time.Duration
	for _, o := range out {
		r.Trips += o.trips
		r.Changes += float64(o.changes) / r.Hours
		r.Dials += float64(o.dials) / r.Hours
		if o.detected == never {
			r.Missed++
		}
		detected = append(detected, o.detected)
	}
	slices.Sort(detected)
	n := len(detected)
	r.P50, r.P99, r.Max = inMS(detected[n/2]), inMS(detected[n*99/100]), inMS(detected[n-1])
	return r
}

// driven runs the product's rule in every cell and, at 60 ms, under every fault and for
// every observer.
func driven(g grid, done func(row)) []row {
	var out []row
	add := func(c cell, f fault, w observer) {
		r := drivenCell(g, c, f, w)
		out = append(out, r)
		done(r)
	}
	for _, c := range g.cells() {
		add(c, blackHole, running)
		if c.shape.RTT != ms(60) || c.shape.Jitter > 0 || c.burst > 0 {
			continue
		}
		for _, f := range []fault{cutThere, cutBack, gatewayStopped} {
			add(c, f, running)
		}
		add(c, blackHole, stopped)
		add(c, blackHole, starved)
	}
	return out
}

func (o observer) String() string { return [...]string{"running", "stopped", "starved"}[o] }
