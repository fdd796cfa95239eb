package tunnel_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/tunnel"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestProbesFindOutWhoAnswers: by a connection that stays for the next request, by a PING on one that there is, and
// in bounded time where nobody answers.
func TestProbesFindOutWhoAnswers(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	srv := m.orders(t)
	d, _ := m.dialer(t, nil)
	l := newLink(t, func() netip.AddrPort { return srv.addr })
	dials := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.dials
	}
	w := want(l.addr, 0)
	if err := d.Probe(t.Context(), w); err != nil || dials() != 1 {
		t.Fatalf("the first probe: %v, %d connections", err, dials())
	}
	mustGet(t, d, w)
	if err := d.Probe(t.Context(), w); err != nil || dials() != 1 {
		t.Errorf("a probe beside a connection: %v, %d connections, want the same one", err, dials())
	}

	l.hold(true, true)
	w.ConnectTimeout = 50 * time.Millisecond
	var e *tunnel.Error
	if err := d.Probe(t.Context(), w); !errors.As(err, &e) || e.Why != mesh.ReasonConnectTimeout {
		t.Errorf("a probe that nobody answers: %v", err)
	}
	eventually(t, "the connection that did not answer is cut", func() bool { return len(d.Conns()) == 0 })
	if err := d.Probe(t.Context(), w); !errors.As(err, &e) || e.Why != mesh.ReasonConnectTimeout {
		t.Errorf("a connection that cannot be made: %v", err)
	}
	l.hold(false, false)
	w.ConnectTimeout = 2 * time.Second
	eventually(t, "it answers again", func() bool { return d.Probe(t.Context(), w) == nil })

	srv.stop()
	l.breakAll()
	eventually(t, "nobody listens any more", func() bool { return d.Probe(t.Context(), w) != nil })
	over, stop := context.WithCancel(t.Context())
	stop()
	if err := d.Probe(over, w); err == nil {
		t.Error("a probe whose time is over was answered")
	}
}
