package split

import "math"

// Sink is a cluster as one that serves. All numbers are finite and not negative.
type Sink struct {
	// Service is the time of one request in a lane, in seconds; Lanes how many it has, in effect. A
	// sink without lanes, or without a service time, takes nothing.
	Service, Lanes float64
	// Kappa corrects the queue's model; 0 counts as 1.
	Kappa float64
}

// capacity is what it serves at utilisation 1, in requests a second.
func (s *Sink) capacity() float64 {
	if s.Service <= 0 {
		return 0
	}
	return s.Lanes / s.Service
}

func (s *Sink) kappa() float64 {
	if s.Kappa <= 0 {
		return 1
	}
	return s.Kappa
}

// Problem is one instant of one service and class.
type Problem struct {
	// Demand is what each source asks for, in requests a second.
	Demand []float64
	Sinks  []Sink
	// Cost of a request from source i to sink j is Cost[i·len(Sinks)+j], in seconds; +Inf is forbidden.
	Cost []float64
}

// Flow is an answer: requests a second from source i to sink j at [i·sinks+j]. A source that may use no
// sink has a row of zeros.
type Flow []float64

const (
	roundsMax = 200
	// closeEnough to the optimum ends the search, as a part of the objective.
	closeEnough = 2e-3
	// contentWith is the part by which two ways may differ in cost before a source moves.
	contentWith = 1e-4
	// swapEvery rounds, exchanges are looked for: they cost as much as ten rounds.
	swapEvery = 8
	// swapGain is what an exchange must save a request, in seconds.
	swapGain = 1e-7
	// levelsMax bounds the search for one source's level; Newton's method takes about five.
	levelsMax = 64
)

// solver holds what a search works with.
type solver struct {
	*Problem
	n         int
	flow      Flow
	load      []float64 // Λ
	level     []float64 // μ of each source, where it stood last
	capacity  []float64
	scale     []float64 // κ·s
	candidate []int
	price     []float64
}

// Solve finds the optimum. It begins at warm, a flow of any demand, where that is not nil, and returns how
// many rounds it took. Wherever it began, the answer costs the same within closeEnough,
// unless it took roundsMax: far beyond saturation every step is small, and it is a few percent off.
func Solve(p *Problem, warm Flow) (Flow, int) {
	s := &solver{Problem: p, n: len(p.Sinks)}
	s.flow = make(Flow, len(p.Demand)*s.n)
	s.load, s.level = make([]float64, s.n), make([]float64, len(p.Demand))
	s.capacity, s.scale = make([]float64, s.n), make([]float64, s.n)
	s.candidate, s.price = make([]int, 0, s.n), make([]float64, s.n)
	for j := range p.Sinks {
		s.capacity[j] = p.Sinks[j].capacity()
		s.scale[j] = p.Sinks[j].kappa() * p.Sinks[j].Service
	}
	for i := range p.Demand {
		s.begin(i, warm)
	}
	for round := range roundsMax {
		for i := range p.Demand {
			s.fill(i)
		}
		if round%swapEvery == swapEvery-1 {
			s.swap()
		}
		if gap, pays := s.gap(); gap <= closeEnough*pays && gap <= closeEnough*p.Objective(s.flow) {
			return s.flow, round + 1
		}
	}
	return s.flow, roundsMax
}

// gap bounds how far from the optimum the flow is: what all sources would save at today's marginal costs
// (Frank and Wolfe, Nav. Res. Logist. Q. 3, 1956). What they pay at these is more than the objective.
func (s *solver) gap() (gap, all float64) {
	for j := range s.price {
		s.price[j] = math.Inf(1)
		if s.capacity[j] > 0 {
			s.price[j] = s.Sinks[j].Service + s.scale[j]*lookMarginal(s.load[j]/s.capacity[j])
		}
	}
	for i, d := range s.Demand {
		row, ways := s.flow[i*s.n:(i+1)*s.n], s.Cost[i*s.n:(i+1)*s.n]
		least, pays, sum := math.Inf(1), 0.0, 0.0
		for j, f := range row {
			p := ways[j] + s.price[j]
			least = min(least, p)
			if f > 0 {
				pays += f * p
				sum += f
			}
		}
		if sum > 0 {
			gap += max(0, pays-d*least)
			all += pays
		}
	}
	return gap, all
}

// usable reports whether source i may send to sink j at all.
func (s *solver) usable(i, j int) bool {
	return s.capacity[j] > 0 && !math.IsInf(s.Cost[i*s.n+j], 1)
}

// begin puts source i's demand where warm had it, as far as it may be there.
func (s *solver) begin(i int, warm Flow) {
	row := s.flow[i*s.n : (i+1)*s.n]
	if len(warm) != len(s.flow) {
		return // fill does the rest: others' loads are what it answers to
	}
	sum := 0.0
	for j := range row {
		if s.usable(i, j) {
			sum += warm[i*s.n+j]
		}
	}
	if sum <= 0 {
		return
	}
	for j := range row {
		if s.usable(i, j) {
			row[j] = warm[i*s.n+j] / sum * s.Demand[i]
			s.load[j] += row[j]
		}
	}
}

// fill gives source i its best answer to what the others send.
func (s *solver) fill(i int) {
	row, cost := s.flow[i*s.n:(i+1)*s.n], s.Cost[i*s.n:(i+1)*s.n]
	if s.content(row, cost) {
		return
	}
	for j, f := range row {
		s.load[j] = max(0, s.load[j]-f)
	}
	clear(row)
	if s.Demand[i] > 0 {
		if lo, hi := s.bracket(i, cost); len(s.candidate) > 0 {
			s.level[i] = s.root(i, cost, lo, hi)
			s.pour(i, row, cost)
		}
	}
	for j, f := range row {
		s.load[j] += f
	}
}

