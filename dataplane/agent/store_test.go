package agent

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/wire"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
	"github.com/isthmus-mesh/isthmus/xds"
)

var (
	catalog = mesh.ServiceName{Namespace: "shop", Name: "catalog"}
	reviews = mesh.ServiceName{Namespace: "shop", Name: "reviews"}
)

// testStore records what is asked for.
func testStore(prefetch int) (*store, *[]string) {
	s := newStore(&Config{ID: "shop/frontend", Mode: ModeSidecar, Cluster: "eu-west", Prefetch: prefetch}, trust.NewSource(clock.Real{}), time.Now, slog.New(slog.DiscardHandler))
	var asked []string
	s.want = func(t ir.Type, names ...string) {
		for _, n := range names {
			asked = append(asked, string(t)+" "+n)
		}
	}
	return s, &asked
}

// say applies values as one batch each.
func say(s *store, complete bool, values map[string]any) map[string]error {
	var all map[string]error
	for name, v := range values {
		t, body := wire.Encode(v)
		for n, err := range s.Apply(xds.Batch{Type: string(t), Complete: complete, Resources: []xds.Resource{{Type: string(t), Name: name, Version: "1", Body: body}}}) {
			if all == nil {
				all = map[string]error{}
			}
			all[n] = err
		}
	}
	return all
}

func none(s *store, t ir.Type, names ...string) {
	s.Apply(xds.Batch{Type: string(t), Complete: true, Removed: names})
}

// basics are the sets that a proxy always has.
func basics(s *store, names ...mesh.ServiceName) {
	none(s, ir.TypeBundle)
	say(s, true, map[string]any{"eu-west": &ir.Cluster{Name: "eu-west"}})
	for _, n := range names {
		say(s, true, map[string]any{n.String(): &ir.Name{Service: n, Address: netip.MustParseAddr("127.1.1.11")}})
	}
	if len(names) == 0 {
		none(s, ir.TypeName)
	}
	say(s, true, map[string]any{"shop/frontend": &ir.Proxy{ID: "shop/frontend"}})
}

func group(c mesh.ClusterName) *ir.Endpoints {
	return &ir.Endpoints{Service: catalog, Groups: []ir.Group{{Cluster: c, Endpoints: []ir.Endpoint{{Tag: "e"}}}}}
}

func TestServiceIsShownWhenAllItRefersToIsAnswered(t *testing.T) {
	s, _ := testStore(10)
	basics(s, catalog)
	shown := func() bool { return s.state.Load().Services[catalog] != nil }
	routed := &ir.Service{Name: catalog, Routed: true, Routes: []ir.Route{{Backends: []ir.Backend{{Service: reviews, Weight: 1}}}}}
	say(s, false, map[string]any{"shop/catalog": routed})
	if shown() || s.state.Load().Ready {
		t.Fatal("shown before its endpoints were answered")
	}
	say(s, false, map[string]any{"shop/catalog": group("eu-west")})
	if shown() {
		t.Fatal("shown before its route's backend was answered")
	}
	none(s, ir.TypeService, "shop/reviews")
	none(s, ir.TypeEndpoints, "shop/reviews")
	if !shown() || !s.state.Load().Ready {
		t.Fatal("not shown though all was answered")
	}
	// A change stays unseen until what it newly refers to is there.
	before := s.state.Load().Services[catalog]
	next := &ir.Service{Name: catalog, Routed: true, Routes: []ir.Route{{Backends: []ir.Backend{{Service: mesh.ServiceName{Namespace: "shop", Name: "new"}, Weight: 1}}}}}
	say(s, false, map[string]any{"shop/catalog": next})
	if s.state.Load().Services[catalog] != before {
		t.Error("half a change was shown")
	}
}

func TestRejectedResourceKeepsTheLastGood(t *testing.T) {
	s, _ := testStore(10)
	basics(s, catalog)
	say(s, true, map[string]any{"shop/catalog": &ir.Service{Name: catalog}})
	say(s, true, map[string]any{"shop/catalog": group("eu-west")})
	before := s.state.Load().Services[catalog]
	bad := &ir.Service{Name: catalog, Routed: true, Routes: []ir.Route{{Match: mesh.RouteMatch{PathType: mesh.PathRegex, Path: "("}}}}
	if errs := say(s, true, map[string]any{"shop/catalog": bad}); errs["shop/catalog"] == nil {
		t.Fatal("an expression that does not compile was taken")
	}
	if s.state.Load().Services[catalog] != before {
		t.Error("the last good version is not in force")
	}
}

func TestPoisonHoldsUpItsOwnServiceOnly(t *testing.T) {
	s, _ := testStore(10)
	basics(s, catalog)
	bad := &ir.Service{Name: catalog, Routed: true, Routes: []ir.Route{{Match: mesh.RouteMatch{PathType: mesh.PathRegex, Path: "("}}}}
	say(s, true, map[string]any{"shop/catalog": bad})
	say(s, true, map[string]any{"shop/catalog": group("eu-west")})
	if !s.state.Load().Ready {
		t.Error("a resource that was refused keeps the whole proxy from being ready")
	}
	if _, err := s.Demand(catalog, time.Now().Add(time.Minute).UnixNano()); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("asked for the service: %v, want the reason for its refusal, at once", err)
	}
}

