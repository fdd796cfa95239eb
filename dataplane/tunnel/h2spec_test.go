package tunnel_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/tunnel"
	"github.com/isthmus-mesh/isthmus/internal/foreign"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// TestInterProxyH2Spec runs h2spec against the inter-proxy listener, as a proxy of ours and as one that speaks HBONE. h2spec has
// no certificate, so it speaks to a relay that has one and carries its octets inside mTLS, unread.
func TestInterProxyH2Spec(t *testing.T) {
	for _, protocol := range []string{tunnel.ALPN, tunnel.HBONE} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			interProxyH2Spec(t, protocol)
		})
	}
}

func interProxyH2Spec(t *testing.T, protocol string) {
	m := newMesh(t)
	server, _ := m.server(t, m.east.svid(t, orders, time.Hour), func(ex message.Exchange, _ tunnel.Peer) {
		if _, err := io.Copy(io.Discard, ex); err != nil {
			return
		}
		if ex.Respond(&message.Head{Status: 200, Length: 5}, false) == nil {
			_, _ = ex.Write([]byte("hello"))
			_ = ex.Finish(nil)
		}
	})
	source := sourceOf(t, m.west.svid(t, shop, time.Hour), m.bundles)
	name := mesh.SNI{Service: ordersName, TrustDomain: east}
	cfg := trust.ClientConfig(source, trust.AcceptServers(east, orders), name.String(), protocol)
	relay := serve(t, listen(t), func(ctx context.Context, ln net.Listener) error {
		var conns sync.WaitGroup
		defer conns.Wait()
		context.AfterFunc(ctx, func() { ln.Close() })
		for {
			c, err := ln.Accept()
			if err != nil {
				return err
			}
			conns.Go(func() { wrap(ctx, c, server.addr.String(), cfg) })
		}
	})
	foreign.H2Spec(t, relay.addr.String())
}

// wrap carries the octets of c inside TLS to addr, ends included.
func wrap(ctx context.Context, c net.Conn, addr string, cfg *tls.Config) {
	defer c.Close()
	up, err := (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return
	}
	defer up.Close()
	stop := context.AfterFunc(ctx, func() { c.Close(); up.Close() })
	defer stop()
	var there sync.WaitGroup
	there.Go(func() {
		_, _ = io.Copy(up, c)
		_ = up.(*tls.Conn).CloseWrite()
	})
	_, _ = io.Copy(c, up)
	_ = c.(*net.TCPConn).CloseWrite()
	there.Wait()
}
