package traffic

import (
	"math"

	"github.com/isthmus-mesh/isthmus/core/split"
)

// steps of Frank and Wolfe's method: the flow is then within a few parts in a thousand of the optimum.
const steps = 1500

// treeFlow is a flow through all services of a tree, and what one request more costs at each point of it.
type treeFlow struct {
	tiers []*world
	n     int
	// x and best are by tier: requests a second from region i to region j at [i·n+j]. Of best, each goes the cheapest way.
	x, best [][]float64
	// capacity and service are by tier and region; way is what getting from i to j costs, in seconds, +Inf where nothing may go.
	capacity, service [][]float64
	way               []float64
	// down is what a request of a region to a tier costs with all that it calls, and choice the region that it then goes to.
	down   [][]float64
	choice [][]int
}

// solveTree finds the flow that costs least through all services together, for the true rates, times and lanes: ways, times
// in lanes and waits before them, by the queue that the product's split reckons with. The whole is one convex problem,
// though the product solves it service by service. That lanes are held while calls last is not in it: it is for trees whose
// lanes above the last service are ample. What does not fit into any region waits along the tangent, as in core/split.
func solveTree(tiers []*world) [][]float64 {
	f := newTreeFlow(tiers)
	for k := range steps {
		f.cheapest()
		part := 2 / float64(k+2)
		for t := range f.x {
			for at := range f.x[t] {
				f.x[t][at] += part * (f.best[t][at] - f.x[t][at])
			}
		}
	}
	return f.x
}

func newTreeFlow(tiers []*world) *treeFlow {
	root := tiers[0]
	n := len(root.regions)
	f := &treeFlow{tiers: tiers, n: n, way: make([]float64, n*n)}
	for at := range f.way {
		i, j := int32(at/n), int32(at%n)
		if f.way[at] = float64(root.distance(i, j)+root.links[at].extra)/1e9 + root.scenario.Beta*root.links[at].price; !root.passes(i, j) || !root.mayGo(i, j) {
			f.way[at] = math.Inf(1)
		}
	}
	for _, w := range tiers {
		f.x, f.best = append(f.x, make([]float64, n*n)), append(f.best, make([]float64, n*n))
		f.down, f.choice = append(f.down, make([]float64, n)), append(f.choice, make([]int, n))
		capacity, service := make([]float64, n), make([]float64, n)
		for j := range w.regions {
			capacity[j], service[j] = w.offers(j)
		}
		f.capacity, f.service = append(f.capacity, capacity), append(f.service, service)
	}
	return f
}

// cheapest sends every request down the tree by the marginal costs of the flow as it is.
func (f *treeFlow) cheapest() {
	for t := len(f.tiers) - 1; t >= 0; t-- { // who is called stands after who calls
		at := make([]float64, f.n)
		for j := range at {
			at[j] = math.Inf(1)
			if c := f.capacity[t][j]; c > 0 {
				load := 0.0
				for i := range f.n {
					load += f.x[t][i*f.n+j]
				}
				at[j] = f.service[t][j] * (1 + split.Marginal(load/c))
			}
			for _, b := range f.tiers[t].below {
				at[j] += f.down[b.events.tier][j]
			}
		}
		for i := range f.n {
			f.down[t][i], f.choice[t][i] = math.Inf(1), -1
			for j, c := range at {
				if c += f.way[i*f.n+j]; c < f.down[t][i] {
					f.down[t][i], f.choice[t][i] = c, j
				}
			}
		}
	}
	for t, w := range f.tiers {
		clear(f.best[t])
		for i := range f.n {
			j := f.choice[t][i]
			if j < 0 {
				continue
			}
			if w.above == nil {
				f.best[t][i*f.n+j] = w.rate(i, w.now)
				continue
			}
			above := w.above.events.tier
			for k := range f.n {
				for _, b := range w.above.below {
					if b == w {
						f.best[t][i*f.n+j] += f.best[above][k*f.n+i]
					}
				}
			}
		}
	}
}

// offers is what a region can serve now, in requests a second, and the time of one in a lane, in seconds.
func (w *world) offers(j int) (capacity, service float64) {
	reg := &w.regions[j]
	lanes := 0.0
	for _, at := range reg.endpoints {
		if e := &w.endpoints[at]; e.state == works {
			capacity += float64(e.lanes) / (reg.service * e.slow) * 1e9
			lanes += float64(e.lanes)
		}
	}
	if capacity > 0 {
		return capacity, lanes / capacity
	}
	return 0, reg.service / 1e9
}