func TestPrefetchIsBoundedAndDemandAsksForTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, asked := testStore(1)
		basics(s, catalog, reviews)
		if slices.Contains(*asked, string(ir.TypeService)+" shop/reviews") || !slices.Contains(*asked, string(ir.TypeService)+" shop/catalog") {
			t.Errorf("asked for %q, want the first by name", *asked)
		}
		time.AfterFunc(time.Second, func() {
			none(s, ir.TypeEndpoints, "shop/reviews")
			say(s, true, map[string]any{"shop/reviews": &ir.Service{Name: reviews}})
		})
		state, err := s.Demand(reviews, time.Now().Add(5*time.Second).UnixNano())
		if err != nil || state.Services[reviews] == nil {
			t.Errorf("first use: %v", err)
		}
		began := time.Now()
		if _, err := s.Demand(mesh.ServiceName{Namespace: "shop", Name: "silent"}, began.Add(5*time.Second).UnixNano()); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != 5*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

func TestSnapshotKeepsAbsenceAndIsFollowedAgain(t *testing.T) {
	s, _ := testStore(1)
	basics(s, catalog, reviews)
	say(s, true, map[string]any{"shop/catalog": &ir.Service{Name: catalog}})
	none(s, ir.TypeEndpoints, "shop/catalog") // there is none, and that is known
	s.mu.Lock()
	s.ask(reviews) // used beyond the prefetch
	s.mu.Unlock()
	say(s, true, map[string]any{"shop/reviews": &ir.Service{Name: reviews}})
	none(s, ir.TypeEndpoints, "shop/reviews")
	again, asked := testStore(1)
	again.restore(s.snapshot(), mesh.Vector{})
	state := again.state.Load()
	if !state.Ready || state.Services[catalog] == nil || state.Services[reviews] == nil {
		t.Fatalf("ready %v, services %v", state.Ready, state.Services)
	}
	if !slices.Contains(*asked, string(ir.TypeService)+" shop/reviews") {
		t.Errorf("asked for %q: what the snapshot holds must be followed again", *asked)
	}
}

// TestASnapshotThatIsNotWholeMakesNobodyReady: where the proxy's own resource in it cannot be used, or nothing is in it, the first part that
// comes from a control plane must not pass for the whole, and what has not come yet for what there is not.
func TestASnapshotThatIsNotWholeMakesNobodyReady(t *testing.T) {
	whole, _ := testStore(1)
	basics(whole, catalog)
	none(whole, ir.TypeEndpoints, "shop/catalog")
	say(whole, true, map[string]any{"shop/catalog": &ir.Service{Name: catalog}})
	for what, c := range map[string]content{
		"without its own": {Resources: slices.DeleteFunc(whole.snapshot().Resources, func(r xds.Resource) bool { return r.Type == string(ir.TypeProxy) })},
		"empty":           {},
	} {
		s, _ := testStore(1)
		s.restore(c, mesh.Vector{})
		say(s, true, map[string]any{"shop/frontend": &ir.Proxy{ID: "shop/frontend"}})
		if s.state.Load().Ready {
			t.Errorf("%s: ready before the names have come", what)
		}
		basics(s, catalog)
		none(s, ir.TypeEndpoints, "shop/catalog")
		say(s, true, map[string]any{"shop/catalog": &ir.Service{Name: catalog}})
		if !s.state.Load().Ready {
			t.Errorf("%s: not ready when all has come", what)
		}
	}
}

func TestUnchangedServiceIsNotMadeAgain(t *testing.T) {
	s, _ := testStore(10)
	basics(s, catalog)
	say(s, true, map[string]any{"shop/catalog": &ir.Service{Name: catalog}})
	say(s, true, map[string]any{"shop/catalog": group("eu-west")})
	before := s.state.Load().Services[catalog]
	say(s, true, map[string]any{"shop/reviews": &ir.Service{Name: reviews}})
	if s.state.Load().Services[catalog] != before {
		t.Error("another service's change made this one anew")
	}
	say(s, true, map[string]any{"us-east": &ir.Cluster{Name: "us-east"}})
	if s.state.Load().Services[catalog] == before {
		t.Error("a change of clusters was not taken in")
	}
}

func TestServiceAddress(t *testing.T) {
	c := Config{ServiceNet: netip.MustParsePrefix("127.11.4.0/24")}
	if a, ok := c.ServiceAddress(netip.MustParseAddr("127.11.0.12")); !ok || a != netip.MustParseAddr("127.11.4.12") {
		t.Errorf("%v %v", a, ok)
	}
	if _, ok := c.ServiceAddress(netip.MustParseAddr("127.11.0.2")); ok {
		t.Error("an octet of the workload's own was given to a service")
	}
	if _, ok := (&Config{}).ServiceAddress(netip.MustParseAddr("127.11.0.12")); ok {
		t.Error("an address without a net")
	}
}

// TestAnAddressIsOneServices states one address for two services, as they may be for a moment when one takes it
// from the other: names, listeners and captured connections go to the same one, and nothing to the wrong one.
func TestAnAddressIsOneServices(t *testing.T) {
	s, _ := testStore(10)
	s.cfg.ServiceNet = netip.MustParsePrefix("127.11.4.0/24")
	at := netip.MustParseAddr("127.11.0.12")
	for range 20 { // whatever the order of a map
		say(s, true, map[string]any{"shop/reviews": &ir.Name{Service: reviews, Address: at}, "shop/catalog": &ir.Name{Service: catalog, Address: at}})
		state := s.state.Load()
		if got := state.ByAddress[at]; got != catalog {
			t.Fatalf("captured connections go to %s", got)
		}
		_, first := s.cfg.addressOf(state, state.Names[catalog])
		_, second := s.cfg.addressOf(state, state.Names[reviews])
		if !first || second {
			t.Fatalf("catalog has it: %v, reviews: %v", first, second)
		}
	}
}
