package ir_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
)

// TestAFarClusterHasTimeToBeConnectedTo: three round trips must fit for each gateway, and what a slow link adds.
func TestAFarClusterHasTimeToBeConnectedTo(t *testing.T) {
	one := make([]netip.AddrPort, 1)
	two := make([]netip.AddrPort, 2)
	for _, c := range []struct {
		name    string
		cluster *ir.Cluster
		want    time.Duration
	}{
		{"unknown", nil, time.Second},
		{"the own cluster", &ir.Cluster{}, time.Second},
		{"another continent", &ir.Cluster{RTT: 150 * time.Millisecond, Gateways: one}, time.Second},
		{"a satellite", &ir.Cluster{RTT: 500 * time.Millisecond, Gateways: one}, 3 * time.Second},
		{"without a gateway between", &ir.Cluster{RTT: 500 * time.Millisecond}, 3 * time.Second},
		{"two gateways", &ir.Cluster{RTT: 250 * time.Millisecond, Gateways: two}, 3 * time.Second},
		{"no longer than who is called waits", &ir.Cluster{RTT: 500 * time.Millisecond, Gateways: two}, 5 * time.Second},
	} {
		if got := c.cluster.ConnectTimeout(0); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
		if got := c.cluster.ConnectTimeout(20 * time.Second); got != 20*time.Second {
			t.Errorf("%s: %v where a policy says 20 s", c.name, got)
		}
	}
}
