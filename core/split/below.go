package split

import (
	"cmp"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Hops is how many calls deep what runs below a request is counted. Beyond, it costs nothing to whoever decides above; that
// ends the sums of services that call each other in a circle too.
const Hops = 4

const (
	// unserved is what a call costs that nobody lawful serves, in seconds.
	unserved = 1.0
	// withinMost is the part of a request's time that may be that of its calls: more is calls made at once.
	withinMost = 0.95
	// ratioFade and timeFade are the parts of what was counted that a tick leaves: how often something is called is a
	// matter of the application, how long that takes one of the minute, as the time in a lane is.
	ratioFade, timeFade = 0.98, 0.9
	// callsMax bounds the services that one service calls; fewer calls a request than callsLeast are forgotten.
	callsMax   = 128
	callsLeast = 1e-3
	// belowFades is how soon half of what a stale report says of its calls is forgotten.
	belowFades = 10 * time.Second
	// PriceMost is the most that the calls of a request cost, in seconds, and that it grows by: who answers one request a second and asks
	// for thousands by itself (a job, a timer) seems to make all of those for that one.
	PriceMost = 60.0
)

// Price is what one request more costs all from a cluster, in seconds: the way, what it takes and waits, and what others wait
// for it.
type Price struct {
	// Deep is the cost with h calls below the one who serves it counted at [h]; of the calls of a request, h+1 calls deep.
	Deep [Hops]float64
	// Grows is how much each of them grows with each request a second more.
	Grows [Hops]float64
}

// Call is what a service's endpoints call in a tick: Asked requests a second, of which Busy are under way on average.
type Call struct{ Asked, Busy float64 }

// Tree follows what a service calls where it runs. The zero Tree knows of no call.
type Tree struct {
	served, lately float64 // sums that fade: of all ticks that say how often, and of those that say how long
	calls          []called
	// serial is the part of the time of calls that is no other's of the same request; 0 is not known.
	serial float64
}

// called are the sums of one service's calls, sorted by it.
type called struct {
	service mesh.ServiceName
	Call
}

// Measured folds in a tick: what the endpoints answered, in requests a second, and what they called. Without requests
// there is nothing to learn, and nothing is forgotten.
func (t *Tree) Measured(served float64, calls map[mesh.ServiceName]Call) {
	if served <= 0 {
		return
	}
	t.served, t.lately = ratioFade*t.served+served, timeFade*t.lately+served
	for i := range t.calls {
		t.calls[i].Asked *= ratioFade
		t.calls[i].Busy *= timeFade
	}
	for n, c := range calls {
		i, known := slices.BinarySearchFunc(t.calls, n, func(c called, n mesh.ServiceName) int { return c.service.Compare(n) })
		switch {
		case known:
			t.calls[i].Asked += c.Asked
			t.calls[i].Busy += c.Busy
		case len(t.calls) < callsMax:
			t.calls = slices.Insert(t.calls, i, called{n, c})
		}
	}
	t.calls = slices.DeleteFunc(t.calls, func(c called) bool { return c.Asked < callsLeast*t.served })
}

// Cost is what the calls of one request cost now, and what they took while the time in a lane was measured that is given, in
// seconds; 0 is not known. Calls without a price count in neither.
func (t *Tree) Cost(inLane float64, price func(mesh.ServiceName) (Price, bool)) (b Price, within float64) {
	for _, c := range t.calls {
		p, known := price(c.service)
		if !known {
			continue
		}
		within += c.Busy / t.lately
		often := c.Asked / t.served
		for h := range b.Deep {
			b.Deep[h] += often * p.Deep[h]
			b.Grows[h] += often * often * p.Grows[h]
		}
	}
	if inLane > 0 && within > 0 {
		t.serial = min(1, withinMost*inLane/within)
		within *= t.serial
	} else {
		within = 0
	}
	for h := range b.Deep {
		b.Deep[h] = min(PriceMost, b.Deep[h]*cmp.Or(t.serial, 1))
		b.Grows[h] = min(PriceMost, b.Grows[h]*cmp.Or(t.serial, 1))
	}
	return b, within
}

// below is what a request costs below cluster j now, h calls deep, more than the time in a lane says, which holds what calls
// took when it was measured. What a stale report says fades: towards that time.
func (t *tick) below(j, h int) float64 {
	r := &t.Reports[j]
	if r.Age < 0 {
		return 0
	}
	v := -min(r.Within, r.Service)
	if h > 0 {
		v += r.Below.Deep[h-1]
	}
	if r.Age > StaleAfter {
		v /= 1 + float64(r.Age-StaleAfter)/float64(belowFades)
	}
	return v
}

// pace is how far a step may go where calls below cost more the more is sent, as a part of the way to where the least cost is:
// what is measured is old by some ticks, and who calls may be called in turn. share is the part of that growth that is not
// of one place which is called from both ends of a move. With pace 0.08, 0.25 and 0.5 and shares of 1 and 0.3, the mean of t4-tree is
// 56.9, 51.0, 53.3 (1) and 50.7 ms (0.25, 0.3), that of the optimum 49.2; by mean prices in place of marginal ones 53.7.
const (
	pace  = 0.25
	share = 0.3
)

// bend is what the calls of requests that move to the flow best cost all beyond what today's prices say, in seconds a
// second, were all of them to move.
func (t *tick) bend(now, best Flow) (sum float64) {
	for j := range t.n {
		moved := 0.0
		for i := range t.n {
			moved += best[i*t.n+j] - now[i*t.n+j]
		}
		sum += t.Reports[j].Below.Grows[Hops-1] * moved * moved / 2
	}
	return share * sum
}

// caution limits a step to a flow of which so much is gained by today's prices: reach is the part of the way where the least
// cost is, and saved what is saved there.
func caution(gained, bend float64) (reach, saved float64) {
	if bend <= 0 || gained <= 0 {
		return 1, gained
	}
	reach = min(1, gained/(2*bend))
	return reach, reach*gained - reach*reach*bend
}

// prices follows what a request more costs all from everywhere, with the split in force.
func (t *tick) prices(load []float64) {
	for i := range t.n {
		var now Price
		sum := 0.0
		for j, x := range t.next.Row(i) {
			if x <= 0 || !t.usable(i, j) {
				continue
			}
			sum += x
			s := &t.problem.Sinks[j]
			rho := load[j] / s.capacity()
			own := t.bare[i*t.n+j] + s.Service*(1+s.kappa()*lookMarginal(rho))
			grows := s.Service * s.kappa() * bent(rho) / s.capacity()
			for h := range now.Deep {
				now.Deep[h] += x * (own + t.below(j, h))
				if now.Grows[h] += x * x * grows; h > 0 {
					now.Grows[h] += x * x * t.Reports[j].Below.Grows[h-1]
				}
			}
		}
		was := &t.next.Price[i]
		for h := range now.Deep {
			if now.Deep[h] += (1 - min(sum, 1)) * unserved; !t.fresh {
				now.Deep[h] = was.Deep[h] + Damping*(now.Deep[h]-was.Deep[h])
			}
		}
		t.next.Price[i] = now
	}
}

// bent is the derivative of marginal, over a hundredth.
func bent(rho float64) float64 { return (lookMarginal(rho+0.01) - lookMarginal(rho)) / 0.01 }
