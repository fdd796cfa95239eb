package balance

import (
	"cmp"
	"math"
	"slices"
	"sync/atomic"
)

// pool is endpoints to draw from, with what drawing by weight needs: made when a view is made, so
// that a draw costs the same for ten as for a thousand.
type pool struct {
	endpoints []*Endpoint
	// weights and relative are nil when all are equal. relative is to the mean.
	weights  []uint32
	relative []float64
	alias    []alias
	// turns is the order of a weighted round robin, by index; nil is one after another.
	turns []uint16
	// counted is how many are out, in the low half, as of a number of changes, in the high one.
	counted atomic.Uint64
}

// out is how many are out or on trial. They are counted anew when that has changed.
func (p *pool) out(g *groupState) int {
	changes := uint64(g.changes.Load())
	if c := p.counted.Load(); c>>32 == changes {
		return int(uint32(c))
	}
	n := 0
	for _, e := range p.endpoints {
		if e.health.out.Load() != isIn {
			n++
		}
	}
	p.counted.Store(changes<<32 | uint64(n))
	return n
}

// alias is a cell of Walker's table, filled by Vose's method (IEEE Trans. Softw. Eng. 17(9), 1991):
// half the bits of a draw choose the cell, the others between the two endpoints in it.
type alias struct {
	// own is how much of [0, 2³²) is the cell's own endpoint; the rest is other's.
	own   uint32
	other uint32
}

func newPool(endpoints []*Endpoint, weights []uint32, turns bool) *pool {
	p := &pool{endpoints: endpoints}
	if len(weights) == 0 || !slices.ContainsFunc(weights, func(w uint32) bool { return w != weights[0] }) {
		return p
	}
	p.weights = weights
	var sum float64
	for _, w := range weights {
		sum += float64(w)
	}
	p.relative = make([]float64, len(weights))
	for i, w := range weights {
		p.relative[i] = float64(w) / sum * float64(len(weights))
	}
	p.alias = newAlias(p.relative)
	if turns {
		p.turns = newTurns(weights)
	}
	return p
}

// newAlias makes the table for weights whose mean is 1.
func newAlias(relative []float64) []alias {
	left := slices.Clone(relative)
	cells := make([]alias, len(left))
	var small, large []int
	for i, w := range left {
		cells[i] = alias{own: 1<<32 - 1, other: uint32(i)}
		if w < 1 {
			small = append(small, i)
		} else {
			large = append(large, i)
		}
	}
	for len(small) > 0 && len(large) > 0 {
		s, l := small[len(small)-1], large[len(large)-1]
		small = small[:len(small)-1]
		cells[s] = alias{own: uint32(left[s] * (1<<32 - 1)), other: uint32(l)}
		if left[l] -= 1 - left[s]; left[l] < 1 {
			large = large[:len(large)-1]
			small = append(small, l)
		}
	}
	return cells // what is left over is 1, but for rounding
}

// newTurns is the order in which endpoints have their turns: each as often as its weight says, at
// equal distances, so that a heavy one is not sent a burst; where each begins is spread by the golden
// ratio, so that those of equal weight do not come in a row. Weights whose sum is too long are
// rounded, and none below one turn.
func newTurns(weights []uint32) []uint16 {
	divisor, sum := uint64(0), uint64(0)
	for _, w := range weights {
		divisor, sum = gcd(uint64(w), divisor), sum+uint64(w)
	}
	length := max(turnsMax, 8*len(weights))
	scale := 1 / float64(divisor)
	if sum/divisor > uint64(length) {
		scale = float64(length) / float64(sum)
	}
	type turn struct {
		at float64
		of uint16
	}
	var order []turn
	for i, w := range weights {
		n := max(1, int(float64(w)*scale+0.5))
		_, begin := math.Modf(float64(i) * (math.Phi - 1))
		for k := range n {
			order = append(order, turn{(float64(k) + begin) / float64(n), uint16(i)})
		}
	}
	slices.SortFunc(order, func(a, b turn) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.of, b.of)) })
	out := make([]uint16, len(order))
	for i, t := range order {
		out[i] = t.of
	}
	return out
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// draw picks an index in proportion to weight.
func (p *pool) draw(bits uint64) int {
	i := below(uint32(bits>>32), len(p.endpoints))
	if p.alias == nil {
		return i
	}
	if c := &p.alias[i]; uint32(bits) > c.own {
		return int(c.other)
	}
	return i
}

// weight is that of the i-th, relative to the mean.
func (p *pool) weight(i int) float64 {
	if p.relative == nil {
		return 1
	}
	return p.relative[i]
}

// subset keeps the n < len(endpoints) that a proxy draws from, by rendezvous (Thaler and Ravishankar,
// IEEE/ACM ToN 6(1), 1998): each proxy its own, all about equally often, and a change of
// endpoints changes as little of it. Weights count inside a subset, not for getting into it.
func subset(proxy string, endpoints []*Endpoint, weights []uint32, n int) ([]*Endpoint, []uint32) {
	seed := mix(hashString(hashSeed, proxy))
	type ranked struct {
		rank uint64
		at   int
	}
	order := make([]ranked, len(endpoints))
	for i, e := range endpoints {
		order[i] = ranked{mix(seed ^ e.place), i}
	}
	slices.SortFunc(order, func(a, b ranked) int { return cmp.Compare(a.rank, b.rank) })
	order = order[:n]
	slices.SortFunc(order, func(a, b ranked) int { return cmp.Compare(a.at, b.at) })
	es, ws := make([]*Endpoint, n), make([]uint32, n)
	for i, o := range order {
		es[i], ws[i] = endpoints[o.at], weights[o.at]
	}
	return es, ws
}
