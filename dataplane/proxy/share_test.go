package proxy_test

import (
	"math"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/mesh"
	"pgregory.net/rapid"
)

// TestSharesAreExact: of draws that are spread evenly over all there are, a share takes its part and no draw more than one by
// rounding; a larger share takes all that a smaller one does; none takes nothing, and all everything.
func TestSharesAreExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		share, n := rapid.IntRange(-1, 100_001).Draw(t, "share"), uint64(rapid.IntRange(1, 5000).Draw(t, "draws"))
		step := math.MaxUint64 / n
		first, taken := rapid.Uint64Range(0, step-1).Draw(t, "first"), 0
		for i := range n {
			draw := first + i*step
			in := proxy.Below(draw, share)
			if in {
				taken++
			}
			if in && !proxy.Below(draw, share+1) {
				t.Fatalf("draw %d is in %d, and not in the next", draw, share)
			}
		}
		want := float64(n) * min(1, max(0, float64(share)/100_000))
		if off := math.Abs(float64(taken) - want); off > 1.01 || share <= 0 && taken > 0 || share >= 100_000 && taken < int(n) {
			t.Fatalf("a share of %d takes %d of %d", share, taken, n)
		}
	})
}

// TestFaultsAreDrawnApart: a tenth is delayed and a fifth aborted, each by a draw of its own, so that a fiftieth is both. The draws
// are those of one seed, and the bounds six deviations.
func TestFaultsAreDrawnApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := faulty(t, mesh.Fault{Delay: time.Second, DelayMilliPercent: 10_000, Abort: 418, AbortMilliPercent: 20_000})
		w.cfg.Rand = rand.New(rand.NewPCG(3, 4)).Uint64
		w.proxy = proxy.New(w.cfg)
		const all = 4000
		var delayed, aborted, both float64
		for range all {
			w.script = []any{answer(200, "ok")}
			ex, began := get("catalog", "/"), time.Now()
			w.proxy.Outbound(ex, proxy.Via{})
			late := time.Since(began) >= time.Second
			if late {
				delayed++
			}
			if ex.status == 418 {
				if aborted++; late {
					both++
				}
			}
		}
		for what, c := range map[string]struct{ got, part float64 }{"delayed": {delayed, 0.1}, "aborted": {aborted, 0.2}, "both": {both, 0.02}} {
			if off := math.Abs(c.got - all*c.part); off > 6*math.Sqrt(all*c.part*(1-c.part)) {
				t.Errorf("%.0f of %d %s, want about %.0f", c.got, all, what, all*c.part)
			}
		}
	})
}
