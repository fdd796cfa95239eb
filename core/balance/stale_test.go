package balance

import (
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestAClusterThatIsTooOld walks the ages of a cluster that is not heard any more: what a policy says of it, with another
// cluster to go to and without.
func TestAClusterThatIsTooOld(t *testing.T) {
	heard := time.Unix(1_000_000, 0)
	late, old := heard.Add(10*time.Minute-1), heard.Add(10*time.Minute)
	exclude, last := mesh.Staleness{Max: 10 * time.Minute, When: mesh.WhenStaleExclude}, mesh.Staleness{Max: 10 * time.Minute, When: mesh.WhenStaleLastResort}
	keep := mesh.Staleness{}
	tests := []struct {
		name      string
		staleness mesh.Staleness
		us, in    int
		now       time.Time
		want      mesh.ClusterName
		fails     mesh.Reason
		says      string
	}{
		{"without a policy it serves on", keep, 1, 1, old, "us", "", ", last heard 10m0s ago"},
		{"it serves up to the age", exclude, 1, 1, late, "us", "", ", last heard 10m0s ago, excluded after 10m0s"},
		{"then another does", exclude, 1, 1, old, "in", "", ", last heard 10m0s ago, excluded after 10m0s"},
		{"or nobody", exclude, 1, 0, old, "", mesh.ReasonStale, ", last heard 10m0s ago, excluded after 10m0s"},
		{"the last resort is passed over", last, 1, 1, old, "in", "", ", last heard 10m0s ago, the last resort after 10m0s"},
		{"and serves when there is no other", last, 1, 0, old, "us", "", ", last heard 10m0s ago, the last resort after 10m0s"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			at := func(n mesh.ClusterName) *ir.Cluster {
				c := clusters(nil)(n)
				if n == "us" {
					c.Reach, c.StaleSinceMillis = mesh.StaleServing, heard.UnixMilli()
				}
				return c
			}
			v := NewView(Config{Endpoints: groups(0, tt.us, tt.in), Clusters: at, Cluster: "eu", Staleness: tt.staleness})
			v.SetSplit([]Share{{"us", 1}}, tt.now.UnixNano())
			for i := range uint64(50) {
				p, reason := v.Pick(&Ask{Now: tt.now.UnixNano(), Rand: mix(i)})
				if reason != tt.fails || reason == "" && p.Endpoint.Cluster != tt.want {
					t.Fatalf("Pick = %+v, %q, want %q, %q", p.Endpoint, reason, tt.want, tt.fails)
				}
			}
			for _, c := range v.Explain(&Ask{Now: tt.now.UnixNano()}) {
				if c.Cluster != "us" || c.Endpoint != "" {
					continue
				}
				if !strings.HasSuffix(c.Detail, tt.says) || (c.Dropped == DropStale) != (tt.want != "us" || tt.says != tests[0].says && tt.now == old) {
					t.Errorf("Explain = %q, %q, want a detail that ends with %q", c.Dropped, c.Detail, tt.says)
				}
			}
		})
	}
}

// TestTheOwnClusterIsNeverTooOld: what is local is not replicated.
func TestTheOwnClusterIsNeverTooOld(t *testing.T) {
	at := func(n mesh.ClusterName) *ir.Cluster { return &ir.Cluster{Name: n, StaleSinceMillis: 1} }
	v := NewView(Config{Endpoints: groups(1, 0, 0), Clusters: at, Cluster: "eu", Staleness: mesh.Staleness{Max: 1, When: mesh.WhenStaleExclude}})
	if p := pick(t, v, Ask{Now: int64(time.Hour)}); p.Endpoint.Cluster != "eu" {
		t.Errorf("picked %v", p.Endpoint.Key)
	}
}
