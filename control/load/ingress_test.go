package load

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"

	"github.com/isthmus-mesh/isthmus/codec/wire"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// driver is one of eu whose world keeps what it states.
func driver(t *testing.T, unserved ...string) (*Driver, map[string][]string, *error) {
	stated, fails := map[string][]string{}, new(error)
	cfg := Config{Cluster: "eu", Paths: func() []split.Path { return nil }, May: func(mesh.ClusterName, mesh.ServiceName) bool { return true }, Clock: clock.Real{}, Log: slog.New(slog.DiscardHandler),
		Unserved: func() []string { return unserved }}
	cfg.Edit = func(_ context.Context, edits []world.Edit) error {
		if *fails != nil {
			return *fails
		}
		for _, e := range edits {
			if e.Key.Kind != mesh.KindIngress || e.Key.Origin != "eu" {
				t.Errorf("stated %v", e.Key)
			}
			if delete(stated, e.Key.Name); e.Fact != nil {
				stated[e.Key.Name] = e.Fact.Value.(*mesh.Ingress).Unserved
			}
		}
		return nil
	}
	return NewDriver(cfg), stated, fails
}

// TestWhatAPeerDoesNotServeIsStated: as its newest report says, once, until it says otherwise or leaves the mesh; one that never says anything, as of
// an earlier version, is not spoken of.
func TestWhatAPeerDoesNotServeIsStated(t *testing.T) {
	us, _, _ := driver(t, "shop/web/https", "shop/web/own")
	well, _, _ := driver(t)
	eu, stated, fails := driver(t)
	look := func(what string, want ...string) {
		t.Helper()
		if err := eu.stateIngress(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(stated["us"], want) || len(stated) != min(1, len(want)) {
			t.Errorf("%s: %v, want %q", what, stated, want)
		}
	}
	eu.Heard("us", well.ReportTo("eu"), false)
	if look("it serves all"); len(eu.ingress) != 0 {
		t.Errorf("of who says nothing is remembered %v", eu.ingress)
	}
	eu.Heard("us", us.ReportTo("eu"), true) // as another replica told it on
	*fails = errors.New("the queue is full")
	if err := eu.stateIngress(t.Context()); !errors.Is(err, *fails) {
		t.Errorf("%v", err)
	}
	*fails = nil
	look("it could not be stated at first", "shop/web/https", "shop/web/own")
	*fails = errors.New("nothing is news")
	eu.Heard("us", us.ReportTo("eu"), false)
	look("it says so again", "shop/web/https", "shop/web/own")
	*fails = nil
	eu.Heard("us", []byte("\xff"), false)
	look("it cannot be read", "shop/web/https", "shop/web/own")
	eu.Heard("us", well.ReportTo("eu"), false)
	look("it serves all again")
	eu.Heard("us", us.ReportTo("eu"), false)
	look("and not", "shop/web/https", "shop/web/own")
	eu.Expel("us")
	if look("it left the mesh"); len(eu.ingress) != 0 {
		t.Errorf("of who left is remembered %v", eu.ingress)
	}
}

// TestListenersLeaveRoomForServices: of thousands that are not served a report holds some, in order.
func TestListenersLeaveRoomForServices(t *testing.T) {
	for _, length := range []int{10, 700} {
		var names []string
		for i := range 3000 {
			names = append(names, fmt.Sprintf("shop/%0*d/https", length, i))
		}
		d, _, _ := driver(t, names...)
		b := d.ReportTo("us")
		r, err := wire.DecodeReport(b)
		if err != nil || len(b) > unservedBytes+4*split.UnservedMost || len(r.Unserved) == 0 || !slices.Equal(r.Unserved, names[:len(r.Unserved)]) {
			t.Errorf("%d listeners in %d bytes, %v", len(r.Unserved), len(b), err)
		}
	}
}
