package split

import "math"

// The constants of the control loop, starting values of the design; a change needs every scenario of
// the simulator no worse.
const (
	// servers is m of Sakasegawa's formula: how many lanes share one queue, in effect. A cluster has many
	// more, but they stand behind endpoints that are chosen between with old news.
	servers = 8
	// straightFrom is the utilisation beyond which the wait grows along its tangent.
	straightFrom = 0.98
	// KappaRate is how fast κ follows what is measured, KappaMin and KappaMax what it is clipped to, and
	// kappaBusy the utilisation below which waits say nothing.
	KappaRate = 0.1
	KappaMin  = 0.25
	KappaMax  = 4.0
	kappaBusy = 0.3
	// Damping is the part of the way to the optimum that one tick goes, MoveMax the most of a source's
	// traffic that it moves, GainMin the predicted gain below which it stays.
	Damping = 0.5
	MoveMax = 0.15
	GainMin = 0.01
	// Full is the utilisation up to which a sink takes what is not its own.
	Full = 0.95
	// smallest is the share of a source below which it sends a cluster nothing: a thin flow keeps
	// connections and measurements up for no gain.
	smallest = 0.002
)

// exponent is √(2(m+1))−1 (Sakasegawa, Ann. Inst. Statist. Math. 29, 1977).
var exponent = math.Sqrt(2*(servers+1)) - 1

// wait is the time in the queue over the service time, at utilisation ρ.
func wait(rho float64) float64 {
	if rho <= 0 {
		return 0
	}
	if rho > straightFrom {
		return wait(straightFrom) + slope(straightFrom)*(rho-straightFrom)
	}
	return math.Pow(rho, exponent) / (servers * (1 - rho))
}

// slope is the derivative of wait.
func slope(rho float64) float64 {
	if rho <= 0 {
		return 0
	}
	rho = min(rho, straightFrom)
	return math.Pow(rho, exponent) / (servers * (1 - rho)) * (exponent/rho + 1/(1-rho))
}

// marginal is d(ρ·wait)/dρ: what one request more costs all, over κ·s.
func marginal(rho float64) float64 { return wait(rho) + max(rho, 0)*slope(rho) }

// inverse is the table of marginal's inverse, piecewise linear between points whose logarithms are
// about even: octaves of the argument in tableSteps parts, from 2^tableLow to 2^tableHigh. The same table
// serves all sinks.
var inverse = newInverse()

const (
	tableLow, tableHigh = -24, 9
	tableBits           = 6 // 64 parts an octave: 10⁻⁵ of the utilisation
	tableSteps          = 1 << tableBits
	tableSize           = (tableHigh-tableLow)*tableSteps + 1
	tableFirst          = uint64(tableLow+1023) << tableBits
)

func newInverse() *[tableSize]float64 {
	var t [tableSize]float64
	for i := range t {
		t[i] = solveMarginal(tablePoint(i))
	}
	return &t
}

// forward is the table of marginal, straight between even points up to straightFrom.
var forward = newForward()

const forwardSize = 4096

func newForward() *[forwardSize + 1]float64 {
	var t [forwardSize + 1]float64
	for i := range t {
		t[i] = marginal(straightFrom * float64(i) / forwardSize)
	}
	return &t
}

// Marginal is what one request more costs all who wait for a sink, over its service time, where it is used to that part.
func Marginal(rho float64) float64 { return lookMarginal(rho) }

// lookMarginal is marginal from the table, within a part in a thousand.
func lookMarginal(rho float64) float64 {
	if rho >= straightFrom {
		return forward[forwardSize] + 2*straightSlope*(rho-straightFrom)
	}
	at := max(rho, 0) * (forwardSize / straightFrom)
	i := int(at)
	return forward[i] + (forward[i+1]-forward[i])*(at-float64(i))
}

var straightSlope = slope(straightFrom)

func tablePoint(i int) float64 {
	return math.Float64frombits((tableFirst + uint64(i)) << (52 - tableBits))
}

// solveMarginal finds the utilisation of a marginal by bisection.
func solveMarginal(y float64) float64 {
	lo, hi := 0.0, 8.0
	for range 60 {
		if mid := (lo + hi) / 2; marginal(mid) < y {
			lo = mid
		} else {
			hi = mid
		}
	}
	return (lo + hi) / 2
}

// utilisation is marginal's inverse, and its derivative.
func utilisation(y float64) (rho, derivative float64) {
	if y <= 0 {
		return 0, 0
	}
	at := math.Float64bits(y)>>(52-tableBits) - tableFirst
	switch {
	case int64(at) < 0:
		d := inverse[0] / tablePoint(0)
		return y * d, d
	case at >= tableSize-1:
		d := 1 / (2 * straightSlope)
		last := tablePoint(tableSize - 1)
		return inverse[tableSize-1] + (y-last)*d, d
	}
	low, high := tablePoint(int(at)), tablePoint(int(at)+1)
	d := (inverse[at+1] - inverse[at]) / (high - low)
	return inverse[at] + (y-low)*d, d
}
