package proxy_test

import (
	"errors"
	"io"
	"maps"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/dataplane/raw"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// open is a tunnel through a server proxy, or out of the mesh, that carries bytes, and the state by which it
// is judged from now on.
type open struct {
	w      *world
	state  atomic.Pointer[proxy.State]
	opened chan struct{}
	ended  chan proxy.Record
}

func newOpen(w *world) *open {
	o := &open{w: w, opened: make(chan struct{}), ended: make(chan proxy.Record, 1)}
	o.state.Store(w.state)
	w.cfg.State = o.state.Load
	w.cfg.Opened = func(*proxy.Record) { close(o.opened) }
	w.cfg.Outside = func(string, mesh.Protocol) (message.Stream, error) { return w.next() }
	w.proxy = proxy.New(w.cfg)
	return o
}

func (o *open) run(f func()) {
	go func() {
		f()
		o.ended <- o.w.last
	}()
	<-o.opened
}

func (o *open) change(f func(*proxy.State)) {
	next := *o.state.Load()
	next.Inbound = maps.Clone(next.Inbound)
	f(&next)
	o.state.Store(&next)
	o.w.proxy.Judge()
}

func (o *open) lives(t *testing.T) {
	t.Helper()
	select {
	case r := <-o.ended:
		t.Fatalf("it has ended: %s, %s", r.Reason, r.Detail)
	default:
	}
}

func (o *open) ends(t *testing.T, why mesh.Reason) proxy.Record {
	t.Helper()
	select {
	case r := <-o.ended:
		if r.Reason != why {
			t.Errorf("it ended by %s: %s; want %s", r.Reason, r.Detail, why)
		}
		return r
	case <-time.After(time.Minute):
		t.Fatal("it goes on")
		return proxy.Record{}
	}
}

// TestWhatIsDeniedNowEndsNow: rules that change cut the tunnels that they would not let in, in either direction's
// wait, and no others.
func TestWhatIsDeniedNowEndsNow(t *testing.T) {
	deny := func(port uint16) func(*proxy.State) {
		return func(s *proxy.State) {
			next := serving(t, mesh.AccessPolicy{Name: "deny", Action: mesh.Deny, Rules: []mesh.AccessRule{{To: []mesh.AccessOperation{{Ports: []uint16{port}}}}}})
			s.Inbound[catalog] = next.state.Inbound[catalog]
		}
	}
	for _, stuck := range []bool{false, true} {
		o := newOpen(serving(t))
		up, server := tcpPair(t)
		ex := asked("")
		ex.head.Method, ex.head.Path, ex.more = []byte("CONNECT"), nil, make(chan []byte, 1)
		o.w.script = []any{message.Stream(raw.Stream(up))}
		if stuck { // the application takes nothing, and will say nothing more
			takes := answer(200, "last words")
			takes.stuck = true
			o.w.script, ex.more = []any{takes}, make(chan []byte, 1)
			ex.more <- []byte("x")
		}
		o.run(func() { o.w.proxy.Inbound(ex, peer) })
		o.change(deny(81))
		o.change(func(s *proxy.State) { delete(s.Inbound, catalog) }) // as while an endpoint moves
		o.lives(t)
		o.change(deny(80))
		if r := o.ends(t, mesh.ReasonDenied); r.Policy != "AccessPolicy shop/deny" || r.Status != 200 {
			t.Errorf("recorded %+v", r)
		}
		if ex.aborted == nil {
			t.Error("the client proxy was not told")
		}
		if stuck {
			continue
		}
		if _, err := io.Copy(io.Discard, server); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the application sees %v, want a reset", err)
		}
	}
}

// TestWhatLeavesTheMeshEndsWhenNothingMay, from socket to socket.
func TestWhatLeavesTheMeshEndsWhenNothingMay(t *testing.T) {
	for name, end := range map[mesh.Reason]func(o *open){
		mesh.ReasonOutsideMesh: func(o *open) { o.change(func(s *proxy.State) { s.Self = &ir.Proxy{} }) },
		mesh.ReasonDraining:    func(o *open) { o.w.proxy.CutTunnels() },
	} {
		w := newWorld(t, 1, nil)
		w.state.Self = &ir.Proxy{OutboundAllowAny: true}
		o := newOpen(w)
		client, down := tcpPair(t)
		up, server := tcpPair(t)
		w.script = []any{whole{raw.Stream(up), t}}
		ex := raw.Exchange(down, "db.example:5432")
		o.run(func() { o.w.proxy.Outbound(ex, proxy.Via{}) })
		if _, err := io.WriteString(client, "x"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(server, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		o.change(func(s *proxy.State) { s.Self = &ir.Proxy{OutboundAllowAny: true, ID: "as before"} })
		o.lives(t)
		end(o)
		if r := o.ends(t, name); r.RequestBytes != 1 {
			t.Errorf("recorded %+v", r)
		}
		if _, err := client.Read(make([]byte, 1)); err == nil || err == io.EOF || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the client sees %v, want a reset", name, err)
		}
	}
}

// TestATunnelThatOpensWhileRulesChangeIsJudgedByThose, whichever comes first.
func TestATunnelThatOpensWhileRulesChangeIsJudgedByThose(t *testing.T) {
	w := newWorld(t, 1, nil)
	w.state.Self = &ir.Proxy{OutboundAllowAny: true}
	o := newOpen(w)
	_, down := tcpPair(t)
	up, _ := tcpPair(t)
	w.script = []any{message.Stream(raw.Stream(up))}
	w.cfg.Opened = func(*proxy.Record) {
		o.change(func(s *proxy.State) { s.Self = &ir.Proxy{} })
		close(o.opened)
	}
	o.w.proxy = proxy.New(w.cfg)
	o.run(func() { o.w.proxy.Outbound(raw.Exchange(down, "db.example:5432"), proxy.Via{}) })
	o.ends(t, mesh.ReasonOutsideMesh)
}
