package split

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// drawProblem is a small problem: few kinds of numbers, so that clusters tie and starve.
func drawProblem(t *rapid.T, most int) *Problem {
	n := rapid.IntRange(1, most).Draw(t, "clusters")
	p := &Problem{Demand: make([]float64, n), Sinks: make([]Sink, n), Cost: make([]float64, n*n)}
	for i := range n {
		p.Demand[i] = rapid.SampledFrom([]float64{0, 1e-3, 100, 800, 1200, 2400, 9000}).Draw(t, "demand")
		p.Sinks[i] = Sink{Service: rapid.SampledFrom([]float64{0, 0.001, 0.02, 0.05, 0.12}).Draw(t, "service"),
			Lanes: rapid.SampledFrom([]float64{0, 1, 40, 40, 80}).Draw(t, "lanes"), Kappa: rapid.SampledFrom([]float64{0, 0.25, 1, 4}).Draw(t, "kappa")}
		for j := range n {
			if i != j {
				p.Cost[i*n+j] = rapid.SampledFrom([]float64{0, 0.001, 0.02, 0.06, 0.3, math.Inf(1)}).Draw(t, "cost")
			}
		}
	}
	return p
}

// exactly is the slow and plain way to the optimum: traffic of one source moves between two sinks, as
// much as helps, over and over. It has nothing of Solve's: no table, no level, no bracket.
func exactly(p *Problem) Flow {
	n := len(p.Sinks)
	f := make(Flow, len(p.Demand)*n)
	load := make([]float64, n)
	can := func(i, j int) bool { return p.Sinks[j].capacity() > 0 && !math.IsInf(p.Cost[i*n+j], 1) }
	for i, d := range p.Demand {
		for j := range n {
			if can(i, j) {
				f[i*n+j], load[j] = d, load[j]+d
				break
			}
		}
	}
	price := func(i, j int, more float64) float64 {
		k := &p.Sinks[j]
		return p.Cost[i*n+j] + k.Service*(1+k.kappa()*marginal((load[j]+more)/k.capacity()))
	}
	for range 500 {
		moved := exchange(p, f)
		for i := range p.Demand {
			for a := range n {
				for b := range n {
					if a == b || f[i*n+a] <= 0 || !can(i, b) || price(i, a, 0) <= price(i, b, 0) {
						continue
					}
					lo, hi := 0.0, f[i*n+a]
					for range 50 {
						if mid := (lo + hi) / 2; price(i, a, -mid) > price(i, b, mid) {
							lo = mid
						} else {
							hi = mid
						}
					}
					f[i*n+a], f[i*n+b] = f[i*n+a]-hi, f[i*n+b]+hi
					load[a], load[b] = load[a]-hi, load[b]+hi
					moved += hi
				}
			}
		}
		if moved < 1e-9 {
			break
		}
	}
	return f
}

// exchange lets two sources change places where that is cheaper for both together.
func exchange(p *Problem, f Flow) float64 {
	n, moved := len(p.Sinks), 0.0
	for i := range p.Demand {
		for k := range p.Demand {
			for a := range n {
				for b := range n {
					if v := min(f[i*n+a], f[k*n+b]); v > 0 && a != b && p.Cost[i*n+a]+p.Cost[k*n+b] > p.Cost[i*n+b]+p.Cost[k*n+a]+1e-9 {
						f[i*n+a], f[k*n+b], f[i*n+b], f[k*n+a] = f[i*n+a]-v, f[k*n+b]-v, f[i*n+b]+v, f[k*n+a]+v
						moved += v
					}
				}
			}
		}
	}
	return moved
}

// TestSolveIsLawful: what is asked for is sent, all of it, nothing is sent where it may not go, and
// nothing is negative.
func TestSolveIsLawful(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawProblem(t, 6)
		f, _ := Solve(p, nil)
		checkLawful(t, p, f)
	})
}

func checkLawful(t *rapid.T, p *Problem, f Flow) {
	n := len(p.Sinks)
	for i, d := range p.Demand {
		sum, ways := 0.0, 0
		for j := range n {
			v := f[i*n+j]
			may := p.Sinks[j].capacity() > 0 && !math.IsInf(p.Cost[i*n+j], 1)
			if may {
				ways++
			}
			if v < 0 || math.IsNaN(v) || v > 0 && !may {
				t.Fatalf("source %d sends %g to sink %d, allowed %v", i, v, j, may)
			}
			sum += v
		}
		if want := d * float64(min(ways, 1)); math.Abs(sum-want) > 1e-6*(1+d) {
			t.Fatalf("source %d sends %g of %g", i, sum, want)
		}
	}
}

// TestSolveIsOptimal beside the slow way, whatever it begins with.
func TestSolveIsOptimal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawProblem(t, 4)
		want := p.Objective(exactly(p))
		cold, coldRounds := Solve(p, nil)
		other, _ := Solve(drawSame(t, p), nil)
		warm, warmRounds := Solve(p, other)
		for what, f := range map[string]Flow{"cold": cold, "warm": warm} {
			if got := p.Objective(f); got > want*(1+4e-3)+1e-9 && max(coldRounds, warmRounds) < roundsMax || got > want*1.2+1e-9 {
				t.Fatalf("%s: costs %.9g, the optimum %.9g", what, got, want)
			}
		}
	})
}

// drawSame is another problem of the same size.
func drawSame(t *rapid.T, p *Problem) *Problem {
	q := *p
	q.Demand = make([]float64, len(p.Demand))
	for i := range q.Demand {
		q.Demand[i] = rapid.Float64Range(0, 5000).Draw(t, "other demand")
	}
	return &q
}

