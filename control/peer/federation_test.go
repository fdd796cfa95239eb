package peer_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/control/peer"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/localmesh/link"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// pair is two clusters that joined; b follows a, which has told its position.
func pair(t testing.TB) (a, b *place) {
	t.Helper()
	a, b = newPlace(t, "a"), newPlace(t, "b")
	join(a, b)
	a.exports.Advance(at(1))
	return a, b
}

func TestExportAppearsChangesAndDisappears(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	a.serve()
	f := b.follow(a)
	f.until(t, "in sync", inSync)
	a.exports.Tell("b", []*replica.Resource{a.service("web", 8)}, nil)
	b.has(a, "web", 8)
	a.exports.Tell("b", []*replica.Resource{a.service("web", 16)}, nil)
	b.has(a, "web", 16)
	a.exports.Tell("b", nil, []replica.Name{serviceName("web")})
	b.has(a, "web", 0)
	a.exports.Advance(at(9))
	f.until(t, "at revision 9", func(s replica.Status) bool { return s.Position == at(9) })
	b.mu.Lock()
	defer b.mu.Unlock()
	if got := b.vector["a"]; got != at(9) {
		t.Errorf("the vector says %v of a, want %v", got, at(9))
	}
}

func TestThreeClustersTellEachOnlyWhatIsItsOwn(t *testing.T) {
	t.Parallel()
	places := []*place{newPlace(t, "a"), newPlace(t, "b"), newPlace(t, "c")}
	join(places...)
	for _, p := range places {
		p.exports.Advance(at(1))
		p.exports.TellAll([]*replica.Resource{p.policy("for-all")}, nil)
		p.serve()
	}
	for _, p := range places {
		for _, q := range places {
			if p != q {
				p.follow(q)
				q.exports.Tell(p.name, []*replica.Resource{q.service("for-"+string(p.name), 8)}, nil)
			}
		}
	}
	for _, p := range places {
		for _, q := range places {
			if p == q {
				continue
			}
			p.has(q, "for-"+string(p.name), 8)
			p.await("under a policy of "+string(q.name), func(w *world.World) bool { _, ok := w.Get(policyKey(q, "for-all")); return ok })
			if n := p.facts(q); n != 2 {
				t.Errorf("%s holds %d facts of %s: want its service and the policy", p.name, n, q.name)
			}
		}
	}
}

// many tells b a number of services of a.
func many(a *place, n int) {
	set := make([]*replica.Resource, n)
	for i := range set {
		set[i] = a.service(fmt.Sprintf("svc-%04d", i), 8)
	}
	a.exports.Tell("b", set, nil)
}

func TestResumeSendsOnlyTheDifference(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	const n = 500
	many(a, n)
	a.serve()
	f := b.follow(a)
	b.await("complete", func(*world.World) bool { w, _ := b.now(); return w.Len() == n })
	f.until(t, "in sync", inSync)
	whole := a.sent.bytes.Load()
	f.stop()
	a.exports.Tell("b", []*replica.Resource{a.service("svc-0001", 9), a.service("svc-0002", 9), a.service("new", 8)}, []replica.Name{serviceName("svc-0003")})
	a.resetSent()
	f = b.follow(a)
	b.has(a, "svc-0001", 9)
	b.has(a, "svc-0003", 0)
	b.has(a, "new", 8)
	f.until(t, "in sync", inSync)
	if s, r := a.sent.set.Load(), a.sent.removed.Load(); s != 3 || r != 1 {
		t.Errorf("a resumed stream stated %d and removed %d: want 3 and 1", s, r)
	}
	if got := a.sent.bytes.Load(); got > whole/4 {
		t.Errorf("a resumed stream took %d octets, the first %d: that is no difference", got, whole)
	}
	t.Logf("%d services: %d octets; a difference of 4: %d, TLS included", n, whole, a.sent.bytes.Load())
}

func TestOwnerThatRestartsTellsNothingBeforeItKnows(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	many(a, 50)
	a.exports.Advance(at(5))
	stop := a.serve()
	f := b.follow(a)
	b.await("complete", func(w *world.World) bool { return w.Len() == 50 })
	f.until(t, "in sync", inSync)

	stop()
	a.exports = peer.NewExports("a")
	a.resetSent()
	a.serve() // it has not read its store
	b.log.await(t, "has not read its store")
	many(a, 50)
	a.exports.Advance(at(5))
	f.until(t, "in sync", inSync)
	if s, r := a.sent.set.Load(), a.sent.removed.Load(); s != 0 || r != 0 {
		t.Errorf("a restart stated %d and removed %d: want nothing", s, r)
	}
	if gone := b.removals(); len(gone) > 0 {
		t.Errorf("a restart removed %q", gone)
	}
}