// content reports whether a source that sends all it has would gain next to nothing by moving.
func (s *solver) content(row, cost []float64) bool {
	least, most := math.Inf(1), 0.0
	for j, c := range cost {
		if s.capacity[j] <= 0 || c >= least { // c alone is more already
			if row[j] > 0 {
				return false
			}
			continue
		}
		price := c + s.Sinks[j].Service + s.scale[j]*lookMarginal(s.load[j]/s.capacity[j])
		least = min(least, price)
		if row[j] > 0 {
			most = max(most, price)
		}
	}
	return most > 0 && most <= least*(1+contentWith)
}

// pour fills the candidates up to the level; what rounding left over goes with the rest.
func (s *solver) pour(i int, row, cost []float64) {
	sum := 0.0
	for _, j := range s.candidate {
		row[j], _ = s.answer(j, s.level[i]-cost[j])
		sum += row[j]
	}
	if sum <= 0 { // next to no demand: where it would go first
		row[s.candidate[0]] = s.Demand[i]
		return
	}
	for _, j := range s.candidate {
		row[j] *= s.Demand[i] / sum
	}
}

// swap lets pairs of sources exchange sinks where both together pay less for the ways: what each alone
// would do in many small steps, as the first step makes the sink dearer and the other's answer undoes it.
// Loads stay as they are.
func (s *solver) swap() {
	for i := range s.Demand {
		for a := range s.n {
			if s.flow[i*s.n+a] > 0 {
				s.swapWith(i, a)
			}
		}
	}
}

// swapWith exchanges what source i sends to sink a.
func (s *solver) swapWith(i, a int) {
	mine := s.Cost[i*s.n : (i+1)*s.n]
	for k := i + 1; k < len(s.Demand); k++ {
		theirs, flow := s.Cost[k*s.n:(k+1)*s.n], s.flow[k*s.n:(k+1)*s.n]
		if math.IsInf(theirs[a], 1) {
			continue
		}
		for b, f := range flow {
			if f <= 0 || b == a || mine[a]+theirs[b]-mine[b]-theirs[a] <= swapGain || s.flow[i*s.n+a] <= 0 {
				continue
			}
			v := min(f, s.flow[i*s.n+a])
			s.flow[i*s.n+a] -= v
			s.flow[i*s.n+b] += v
			flow[b] -= v
			flow[a] += v
		}
	}
}

// bracket finds levels between which source i's lies, and the sinks that may be part of the answer.
func (s *solver) bracket(i int, cost []float64) (lo, hi float64) {
	lo, hi = math.Inf(1), math.Inf(1)
	s.candidate = s.candidate[:0]
	for j, c := range cost {
		if !s.usable(i, j) || c >= hi {
			continue
		}
		base := c + s.Sinks[j].Service
		hi = min(hi, base+s.scale[j]*lookMarginal((s.load[j]+s.Demand[i])/s.capacity[j]))
	}
	hi += hi * 1e-2 // the tables are straight between their points
	for j, c := range cost {
		if !s.usable(i, j) || c >= hi {
			continue
		}
		base := c + s.Sinks[j].Service + s.scale[j]*lookMarginal(s.load[j]/s.capacity[j])
		if base > hi {
			continue
		}
		s.candidate = append(s.candidate, j)
		if base < lo { // the cheapest stands first
			lo = base
			k := len(s.candidate) - 1
			s.candidate[0], s.candidate[k] = s.candidate[k], s.candidate[0]
		}
	}
	return lo * (1 - 1e-2), hi
}

// answer is what a source sends to sink j at a level, less what it costs to get there, and how that grows.
func (s *solver) answer(j int, level float64) (flow, derivative float64) {
	rho, d := utilisation((level - s.Sinks[j].Service) / s.scale[j])
	if flow = rho*s.capacity[j] - s.load[j]; flow <= 0 {
		return 0, 0
	}
	return flow, d * s.capacity[j] / s.scale[j]
}

// root finds the level at which source i's answers sum to its demand.
func (s *solver) root(i int, cost []float64, lo, hi float64) float64 {
	mu := s.level[i]
	if mu <= lo || mu >= hi {
		mu = (lo + hi) / 2
	}
	want := s.Demand[i]
	for range levelsMax {
		sum, grows := 0.0, 0.0
		for _, j := range s.candidate {
			f, d := s.answer(j, mu-cost[j])
			sum, grows = sum+f, grows+d
		}
		over := sum - want
		if math.Abs(over) <= 1e-6*want || hi-lo <= 1e-15 {
			break
		}
		if over > 0 {
			hi = mu
		} else {
			lo = mu
		}
		next := (lo + hi) / 2
		if grows > 0 {
			if n := mu - over/grows; n > lo && n < hi {
				next = n
			}
		}
		mu = next
	}
	return mu
}

// Objective is what a flow costs, in seconds a second: requests that are under way or wait, by Little's law,
// and the price of their ways. What has no way costs nothing.
func (p *Problem) Objective(f Flow) float64 {
	n, sum := len(p.Sinks), 0.0
	for j := range p.Sinks {
		load := 0.0
		for i := range p.Demand {
			if v := f[i*n+j]; v > 0 {
				load += v
				sum += v * p.Cost[i*n+j]
			}
		}
		if load > 0 {
			k := &p.Sinks[j]
			sum += load * k.Service * (1 + k.kappa()*wait(load/k.capacity()))
		}
	}
	return sum
}