// TestNoSourceIsBetterOffElsewhere: what all sources would save by following today's marginal costs, which
// bounds the distance from the optimum from above, as the objective is convex (Frank and Wolfe, 1956).
func TestNoSourceIsBetterOffElsewhere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawProblem(t, 6)
		f, rounds := Solve(p, nil)
		if gap, cost := gapOf(p, f), p.Objective(f); gap > 4e-3*cost+1e-6 && rounds < roundsMax {
			t.Fatalf("at most %g above the optimum, of %g", gap, cost)
		}
	})
	for _, n := range []int{10, 50} {
		for seed := range uint64(5) {
			p := continents(n, seed)
			f, rounds := Solve(p, nil)
			if gap, cost := gapOf(p, f), p.Objective(f); gap > 4e-3*cost {
				t.Errorf("%d clusters, seed %d, %d rounds: at most %g above the optimum, of %g", n, seed, rounds, gap, cost)
			}
		}
	}
}

func gapOf(p *Problem, f Flow) float64 {
	gap := 0.0
	n := len(p.Sinks)
	load := make([]float64, n)
	for at, v := range f {
		load[at%n] += v
	}
	for i := range p.Demand {
		least, pays := math.Inf(1), 0.0
		for j := range n {
			k := &p.Sinks[j]
			if k.capacity() <= 0 || math.IsInf(p.Cost[i*n+j], 1) {
				continue
			}
			price := p.Cost[i*n+j] + k.Service*(1+k.kappa()*marginal(load[j]/k.capacity()))
			least = min(least, price)
			pays += f[i*n+j] * price
		}
		if !math.IsInf(least, 1) {
			gap += pays - p.Demand[i]*least
		}
	}
	return gap
}

// TestTableIsTheInverse over the whole of its range and beyond.
func TestTableIsTheInverse(t *testing.T) {
	for rho := 0.02; rho < 1.5; rho *= 1.013 {
		got, d := utilisation(marginal(rho))
		if math.Abs(got-rho) > 2e-4*rho+2e-5 || d < 0 {
			t.Errorf("utilisation of the marginal at %g is %g", rho, got)
		}
	}
	for rho := 0.05; rho < 1.2; rho += 0.0137 { // slope and marginal are derivatives
		const h = 1e-6
		if got := (wait(rho+h) - wait(rho-h)) / (2 * h); math.Abs(got-slope(rho)) > 1e-3*(1+slope(rho)) && math.Abs(rho-straightFrom) > h {
			t.Errorf("at %g: slope %g, want %g", rho, slope(rho), got)
		}
		if got := ((rho+h)*wait(rho+h) - (rho-h)*wait(rho-h)) / (2 * h); math.Abs(got-marginal(rho)) > 1e-3*(1+marginal(rho)) {
			t.Errorf("at %g: marginal %g, want %g", rho, marginal(rho), got)
		}
	}
}

// TestSolveIsDeterministic to the bit.
func TestSolveIsDeterministic(t *testing.T) {
	p := continents(50, 1)
	a, _ := Solve(p, nil)
	b, _ := Solve(p, nil)
	for i := range a {
		if math.Float64bits(a[i]) != math.Float64bits(b[i]) {
			t.Fatalf("flow %d is %g and %g", i, a[i], b[i])
		}
	}
}

// continents is n clusters around five centres, as the scenarios T10 and T50 have them.
func continents(n int, seed uint64) *Problem {
	r := rand.New(rand.NewPCG(seed, 0))
	p := &Problem{Demand: make([]float64, n), Sinks: make([]Sink, n), Cost: make([]float64, n*n)}
	type point struct{ x, y float64 }
	centres := []point{{0, 0}, {7, 1}, {12, -3}, {16, 2}, {3, -7}} // thousand km
	at := make([]point, n)
	sum := 0.0
	for i := range n {
		c := centres[i%5]
		at[i] = point{c.x + r.NormFloat64(), c.y + r.NormFloat64()}
		p.Demand[i] = math.Exp(0.5 * r.NormFloat64())
		sum += p.Demand[i]
		p.Sinks[i] = Sink{Service: 0.02, Lanes: 800}
	}
	for i := range n {
		p.Demand[i] *= 0.65 * 40_000 * float64(n) / sum
		for j := range n {
			if i != j {
				p.Cost[i*n+j] = 0.001 + 0.0156*math.Hypot(at[i].x-at[j].x, at[i].y-at[j].y)*(0.9+0.4*r.Float64())
			}
		}
	}
	return p
}

func BenchmarkSolve(b *testing.B) {
	for _, n := range []int{3, 10, 50} {
		p := continents(n, 1)
		b.Run(fmt.Sprintf("cold/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			rounds := 0
			for b.Loop() {
				_, rounds = Solve(p, nil)
			}
			b.ReportMetric(float64(rounds), "rounds")
		})
		b.Run(fmt.Sprintf("tick/%d", n), func(b *testing.B) { // two clusters are lost and come back
			first, _ := Solve(p, nil)
			q := *p
			q.Sinks = append([]Sink(nil), p.Sinks...)
			q.Sinks[0].Lanes, q.Sinks[1].Lanes = 0, 0
			second, _ := Solve(&q, first)
			rounds := 0
			b.ReportAllocs()
			for b.Loop() {
				_, a := Solve(&q, first)
				_, b := Solve(p, second)
				rounds += a + b
			}
			b.ReportMetric(float64(rounds)/float64(b.N)/2, "rounds")
		})
	}
}
