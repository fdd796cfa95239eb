package load

import (
	"github.com/isthmus-mesh/isthmus/core/meter"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/dataplane/orca"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestALimitIsTold: of an application that declares no lanes, once it was asked for more than it bears; of one that does its lanes
// are told and nothing else.
func TestALimitIsTold(t *testing.T) {
	for _, lanes := range []uint32{0, 4} {
		var of meter.Meter
		var said orca.Gatherer
		m := &sampler{}
		state := &proxy.State{Self: &ir.Proxy{Lanes: lanes}}
		queued, now := 0, time.Unix(1, 0)
		var got split.Sample
		half := func(asked, takes int) { // half a second, at 20 ms and 100 answers at most
			queued += asked
			for range asked {
				of.Begin()
				of.Asked(now.UnixNano())
			}
			now = now.Add(500 * time.Millisecond)
			for range min(queued, 100) {
				of.Served(time.Duration(takes)*time.Millisecond, now.UnixNano())
				of.End()
			}
			queued -= min(queued, 100)
			got = m.serves(state, &of, &said, 500*time.Millisecond, now)
		}
		for range 20 {
			half(50, 20)
		}
		idle := split.Sample{Served: 100, Bears: got.Bears, Source: mesh.CapacityLearnt, Time: 20 * time.Millisecond}
		if lanes == 0 && (got.Bears < 90 || got.Bears > 110 || got.Served != idle.Served || got.Sure != 0 || got.Source != idle.Source || got.Time.Round(time.Millisecond) != idle.Time) {
			t.Errorf("at half of its load: %+v, want %+v", got, idle)
		}
		for k := range 8 {
			half(150, 20+k*125)
		}
		switch {
		case lanes == 0 && (got.Sure == 0 || got.Bears < 180 || got.Bears > 220 || got.Lanes != 0):
			t.Errorf("asked for 300 a second and answering 200: %+v", got)
		case lanes == 4 && (got.Lanes != 4 || got.Bears != 0 || got.Sure != 0 || got.Source != mesh.CapacityUnknown):
			t.Errorf("with declared lanes: %+v", got)
		}
	}
}
