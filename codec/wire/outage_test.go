package wire

import (
	"reflect"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/core/outage"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestOutagesComeBack: and what cannot be read, or is too much, is counted and harms no other; an older proxy says nothing.
func TestOutagesComeBack(t *testing.T) {
	place := outage.Place{Service: mesh.ServiceName{Namespace: "shop", Name: "catalog"}, Cluster: "us-east", Endpoint: "slot 3"}
	in := []outage.Outage{{Place: place, Why: outage.SuccessRate, State: outage.Trial}, {Place: outage.Place{Service: place.Service, Cluster: "eu"}, Why: outage.NeverExecuted}, {Place: outage.Place{Service: place.Service}, Why: outage.Relieved}}
	if got := ToOutages(FromOutages(in), 3); !reflect.DeepEqual(got, outage.Report{Outages: in, More: 3}) {
		t.Errorf("%+v", got)
	}
	if got := ToOutages(nil, 0); got.Outages != nil || got.More != 0 {
		t.Errorf("of nothing: %+v", got)
	}
	good := FromOutages(in[:1])[0]
	bad := func(change func(*wirepb.Outage)) *wirepb.Outage {
		o := FromOutages(in[:1])[0]
		change(o)
		return o
	}
	all := []*wirepb.Outage{
		bad(func(o *wirepb.Outage) { o.Service = nil }),
		bad(func(o *wirepb.Outage) { o.Why = uint32(outage.Relieved) }),
		bad(func(o *wirepb.Outage) { o.Cluster = "Us East" }),
		bad(func(o *wirepb.Outage) { o.Cluster = "" }),
		bad(func(o *wirepb.Outage) { o.Endpoint = "\x1b[2J" }),
		bad(func(o *wirepb.Outage) { o.Endpoint = strings.Repeat("e", outage.TextMax+1) }),
		bad(func(o *wirepb.Outage) { o.State = 3 }),
		bad(func(o *wirepb.Outage) { o.State = 1 << 30 }),
		good,
		bad(func(o *wirepb.Outage) { o.Why = 9 }),
	}
	got := ToOutages(all, 0)
	if len(got.Outages) != 2 || got.More != len(all)-2 || got.Outages[0] != in[0] || got.Outages[1].Why != outage.Unknown {
		t.Errorf("%+v", got)
	}
	for range 2 * outage.Most {
		all = append(all, good)
	}
	if got = ToOutages(all, 1<<32-1); len(got.Outages) != outage.Most || got.More < 1e9 {
		t.Errorf("%d outages and %d more", len(got.Outages), got.More)
	}
}
