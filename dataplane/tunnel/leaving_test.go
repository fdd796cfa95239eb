package tunnel_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/tunnel"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// leaving is a port whose first connection is accepted by a process that leaves in the same moment; those
// after it are its successor's.
type leaving struct {
	net.Listener
	leave context.CancelFunc
	taken chan struct{} // closed with the first
}

func (l *leaving) Close() error { return nil } // the successor has it

func (l *leaving) Accept() (net.Conn, error) {
	select {
	case <-l.taken:
		return nil, net.ErrClosed
	default:
	}
	c, err := l.Listener.Accept()
	if err == nil {
		l.leave()
		close(l.taken)
	}
	return c, err
}

// TestWhoeverMeetsALeavingServerAsksItsSuccessor: a handshake lasts longer than a hand-over, and its end is a
// goodbye. That is no reason to say for failFor that nobody is there.
func TestWhoeverMeetsALeavingServerAsksItsSuccessor(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	source := sourceOf(t, m.east.svid(t, orders, time.Hour), m.bundles)
	server := func() *tunnel.Server {
		return tunnel.NewServer(tunnel.ServerConfig{Source: source, Now: time.Now, Log: m.logger(), Handle: answerWith("hello"),
			Serves: func(n mesh.SNI) bool { return n.Service == ordersName }})
	}
	ln := listen(t)
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	l := &leaving{ln, leave, make(chan struct{})}
	run(t, func(context.Context) error { return server().Serve(ctx, l) })
	serve(t, ln, func(ctx context.Context, ln net.Listener) error {
		select {
		case <-l.taken:
			return server().Serve(ctx, ln)
		case <-ctx.Done():
			return ln.Close()
		}
	})
	d, _ := m.dialer(t, nil)
	mustGet(t, d, want(addrOf(ln), 0))
}
