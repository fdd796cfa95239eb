package wire

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/core/liveness"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
	"google.golang.org/protobuf/proto"
)

// TestLeasesTravel: each word comes back as it was, and one that a later version says is unknown, as is none.
func TestLeasesTravel(t *testing.T) {
	var paths []split.Path
	for _, l := range []liveness.Lease{liveness.LeaseUnknown, liveness.LeaseFresh, liveness.LeaseLost} {
		paths = append(paths, split.Path{Cluster: "us-east", RTT: time.Second, Dead: l == liveness.LeaseLost, Lease: l, Loss: 0.03, Via: "ap-south"})
	}
	got, err := DecodeReport(EncodeReport(&split.ClusterReport{Paths: paths}))
	if err != nil || len(got.Paths) != len(paths) {
		t.Fatal(got, err)
	}
	for i := range paths {
		if got.Paths[i] != paths[i] {
			t.Errorf("%+v came back as %+v", paths[i], got.Paths[i])
		}
	}
	b, err := proto.Marshal(&wirepb.ClusterLoad{Paths: []*wirepb.Path{{Cluster: "us-east", Lease: 7}}})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := DecodeReport(b); err != nil || got.Paths[0].Lease != liveness.LeaseUnknown {
		t.Errorf("a word of a later version: %+v, %v", got, err)
	}
}

// TestWhatIsCalledTravels; of a build that does not tell it nothing is known, and of one that counts fewer hops the last goes on.
func TestWhatIsCalledTravels(t *testing.T) {
	s := split.ServiceReport{Service: mesh.ServiceName{Namespace: "shop", Name: "app"}, Below: split.Price{Deep: [split.Hops]float64{0.1, 0.2, 0.3, 0.4}, Grows: [split.Hops]float64{1e-4, 1e-4, 2e-4, 2e-4}}, Within: 0.05,
		Row: []mesh.Share{{Parts: 7_500}, {Cluster: "us", Parts: 2_500}}}
	got, err := DecodeReport(EncodeReport(&split.ClusterReport{Services: []split.ServiceReport{s, {Service: s.Service}}}))
	if err != nil || got.Services[0].Below != s.Below || got.Services[0].Within != s.Within || got.Services[1].Below != (split.Price{}) {
		t.Errorf("%+v came back as %+v, %v", s, got, err)
	}
	for _, c := range []struct {
		below []float64
		want  [split.Hops]float64
		fails bool
	}{
		{nil, [split.Hops]float64{}, false},
		{[]float64{0.1, 0.2}, [split.Hops]float64{0.1, 0.2, 0.2, 0.2}, false},
		{[]float64{1, 2, 3, 4, 5, 6}, [split.Hops]float64{1, 2, 3, 4}, false},
		{[]float64{-1}, [split.Hops]float64{}, true},
		{[]float64{1e6}, [split.Hops]float64{split.PriceMost, split.PriceMost, split.PriceMost, split.PriceMost}, false}, // refuses nothing else
		{[]float64{math.NaN()}, [split.Hops]float64{}, true},
	} {
		b, err := proto.Marshal(&wirepb.ClusterLoad{Services: []*wirepb.ServiceLoad{{Service: fromService(s.Service), Below: c.below}}})
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeReport(b)
		if c.fails != (err != nil) || err == nil && got.Services[0].Below.Deep != c.want {
			t.Errorf("%v is read as %+v, %v", c.below, got, err)
		}
	}
	samples, err := ToSamples(FromSamples([]split.Sample{{Service: s.Service, Asked: 1, Calling: 0.5}}))
	if err != nil || samples[0].Calling != 0.5 {
		t.Errorf("%+v, %v", samples, err)
	}
}

// TestListenersThatAreNotServedComeBack, sorted and without what can be no name; of who says nothing, as one of an earlier version, all are served.
func TestListenersThatAreNotServedComeBack(t *testing.T) {
	read := func(names ...string) []string {
		t.Helper()
		got, err := DecodeReport(EncodeReport(&split.ClusterReport{Unserved: names}))
		if err != nil {
			t.Fatal(err)
		}
		return got.Unserved
	}
	if got := read("shop/web/https", "bank/web/tls"); !slices.Equal(got, []string{"bank/web/tls", "shop/web/https"}) {
		t.Errorf("%q", got)
	}
	if got := read("", "a/b", "a/b/c/d", "shop/web/\x1b[2J", "a b/c/d", strings.Repeat("x", split.ListenerMax)+"/b/c", "shop/web/https", "shop/web/https"); !slices.Equal(got, []string{"shop/web/https"}) {
		t.Errorf("%q", got)
	}
	if got := read(); len(got) != 0 {
		t.Errorf("%q", got)
	}
	many := make([]string, 3*split.UnservedMost)
	for i := range many {
		many[i] = fmt.Sprintf("shop/web/l%03d", i)
	}
	if got := read(many...); len(got) != split.UnservedMost {
		t.Errorf("%d of %d are taken", len(got), len(many))
	}
}

// TestCapacitiesTravel with who says so; a source of a later version is the least sure, and an older build says nothing.
func TestCapacitiesTravel(t *testing.T) {
	n := mesh.ServiceName{Namespace: "shop", Name: "app"}
	s := split.Sample{Service: n, Bears: 120, Sure: 0.7, Source: mesh.CapacityLearnt}
	samples, err := ToSamples(FromSamples([]split.Sample{s}))
	if err != nil || samples[0].Bears != 120 || samples[0].Sure != 0.7 || samples[0].Source != mesh.CapacityLearnt {
		t.Errorf("%+v came back as %+v, %v", s, samples, err)
	}
	for _, bad := range []struct{ Bears, Sure float64 }{{-1, 0}, {math.NaN(), 0}, {0, 1.5}} {
		if _, err := ToSamples([]*wirepb.Sample{{Service: fromService(n), Bears: bad.Bears, Sure: bad.Sure}}); err == nil {
			t.Errorf("bears %g, sure %g is taken", bad.Bears, bad.Sure)
		}
	}
	r := split.ServiceReport{Service: n, Bears: 120, Endpoints: 3, Source: mesh.CapacityReported}
	got, err := DecodeReport(EncodeReport(&split.ClusterReport{Services: []split.ServiceReport{r}}))
	if err != nil || got.Services[0].Bears != 120 || got.Services[0].Endpoints != 3 || got.Services[0].Source != mesh.CapacityReported || got.Services[0].Lanes != 0 {
		t.Errorf("%+v came back as %+v, %v", r, got, err)
	}
	later, err := ToSamples([]*wirepb.Sample{{Service: fromService(n), Bears: 1, Source: 99}, {Service: fromService(n)}})
	if err != nil || later[0].Source != mesh.CapacityAssumed || later[1].Source != mesh.CapacityUnknown {
		t.Errorf("%+v, %v", later, err)
	}
}
