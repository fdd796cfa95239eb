package tunnel_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/http2"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/tunnel"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// pipes is a listener of in-memory connections.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.done); return nil }
func (p *pipes) Addr() net.Addr { return nil }

// open shakes hands with a server behind p and asks for something.
func (p *pipes) open(t *testing.T, m *mesh2, s *trust.SVID) (*http2.ClientConn, message.Stream) {
	t.Helper()
	return p.openAs(t, m, s, "0.orders.default."+string(east), tunnel.ALPN)
}

func (p *pipes) openAs(t *testing.T, m *mesh2, s *trust.SVID, name, protocol string) (*http2.ClientConn, message.Stream) {
	t.Helper()
	a, b := net.Pipe()
	p.conns <- b
	tc := tls.Client(a, trust.ClientConfig(sourceOf(t, s, m.bundles), trust.AcceptServers(east, orders), name, protocol))
	if err := tc.Handshake(); err != nil {
		t.Fatal(err)
	}
	cc, err := http2.NewClientConn(tc, http2.Config{})
	if err != nil {
		t.Fatal(err)
	}
	st, err := cc.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var h message.Head
	requestHead(&h)
	if err := st.Send(&h, true); err != nil {
		t.Fatal(err)
	}
	return cc, st
}

// inBubble runs f against a server in virtual time; its handler waits for hang.
func inBubble(t *testing.T, f func(t *testing.T, m *mesh2, p *pipes, hang chan struct{})) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		hang := make(chan struct{})
		p := &pipes{make(chan net.Conn), make(chan struct{})}
		srv := tunnel.NewServer(tunnel.ServerConfig{Source: sourceOf(t, m.east.svid(t, orders, time.Hour), m.bundles), Now: time.Now, Log: m.logger(),
			Serves: func(mesh.SNI) bool { return true }, Handle: func(ex message.Exchange, peer tunnel.Peer) { <-hang; answerWith("hello")(ex, peer) }})
		ctx, stop := context.WithCancel(t.Context())
		served := make(chan struct{})
		go func() { defer close(served); _ = srv.Serve(ctx, p) }()
		f(t, m, p, hang)
		stop()
		<-served
	})
}

func TestServersGiveUpClientsThatAreGone(t *testing.T) {
	inBubble(t, func(t *testing.T, m *mesh2, p *pipes, hang chan struct{}) {
		cc, s := p.open(t, m, m.west.svid(t, shop, time.Hour))
		defer cc.Close()
		defer close(hang)
		began := time.Now()
		var h message.Head
		if _, err := s.Receive(&h); err == nil {
			t.Error("an answer")
		}
		if took := time.Since(began); took < 10*time.Second || took > 15*time.Second {
			t.Errorf("given up after %s of silence, want 10 to 15 s", took)
		}
	})
}

func TestServersKeepClientsThatAsk(t *testing.T) {
	inBubble(t, func(t *testing.T, m *mesh2, p *pipes, hang chan struct{}) {
		cc, s := p.open(t, m, m.west.svid(t, shop, time.Hour))
		defer cc.Close()
		for range 20 {
			<-time.After(3 * time.Second)
			if _, err := cc.Ping(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		close(hang)
		var h message.Head
		if _, err := s.Receive(&h); err != nil || h.Status != 200 {
			t.Errorf("after a minute: %d, %v", h.Status, err)
		}
		s.Close()
	})
}

// TestServersDrainIdleClientsAndEndedCertificates: nobody stays for ever, and not past what he
// proved himself by.
func TestServersDrainIdleClientsAndEndedCertificates(t *testing.T) {
	for name, life := range map[string]time.Duration{"idle": time.Hour, "ended": 30 * time.Second} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, m *mesh2, p *pipes, hang chan struct{}) {
				close(hang)
				cc, s := p.open(t, m, m.west.svid(t, shop, life))
				defer cc.Close()
				var h message.Head
				if _, err := s.Receive(&h); err != nil {
					t.Fatal(err)
				}
				s.Close()
				began := time.Now()
				<-cc.Done()
				if err := cc.Err(); !errors.Is(err, http2.ErrClosed) {
					t.Errorf("ended by %v, want a drain", err)
				}
				if took, want := time.Since(began), map[string]time.Duration{"idle": 2 * time.Minute, "ended": 32 * time.Second}[name]; took > want+10*time.Second || took < want-5*time.Second {
					t.Errorf("after %s, want about %s", took, want)
				}
			})
		})
	}
}