func TestImporterRestartsFromItsCacheWithThePeerAway(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	many(a, 20)
	a.exports.TellAll([]*replica.Resource{a.policy("deny")}, nil)
	stop := a.serve()
	f := b.follow(a)
	b.await("complete", func(w *world.World) bool { return w.Len() == 21 })
	f.until(t, "in sync", inSync)
	f.stop()
	stop()

	b.mu.Lock()
	b.world, b.vector = world.New("b"), mesh.Vector{} // another process
	b.mu.Unlock()
	f = b.follow(a)
	b.await("complete from the cache", func(w *world.World) bool { return w.Len() == 21 })
	if s := f.Status(); !s.Stale || s.InSync {
		t.Errorf("with the peer away the link is %+v: want stale", s)
	}
	if got := b.vector["a"]; got != at(1) {
		t.Errorf("the vector says %v of a, want %v", got, at(1))
	}
	b.log.await(t, "no link to a peer", "refused")
}

func TestSuccessorInOneProcessTakesBackWhatItsCacheLacks(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	a.serve()
	left := a.service("left-over", 8)
	fact, err := peer.Fact("a", a.td, left)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.edit(t.Context(), []world.Edit{world.Put(fact)}, nil); err != nil {
		t.Fatal(err)
	}
	b.follow(a)
	b.has(a, "left-over", 0)
}

func TestDamagedCacheIsIgnored(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func([]byte) []byte{
		"one bit":   func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"cut short": func(b []byte) []byte { return b[:len(b)-1] },
		"headless":  func(b []byte) []byte { return b[:7] },
		"empty":     func([]byte) []byte { return nil },
		"zeroed":    func(b []byte) []byte { clear(b); return b },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := pair(t)
			many(a, 20)
			a.serve()
			f := b.follow(a)
			f.until(t, "in sync", inSync)
			f.stop()
			path := filepath.Join(b.dir, "a")
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, damage(content), 0o600); err != nil {
				t.Fatal(err)
			}
			a.resetSent()
			b.follow(a).until(t, "in sync", inSync)
			b.log.await(t, "cache", "damaged")
			if s := a.sent.set.Load(); s != 20 {
				t.Errorf("%d services were stated again, want all 20", s)
			}
			if gone := b.removals(); len(gone) > 0 {
				t.Errorf("%q were removed over a damaged cache", gone)
			}
		})
	}
}

