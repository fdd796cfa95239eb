package balance

import (
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestWhatIsTooOldStaysSoByAnyWay: a way through a third cluster makes nothing of what is known of the destination newer.
func TestWhatIsTooOldStaysSoByAnyWay(t *testing.T) {
	heard := time.Unix(1_000_000, 0)
	at := func(n mesh.ClusterName) *ir.Cluster {
		c := clusters(nil)(n)
		c.Reach, c.StaleSinceMillis, c.Via = mesh.Unreachable, heard.UnixMilli(), &ir.Via{Cluster: "af", RTT: time.Millisecond}
		return c
	}
	eps := groups(0, 0, 0)
	eps.Transit = []mesh.Jurisdiction{ir.Anywhere}
	for i := range eps.Groups {
		if eps.Groups[i].Cluster == "us" {
			eps.Groups[i].Slots = []uint64{1}
		}
	}
	v := NewView(Config{Endpoints: eps, Clusters: at, Cluster: "eu", Staleness: mesh.Staleness{Max: time.Minute, When: mesh.WhenStaleExclude}})
	if p := pick(t, v, Ask{Now: heard.Add(time.Minute - 1).UnixNano()}); p.Endpoint.Cluster != "us" {
		t.Errorf("before: %s", p.Endpoint.Cluster)
	}
	if _, reason := v.Pick(&Ask{Now: heard.Add(time.Minute).UnixNano()}); reason != mesh.ReasonStale {
		t.Errorf("after: %q, want %q", reason, mesh.ReasonStale)
	}
}

// TestAClusterBehindAThirdIsChosen as one that is as far as that way is long; and not at all, though nobody else serves as near, where
// the law bars the way. In each case the choice is made by what requests are sent by.
func TestAClusterBehindAThirdIsChosen(t *testing.T) {
	for _, c := range []struct {
		what    string
		in      int
		transit []mesh.Jurisdiction
		rtt     time.Duration
		want    mesh.ClusterName
	}{
		{"nobody else serves", 0, []mesh.Jurisdiction{ir.Anywhere}, 300 * time.Millisecond, "us"},
		{"it is nearer all the same", 1, []mesh.Jurisdiction{ir.Anywhere}, time.Millisecond, "us"},
		{"another is nearer than by the third", 1, []mesh.Jurisdiction{ir.Anywhere}, time.Hour, "in"},
		{"the law bars it", 1, []mesh.Jurisdiction{"EU", "US"}, time.Millisecond, "in"},
	} {
		at := func(n mesh.ClusterName) *ir.Cluster {
			cl := clusters(nil)(n)
			if n == "us" {
				cl.Reach, cl.Via = mesh.Unreachable, &ir.Via{Cluster: "af", Jurisdiction: "ZA", TrustDomain: "af.mesh", RTT: c.rtt}
			}
			return cl
		}
		eps := groups(0, 0, c.in)
		for i := range eps.Groups {
			if eps.Groups[i].Cluster == "us" {
				eps.Groups[i].Slots = []uint64{1}
			}
		}
		eps.Transit = c.transit
		v := NewView(Config{Endpoints: eps, Clusters: at, Cluster: "eu"})
		p := pick(t, v, Ask{})
		if p.Endpoint.Cluster != c.want {
			t.Errorf("%s: %s was picked", c.what, p.Endpoint.Cluster)
		}
		if cl, _ := v.Cluster(p.Endpoint); (cl.Via != nil) != (c.want == "us") {
			t.Errorf("%s: it is sent by %+v", c.what, cl.Via)
		}
	}
}
