package main

import (
	"slices"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/localmesh/link"
)

// point is what a rule with a margin does in a cell.
type point struct {
	Rule   string  `json:"rule"`
	Cell   string  `json:"cell"`
	Period string  `json:"period"`
	Margin float64 `json:"marginRTO"` // in RTOs
	Hours  float64 `json:"hours"`
	Trips  int     `json:"trips"`
	P50    float64 `json:"p50ms"`
	P99    float64 `json:"p99ms"`
	Max    float64 `json:"maxms"`
}

func (p point) perHour() float64 { return float64(p.Trips) / p.Hours }

// grid is what is swept.
type grid struct {
	losses, rtts []float64 // per cent, milliseconds
	margins      []float64 // RTOs
	periods      []time.Duration
	seeds        int
	run          time.Duration // of a seed, before the fault
	workers      int
}

func fullGrid(seeds int) grid {
	return grid{
		losses: []float64{0, 0.5, 1, 2, 5}, rtts: []float64{20, 60, 100, 250},
		margins: []float64{0.6, 0.8, 1.05, 1.25, 1.5, 1.75, 2.05, 2.5, 3.05, 3.5, 4.05, 6, 7.05},
		periods: []time.Duration{100 * time.Millisecond, 250 * time.Millisecond},
		seeds:   seeds, run: 10 * time.Minute, workers: 2,
	}
}

// cells are the grid's networks: independent losses without jitter, then at 60 ms
// jitter and losses in bursts.
func (g grid) cells() []cell {
	var out []cell
	for _, loss := range g.losses {
		for _, rtt := range g.rtts {
			out = append(out, cell{shape: link.Shape{RTT: ms(rtt), Loss: loss / 100}})
		}
	}
	for _, loss := range []float64{1, 5} {
		out = append(out,
			cell{shape: link.Shape{RTT: ms(60), Jitter: ms(30), Loss: loss / 100}},
			cell{shape: link.Shape{RTT: ms(60), Loss: loss / 100}, burst: ms(50)},
			cell{shape: link.Shape{RTT: ms(60), Loss: loss / 100}, burst: ms(200)})
	}
	return out
}

func ms(f float64) time.Duration { return time.Duration(f * float64(time.Millisecond)) }

func inMS(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// sweep measures every rule with every margin in every cell.
func sweep(g grid, done func(cell)) []point {
	var out []point
	for _, c := range g.cells() {
		for _, period := range g.periods {
			out = append(out, measure(g, c, period)...)
		}
		done(c)
	}
	return out
}

// tally is a point in the making.
type tally struct {
	trips    int
	detected []time.Duration
}

func measure(g grid, c cell, period time.Duration) []point {
	rs := rules()
	sums := make([]tally, len(rs)*len(g.margins))
	var mu sync.Mutex
	var workers sync.WaitGroup
	for w := range g.workers {
		workers.Go(func() {
			own := make([]tally, len(sums))
			for seed := w; seed < g.seeds; seed += g.workers {
				t := observe(c, fault(seed%int(faults)), 2, period, g.run, uint64(seed))
				for i, r := range rs {
					for j, m := range g.margins {
						margin := time.Duration(m * float64(t.rto))
						s := &own[i*len(g.margins)+j]
						s.trips += t.trips(r, margin)
						s.detected = append(s.detected, t.detected(r, margin))
					}
				}
			}
			mu.Lock()
			defer mu.Unlock()
			for i := range sums {
				sums[i].trips += own[i].trips
				sums[i].detected = append(sums[i].detected, own[i].detected...)
			}
		})
	}
	workers.Wait()
	var out []point
	for i, r := range rs {
		for j, m := range g.margins {
			s := sums[i*len(g.margins)+j]
			slices.Sort(s.detected)
			n := len(s.detected)
			out = append(out, point{Rule: r.name, Cell: c.String(), Period: period.String(), Margin: m,
				Hours: float64(n) * g.run.Hours(), Trips: s.trips,
				P50: inMS(s.detected[n/2]), P99: inMS(s.detected[n*99/100]), Max: inMS(s.detected[n-1])})
		}
	}
	return out
}
