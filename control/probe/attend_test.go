package probe

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestAGatewayThatLeavesIsTold: at once, until it is back for certain, and no sooner.
func TestAGatewayThatLeavesIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeys(t, gateway)
		addrs := []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:15443"), netip.MustParseAddrPort("10.0.0.2:15443"), netip.MustParseAddrPort("10.0.0.3:15443")}
		gates := map[netip.AddrPort]*answerer{}
		for _, a := range addrs {
			gates[a] = newAnswerer(k.gateway)
		}
		w := &wan{rtt: 50 * time.Millisecond, serve: func(a netip.AddrPort, c net.Conn) { gates[a].serve(c) }, dead: map[netip.AddrPort]bool{}}
		o := newTold()
		cfg := config(k, o, addrs...)
		var refuses atomic.Bool // the second
		cfg.Dial = func(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
			if a == addrs[1] && refuses.Load() {
				return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
			}
			return w.dial(ctx, a)
		}
		said := make(chan []netip.AddrPort, 16)
		cfg.Leaving = func(_ mesh.ClusterName, gone []netip.AddrPort) { said <- gone }
		cfg.Known = addrs[:1] // what was known of an earlier prober is right until it is not
		p := New(cfg)
		stop := running(t, p)
		hear := func(within time.Duration, want ...netip.AddrPort) {
			t.Helper()
			select {
			case got := <-said:
				if !slices.Equal(got, want) {
					t.Errorf("told of %v, want %v", got, want)
				}
			case <-time.After(within):
				t.Errorf("not told of %v within %v", want, within)
			}
		}
		hear(2 * time.Second)
		since := p.State().Since
		gates[addrs[2]].leave(true)
		hear(100*time.Millisecond, addrs[2])
		pass(t, 10*time.Second) // it goes on to serve who comes, and says so
		w.kill(addrs[2])
		gates[addrs[2]].hangUp()
		pass(t, 30*time.Second)
		if len(said) > 0 {
			t.Errorf("told of %v while nothing changed", <-said)
		}
		if s := p.State(); s.Reach() != mesh.Alive || !s.Since.Equal(since) {
			t.Errorf("%v since %v, though two gateways answer", s.Reach(), s.Since)
		}
		gates[addrs[2]].leave(false)
		w.mu.Lock()
		delete(w.dead, addrs[2])
		w.mu.Unlock()
		hear(15 * time.Second)
		// Silence is no farewell: who dials finds another.
		w.kill(addrs[1])
		pass(t, time.Minute)
		if len(said) > 0 {
			t.Errorf("told of %v, which is silent", <-said)
		}
		refuses.Store(true)
		hear(30*time.Second, addrs[1])
		stop()
		w.end()
		for _, g := range gates {
			g.hangUp()
			g.tasks.Wait()
		}
	})
}

// TestWhatLeavesIsDialledLast: while others stay; when all leave, each has its turn.
func TestWhatLeavesIsDialledLast(t *testing.T) {
	a, b := netip.MustParseAddrPort("10.0.0.1:15443"), netip.MustParseAddrPort("10.0.0.2:15443")
	p := New(Config{Peer: mesh.Cluster{Gateways: []netip.AddrPort{a, b}}, Log: slog.New(slog.DiscardHandler), Known: []netip.AddrPort{a}})
	for range 4 {
		if got := p.turn(); got != b {
			t.Errorf("dialled %s, which leaves", got)
		}
	}
	p.leaves(b, true)
	seen := map[netip.AddrPort]int{}
	for range 4 {
		seen[p.turn()]++
	}
	if seen[a] == 0 || seen[b] == 0 {
		t.Errorf("dialled %v times while all leave", seen)
	}
}
