package tunnel_test

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/tunnel"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestSilence holds bytes in the path, as a black hole, a stopped process and a cut of one
// direction do: what is in flight fails soon by the reason, and what comes after dials afresh.
func TestSilence(t *testing.T) {
	tests := []struct {
		name    string
		in, out bool // which directions are held
		idle    bool // held while no stream is open: the next request finds out
	}{
		{"both directions", true, true, false},
		{"towards the server", true, false, false},
		{"towards the client", false, true, false},
		{"both directions, while idle", true, true, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := newMesh(t)
			hang, inside := make(chan struct{}), make(chan struct{}, 10)
			defer close(hang)
			srv, _ := m.server(t, m.east.svid(t, orders, time.Hour), func(ex message.Exchange, p tunnel.Peer) {
				if string(ex.Request().Path) == "/hang" {
					inside <- struct{}{}
					<-hang
				}
				answerWith("hello")(ex, p)
			})
			l := newLink(t, func() netip.AddrPort { return srv.addr })
			d, _ := m.dialer(t, nil)
			mustGet(t, d, want(l.addr, 0))
			failed := make(chan error, 1)
			begin := func() {
				go func() {
					_, _, err := get(d, want(l.addr, 0), func(h *message.Head) { h.Path = h.KeepString("/hang") })
					failed <- err
				}()
			}
			if !tt.idle {
				begin()
				<-inside
			}
			l.hold(tt.in, tt.out)
			cut := time.Now()
			if tt.idle {
				begin()
			}
			select {
			case err := <-failed:
				if !errors.Is(err, tunnel.ErrSilent) || errors.Is(err, message.ErrNotExecuted) || !errors.Is(err, message.ErrStale) {
					t.Errorf("error %v, want silence, executed or not, before any answer", err)
				}
			case <-time.After(bound):
				t.Fatal("the stream in flight lives on")
			}
			t.Logf("the stream in flight failed after %s", time.Since(cut).Round(time.Millisecond))
			w := want(l.addr, 0)
			w.ConnectTimeout = 300 * time.Millisecond
			began := time.Now()
			_, _, err := get(d, w, nil)
			refused(t, err, mesh.ReasonConnectTimeout)
			t.Logf("the next failed after %s", time.Since(began).Round(time.Millisecond))
			l.hold(false, false)
			eventually(t, "service after the path heals", func() bool {
				body, _, err := get(d, want(l.addr, 0), nil)
				return err == nil && body == "hello"
			})
		})
	}
}

// TestADeadConnectionIsHandedOutAgainWhereNobodyLooks is the control of TestSilence: without the care
// of Run a request on a half-open connection ends by its own deadline only, and the next gets the
// same connection.
func TestADeadConnectionIsHandedOutAgainWhereNobodyLooks(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	srv := m.orders(t)
	l := newLink(t, func() netip.AddrPort { return srv.addr })
	d := tunnel.NewDialer(tunnel.DialerConfig{Source: sourceOf(t, m.west.svid(t, shop, time.Hour), m.bundles), Now: time.Now, Log: m.logger()})
	t.Cleanup(func() {
		ctx, over := context.WithCancel(context.Background())
		over()
		_ = d.Run(ctx) // only closes
	})
	mustGet(t, d, want(l.addr, 0))
	l.hold(true, true)
	for range 2 {
		s, err := d.Open(time.Time{}, want(l.addr, 0))
		if err != nil {
			t.Fatal(err)
		}
		s.SetDeadline(time.Now().Add(2 * time.Second)) // five times what TestSilence takes
		var h message.Head
		requestHead(&h)
		if err = s.Send(&h, true); err == nil {
			_, err = s.Receive(&h)
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v, want that nobody notices", err)
		}
		s.Close()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dials != 1 {
		t.Errorf("%d connections were made, want one that is handed out again", l.dials)
	}
}

// TestBytesThatArriveProveOneDirectionOnly has a server that streams while nothing reaches it: messages of some bytes,
// and such as many small ones make which a proxy that lacks CPU reads together.
func TestBytesThatArriveProveOneDirectionOnly(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		text  string
		every time.Duration
	}{"small messages": {"tick", 50 * time.Millisecond}, "read together": {strings.Repeat("tick", 150), 500 * time.Millisecond}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			streamsUnheard(t, tt.text, tt.every)
		})
	}
}

func streamsUnheard(t *testing.T, text string, every time.Duration) {
	m := newMesh(t)
	m.patient = true // a server gives up after 10 s, which a client that lacks CPU may need as well
	end := make(chan struct{})
	defer close(end)
	srv, _ := m.server(t, m.east.svid(t, orders, time.Hour), func(ex message.Exchange, _ tunnel.Peer) {
		var h message.Head
		h.Reset()
		h.Status, h.Length = 200, message.LengthUnknown
		_ = ex.Respond(&h, false)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
				if _, err := ex.Write([]byte(text)); err != nil {
					return
				}
			}
		}
	})
	l := newLink(t, func() netip.AddrPort { return srv.addr })
	d, _ := m.dialer(t, nil)
	s, err := d.Open(time.Time{}, want(l.addr, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.SetDeadline(time.Now().Add(bound))
	var h message.Head
	requestHead(&h)
	if err := s.Send(&h, true); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Receive(&h); err != nil {
		t.Fatal(err)
	}
	l.hold(true, false)
	began := time.Now()
	if _, err := io.Copy(io.Discard, struct{ io.Reader }{s}); !errors.Is(err, tunnel.ErrSilent) {
		t.Errorf("error %v, want silence", err)
	}
	t.Logf("found after %s", time.Since(began).Round(time.Millisecond))
}

// TestASlowServerIsNotSilent waits longer than any silence lasts: PINGs are answered.
func TestASlowServerIsNotSilent(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	srv, _ := m.server(t, m.east.svid(t, orders, time.Hour), func(ex message.Exchange, p tunnel.Peer) {
		<-time.After(1500 * time.Millisecond)
		answerWith("hello")(ex, p)
	})
	d, _ := m.dialer(t, nil)
	mustGet(t, d, want(srv.addr, 0))
	if m.log.has("silent") {
		t.Error("a false alarm in the log")
	}
}

// TestASlowLinkIsNotSilent uploads through a link that queues for seconds: PINGs stand behind what
// was sent before, and the server has no reason to speak.
func TestASlowLinkIsNotSilent(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	srv, _ := m.server(t, m.east.svid(t, orders, time.Hour), func(ex message.Exchange, p tunnel.Peer) {
		_, _ = io.Copy(io.Discard, struct{ io.Reader }{ex})
		answerWith("hello")(ex, p)
	})
	l := newLink(t, func() netip.AddrPort { return srv.addr })
	l.mu.Lock()
	l.perRead = 3 * time.Millisecond // an order faster than slowestLink, so that a starved machine stays above it
	l.mu.Unlock()
	d, _ := m.dialer(t, nil)
	s, err := d.Open(time.Time{}, want(l.addr, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.SetDeadline(time.Now().Add(bound))
	var h message.Head
	requestHead(&h)
	h.Method, h.Length = h.KeepString("POST"), 12<<20
	if err := s.Send(&h, false); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write(make([]byte, 12<<20)); err != nil {
		t.Fatal(err)
	}
	if err := s.CloseWrite(nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Receive(&h); err != nil || h.Status != 200 {
		t.Errorf("%d, %v", h.Status, err)
	}
}
