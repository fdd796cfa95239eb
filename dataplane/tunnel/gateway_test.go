package tunnel_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/http2"
	"github.com/isthmus-mesh/isthmus/dataplane/tunnel"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// helloTo connects and sends a real ClientHello for slot 0, as the start of any bytes.
func helloTo(t testing.TB, addr netip.AddrPort) *net.TCPConn {
	t.Helper()
	return helloAfter(t, netip.Addr{}, addr, nil)
}

// helloAfter is helloTo from an address, behind some octets.
func helloAfter(t testing.TB, from netip.Addr, to netip.AddrPort, before []byte) *net.TCPConn {
	t.Helper()
	d := net.Dialer{}
	if from.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	c, err := d.Dial("tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(append(before, helloBytes(t)...)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// helloBytes are a ClientHello for slot 0.
func helloBytes(t testing.TB) []byte {
	t.Helper()
	a, b := net.Pipe()
	defer b.Close()
	go func() {
		_ = tls.Client(a, &tls.Config{ServerName: "0.orders.default." + string(east), InsecureSkipVerify: true}).Handshake()
		a.Close()
	}()
	head := make([]byte, 5)
	if _, err := io.ReadFull(b, head); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint16(head[3:]))
	if _, err := io.ReadFull(b, body); err != nil {
		t.Fatal(err)
	}
	return append(head, body...)
}

// accepting serves each connection by f.
func accepting(t testing.TB, f func(net.Conn)) *running {
	t.Helper()
	return serve(t, listen(t), func(ctx context.Context, ln net.Listener) error {
		stop := context.AfterFunc(ctx, func() { ln.Close() })
		defer stop()
		for {
			c, err := ln.Accept()
			if err != nil {
				return err
			}
			f(c)
			c.Close()
		}
	})
}

func bulkSink(t testing.TB) (*running, *atomic.Int64) {
	var received atomic.Int64
	return accepting(t, func(c net.Conn) {
		buf := make([]byte, 64<<10)
		for {
			n, err := c.Read(buf)
			received.Add(int64(n))
			if err != nil {
				return
			}
		}
	}), &received
}

// TestHalvesCloseByThemselves sends much, closes that half, and only then gets an answer, as a
// client of a batch protocol does; what is sent crosses from the buffer to the kernel's copy.
func TestHalvesCloseByThemselves(t *testing.T) {
	t.Parallel()
	for _, size := range []int{100, 300 << 10, 9 << 20} {
		m := newMesh(t)
		r := accepting(t, func(c net.Conn) {
			b, err := io.ReadAll(c)
			if err != nil {
				t.Error(err)
			}
			_, _ = c.Write(b)
		})
		gw, g := m.gateway(t, always(r.addr))
		c := helloTo(t, gw.addr)
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		sent := bytes.Repeat([]byte("isthmus "), size/8)
		if _, err := c.Write(sent); err != nil {
			t.Fatal(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(c)
		if err != nil || !bytes.HasSuffix(got, sent) || len(got) < len(sent)+100 {
			t.Errorf("%d bytes: %d came back, %v", size, len(got), err)
		}
		c.Close()
		eventually(t, "the connection ends", func() bool { return g.Stats().Passing == 0 })
		if s := g.Stats(); s.BytesIn != int64(len(got)) || s.BytesOut != int64(len(got)) {
			t.Errorf("%d bytes: Stats = %+v", len(got), s)
		}
	}
}

func TestAPassThatIsIdleEnds(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	r := accepting(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	g := tunnel.NewGateway(tunnel.GatewayConfig{Route: always(r.addr), Source: sourceOf(t, m.east.svid(t, gate, time.Hour), m.bundles),
		Domain: func() mesh.TrustDomain { return east }, Log: m.logger(), IdleTimeout: 150 * time.Millisecond})
	gw := serve(t, listen(t), g.Serve)
	c := helloTo(t, gw.addr)
	defer c.Close()
	// One direction moves: the other, which is silent, does not end it.
	for range 10 {
		<-time.After(40 * time.Millisecond)
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if n := g.Stats().Passing; n != 1 {
		t.Fatalf("%d connections pass while bytes move, want 1", n)
	}
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Fatalf("read %d, %v", n, err)
	}
	eventually(t, "the connection ends", func() bool { return g.Stats().Passing == 0 })
}

func TestASourceHasAShareOfAGateway(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	r := accepting(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	g := tunnel.NewGateway(tunnel.GatewayConfig{Route: always(r.addr), Source: sourceOf(t, m.east.svid(t, gate, time.Hour), m.bundles),
		Domain: func() mesh.TrustDomain { return east }, Log: m.logger(), MaxConns: 4})
	gw := serve(t, listen(t), g.Serve)
	first := helloTo(t, gw.addr)
	defer first.Close()
	eventually(t, "the first passes", func() bool { return g.Stats().Passing == 1 })
	if second, err := net.Dial("tcp", gw.addr.String()); err == nil { // it may be reset before it is seen to be made
		defer second.Close()
	}
	eventually(t, "the second is refused", func() bool { return g.Stats().Refused == 1 })
	other := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	third, err := other.Dial("tcp", gw.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	if _, err := third.Write([]byte("GET / HTTP/1.1\r\n\r\n")); err != nil { // it is heard
		t.Fatal(err)
	}
	if err := third.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	alert, err := io.ReadAll(third)
	if want := []byte{21, 3, 3, 0, 2, 2, 112}; !bytes.Equal(alert, want) {
		t.Errorf("another source got %v, %v, want %v", alert, err, want)
	}
}

// TestGatewaysAnswerForThemselves pings a gateway by its own name.
func TestGatewaysAnswerForThemselves(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	gw, _ := m.gateway(t, func(mesh.SNI) (netip.AddrPort, bool) { return netip.AddrPort{}, false })
	cfg := trust.ClientConfig(sourceOf(t, m.west.svid(t, shop, time.Hour), m.bundles), trust.AcceptServers(east, gate), tunnel.GatewayName(east), "h2")
	c, err := tls.Dial("tcp", gw.addr.String(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	cc, err := http2.NewClientConn(c, http2.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	if _, err := cc.Ping(ctx); err != nil {
		t.Errorf("ping: %v", err)
	}
}