// wan runs a link from b to a and returns b's end of it and the switch.
func wan(t testing.TB, a *place, shape link.Shape) (netip.AddrPort, *link.Client) {
	t.Helper()
	dir, err := os.MkdirTemp("", "wan") // a Unix socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	cfg := link.Config{A: "a", B: "b", Shape: shape, Control: filepath.Join(dir, "s"), Forwards: []link.Forward{{Name: "federation", Direction: link.BtoA,
		Listen: netip.MustParseAddrPort("127.0.0.1:0"), Target: a.addr, Source: netip.MustParseAddr("127.0.0.1")}}}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- link.Run(ctx, cfg, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	var c *link.Client
	for range 6000 { // a minute
		if c, err = link.Dial(ctx, cfg.Control); err == nil {
			break
		}
		select {
		case err := <-done:
			t.Fatal(err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.Stats(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return s.Forwards[0].Listen, c
}

// TestAFarPeerIsFollowed: over a path whose round trips do not fit into a first attempt the next one has more time, because the peer
// had begun to answer; and over one of which nothing comes back in a first attempt, because its round trips were measured.
func TestAFarPeerIsFollowed(t *testing.T) {
	t.Parallel()
	for rtt, measured := range map[time.Duration]bool{800 * time.Millisecond: false, 1200 * time.Millisecond: true} {
		t.Run(rtt.String(), func(t *testing.T) {
			t.Parallel()
			a, b := pair(t)
			many(a, 3)
			a.serve()
			by, _ := wan(t, a, link.Shape{RTT: rtt})
			if measured {
				b.patience.Path(by, rtt)
			}
			b.follow(a, by).until(t, "in sync", inSync)
			if said := strings.Join(b.log.all(), "\n"); !measured && !strings.Contains(said, "no link to a peer") {
				t.Errorf("no attempt failed: this proves nothing: %q", said)
			}
		})
	}
}

func TestPartitionIsKeptAndHealed(t *testing.T) {
	t.Parallel()
	for name, dirs := range map[string][]link.Direction{"both ways": nil, "only towards b": {link.AtoB}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := pair(t)
			many(a, 20)
			a.exports.TellAll([]*replica.Resource{a.policy("deny"), a.policy("dropped")}, nil)
			a.serve()
			by, wire := wan(t, a, link.Shape{RTT: 20 * time.Millisecond})
			f := b.follow(a, by)
			b.await("complete", func(w *world.World) bool { return w.Len() == 22 })
			f.until(t, "in sync", inSync)

			if err := wire.Cut(t.Context(), dirs...); err != nil {
				t.Fatal(err)
			}
			cut := time.Now()
			f.until(t, "stale", func(s replica.Status) bool { return s.Stale })
			f.until(t, "given up", func(s replica.Status) bool { return s.Session == 0 })
			gaveUp := time.Since(cut)
			b.log.await(t, "no stream within") // it is trying, through what swallows everything
			if w, _ := b.now(); w.Len() != 22 {
				t.Errorf("the partition made %d of 22 facts", w.Len())
			}
			if gone := b.removals(); len(gone) > 0 {
				t.Errorf("the partition removed %q", gone)
			}
			a.exports.Tell("b", []*replica.Resource{a.service("svc-0001", 9)}, []replica.Name{serviceName("svc-0002")})
			a.exports.State(at(7), nil, nil, []replica.Name{a.policy("dropped").Name})

			if err := wire.Heal(t.Context()); err != nil {
				t.Fatal(err)
			}
			healed := time.Now()
			f.until(t, "in sync again", func(s replica.Status) bool { return inSync(s) && s.Position == at(7) })
			t.Logf("given up %v after the cut, in sync %v after healing", gaveUp.Round(time.Millisecond), time.Since(healed).Round(time.Millisecond))
			b.has(a, "svc-0001", 9)
			b.has(a, "svc-0002", 0)
			w, _ := b.now()
			if _, ok := w.Get(policyKey(a, "dropped")); ok {
				t.Error("a policy that was deleted during the partition is still in force")
			}
			if _, ok := w.Get(policyKey(a, "deny")); !ok {
				t.Error("a policy was lost with the partition")
			}
		})
	}
}

func TestLinkThatAcceptsAndNeverAnswersTimesOut(t *testing.T) {
	t.Parallel()
	_, b := pair(t)
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn, 16)
	go func() {
		for {
			c, err := mute.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
		}
	}()
	a := newPlace(t, "a")
	f := b.follow(a, netip.MustParseAddrPort(mute.Addr().String()))
	one, two := <-accepted, <-accepted // the second proves that the first was given up
	f.until(t, "says why there is no link", func(replica.Status) bool { return f.Err() != nil })
	f.stop()
	mute.Close()
	one.Close()
	two.Close()
	for c := range accepted {
		c.Close()
	}
}

func TestPeerWithoutAddressIsNoPanic(t *testing.T) {
	t.Parallel()
	b := newPlace(t, "b")
	b.followAt(newPlace(t, "a"), nil)
	b.log.await(t, "no link to a peer", "no address")
}

func TestLargePartition(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	const n = 5000
	many(a, n)
	a.serve()
	began := time.Now()
	f := b.follow(a)
	b.await("complete", func(w *world.World) bool { return w.Len() == n })
	took := time.Since(began)
	f.until(t, "in sync", inSync)
	bytes := a.sent.bytes.Load()
	if perService := bytes / n; perService > 500 {
		t.Errorf("%d octets a service", perService)
	}
	f.stop()
	info, err := os.Stat(filepath.Join(b.dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d services: %v, %d octets on the wire, %d on disk", n, took.Round(time.Millisecond), bytes, info.Size())
}

func TestNewHistoryHoldsPoliciesOverUntilTheOwnerTookThemIntoAccount(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	a.exports.State(at(5), nil, []*replica.Resource{a.policy("kept"), a.policy("lost")}, nil)
	a.serve()
	f := b.follow(a)
	f.until(t, "in sync", func(s replica.Status) bool { return inSync(s) && s.Position == at(5) })

	second := mesh.Epoch{StartMillis: epoch.StartMillis + 1, ID: "two"}
	a.exports.State(mesh.Position{Epoch: second, Revision: 2}, nil, nil, []replica.Name{a.policy("lost").Name})
	f.until(t, "holding over", func(s replica.Status) bool { return s.HeldOver == 1 })
	if w, _ := b.now(); w.Len() != 2 {
		t.Fatalf("%d policies in force after the owner lost one, want 2", w.Len())
	}
	var got *replica.Witness
	select {
	case got = <-a.witness:
	case <-time.After(patience):
		t.Fatal("the owner was not told")
	}
	if len(got.Orphans) != 1 || got.Orphans[0].Name.Name != "lost" || got.Crossed[epoch] != 5 {
		t.Errorf("witnessed %+v of %v", got.Orphans, got.Crossed)
	}
	a.exports.State(mesh.Position{Epoch: second, Revision: 3}, got.Crossed, nil, nil)
	b.await("under the owner's word alone", func(w *world.World) bool { return w.Len() == 1 })
}
