package load

import (
	"math"
	"testing"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestCrossingIsPaid: with a price of bytes less crosses, the less the dearer; without one, or without bytes, the price
// changes nothing.
func TestCrossingIsPaid(t *testing.T) {
	crossing := func(s mesh.Strategy, d mesh.Distribution, perGiB, answer float64) (percent int, spend float64) {
		w := newPair(t)
		w.answer = answer
		for _, b := range w.clusters {
			b.costs = func(from, to mesh.ClusterName) float64 { return perGiB }
			b.Route(catalog, s, d, mesh.Staleness{})
		}
		w.demand["eu"], w.demand["us"] = 390, 40
		w.run(80)
		spend = w.clusters["eu"].services[catalog].spend
		return w.part("eu", "us"), spend
	}
	free, _ := crossing(mesh.StrategyLatency, mesh.Distribution{}, 0.02, 1<<20)
	none, unpaid := crossing(mesh.StrategyCost, mesh.Distribution{}, 0.02, 0)
	auto, paid := crossing(mesh.StrategyAuto, mesh.Distribution{}, 0.02, 1<<18)
	cost, less := crossing(mesh.StrategyCost, mesh.Distribution{}, 0.02, 1<<18)
	if free < 10 || none != free || unpaid != 0 {
		t.Errorf("%d %% cross without a price, %d %% without bytes, for %g dollars", free, none, unpaid)
	}
	if auto > free || cost >= auto || cost < 0 {
		t.Errorf("of 100 requests %d cross where nothing weighs the price, %d with Auto, %d with Cost", free, auto, cost)
	}
	// 256 KiB at 0.02 dollars a GiB, 390 requests a second.
	if want := float64(auto) / 100 * 390 * 0.02 / 4096 * 3600; math.Abs(paid-want) > 0.1*want+0.1 || less >= paid {
		t.Errorf("Auto spends %g dollars an hour, want %g; Cost %g", paid, want, less)
	}
	bound := paid / 4
	if _, spend := crossing(mesh.StrategyCost, mesh.Distribution{DollarsPerHour: bound}, 0.02, 1<<18); spend > 1.2*bound {
		t.Errorf("with a budget of %g dollars an hour %g are spent", bound, spend)
	}
}
