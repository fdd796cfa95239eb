//go:build !race

package http1

import "testing"

// A request through both sides of the engine allocates nothing in steady state. (The race
// detector makes sync.Pool forget, so this is not measured under it.)
func TestProxyLoopAllocatesNothing(t *testing.T) {
	for name, response := range proxyResponses {
		// A collection may empty a pool now and then: less than one in ten is none.
		if n := testing.AllocsPerRun(500, proxyLoop(t, response)); n > 0.1 {
			t.Errorf("%s: %v allocations a request, want 0", name, n)
		}
	}
}
