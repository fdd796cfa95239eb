package load

import (
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestAPathThroughAThirdClusterIsAlive to a service whose law lets requests pass there: with its round trip, its loss and the price
// of both its halves. To another it is as dead as it is without it.
func TestAPathThroughAThirdClusterIsAlive(t *testing.T) {
	for _, c := range []struct {
		what    string
		transit []mesh.Jurisdiction
		direct  bool // the endpoints' addresses are told, in place of slots
		via     mesh.ClusterName
		alive   bool
	}{
		{"no law", []mesh.Jurisdiction{ir.Anywhere}, false, "af", true},
		{"a lawful third", []mesh.Jurisdiction{"EU", "US", "ZA"}, false, "af", true},
		{"an unlawful third", []mesh.Jurisdiction{"EU", "US"}, false, "af", false},
		{"no law was told", nil, false, "af", false},
		{"one network", []mesh.Jurisdiction{ir.Anywhere}, true, "af", false},
		{"no third", []mesh.Jurisdiction{ir.Anywhere}, false, "", false},
	} {
		b := New("eu")
		b.costs = func(from, to mesh.ClusterName) float64 {
			return map[mesh.ClusterName]float64{"eu": 1, "us": 2, "af": 10}[from]
		}
		b.jurisdiction = func(n mesh.ClusterName) mesh.Jurisdiction {
			return map[mesh.ClusterName]mesh.Jurisdiction{"eu": "EU", "us": "US", "af": "ZA"}[n]
		}
		g := ir.Group{Cluster: "us", Exported: true, Slots: []uint64{1}}
		if c.direct {
			g.Slots, g.Endpoints = nil, []ir.Endpoint{{}}
		}
		b.Know(&ir.Endpoints{Service: catalog, Transit: c.transit, Groups: []ir.Group{{Cluster: "eu"}, g}})
		s := b.services[catalog]
		s.sent, s.received, s.calls = gib, 0, 1
		now := time.Unix(1000, 0)
		own := newPeer([]split.Path{{Cluster: "us", RTT: 280 * time.Millisecond, Loss: 0.01, Dead: true, Via: c.via}}, now)
		// The other end tells of the same.
		b.Heard("us", &split.ClusterReport{Paths: []split.Path{{Cluster: "eu", RTT: 280 * time.Millisecond, Dead: true, Via: c.via}},
			Services: []split.ServiceReport{{Service: catalog, Lanes: 4, Time: 0.02}}}, now)
		in, self := b.pose(catalog, s, own, Every, now)
		at, back := self*2+1, 2 // eu to us, us to eu
		if in.Dead[at] == c.alive || in.Loss[at] != 0.01 || in.RTT[at] != 0.28 {
			t.Errorf("%s: dead %v, loss %g, round trip %g", c.what, in.Dead[at], in.Loss[at], in.RTT[at])
		}
		if want := c.alive || c.direct && c.via != ""; in.Dead[back] == want { // what is told to others by us is theirs to know
			t.Errorf("%s: back it is dead: %v", c.what, in.Dead[back])
		}
		if want := map[bool]float64{true: 11, false: 1}[c.alive]; in.Price[at] != want {
			t.Errorf("%s: a GiB there costs %g, want %g", c.what, in.Price[at], want)
		}
	}
}
