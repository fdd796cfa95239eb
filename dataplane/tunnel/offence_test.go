package tunnel_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/tunnel"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// shake makes a connection as a peer with that certificate, or none.
func (m *mesh2) shake(addr netip.AddrPort, s *trust.SVID) (*tls.Conn, error) {
	cfg := &tls.Config{ServerName: mesh.SNI{Service: ordersName, TrustDomain: east}.String(), NextProtos: []string{tunnel.ALPN},
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}
	if s != nil {
		cfg.Certificates = []tls.Certificate{{Certificate: s.Chain, PrivateKey: s.Key, Leaf: s.Leaf}}
	}
	return tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", addr.String(), cfg)
}

// resets floods a connection with requests that are broken off at once, until it ends.
func resets(t *testing.T, c net.Conn) {
	t.Helper()
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = io.Copy(io.Discard, c)
	}()
	var out, block bytes.Buffer
	f := http2.NewFramer(&out, nil)
	enc := hpack.NewEncoder(&block)
	out.WriteString(http2.ClientPreface)
	_ = f.WriteSettings()
	for i := range uint32(100_000) {
		block.Reset()
		for _, h := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "orders.default"}, {":path", "/"}} {
			_ = enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
		}
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
		_ = f.WriteRSTStream(2*i+1, http2.ErrCodeCancel)
		if out.Len() < 8<<10 {
			continue
		}
		if _, err := c.Write(out.Bytes()); err != nil {
			break
		}
		out.Reset()
	}
	<-gone
}

// greeted reads what a server says first: SETTINGS, and a GOAWAY if it turns the peer away.
func greeted(t *testing.T, c net.Conn) (turned bool) {
	t.Helper()
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(c, http2.ClientPreface)
	f := http2.NewFramer(c, c)
	_ = f.WriteSettings()
	_ = f.WritePing(false, [8]byte{1})
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return true // by a reset, which overtook the words
		}
		switch frame := frame.(type) {
		case *http2.GoAwayFrame:
			if frame.ErrCode != http2.ErrCodeEnhanceYourCalm || frame.LastStreamID != 0 {
				t.Errorf("turned away by %v after stream %d", frame.ErrCode, frame.LastStreamID)
			}
			return true
		case *http2.PingFrame:
			return false
		}
	}
}

func (m *mesh2) flooded(t *testing.T, forgive bool) (srv *tunnel.Server, at *running, handled *atomic.Int64) {
	handled = &atomic.Int64{}
	answer := answerWith("hello")
	srv = tunnel.NewServer(tunnel.ServerConfig{Source: sourceOf(t, m.east.svid(t, orders, time.Hour), m.bundles), Now: time.Now, Log: m.logger(),
		Handle: func(ex message.Exchange, p tunnel.Peer) { handled.Add(1); answer(ex, p) },
		Serves: func(n mesh.SNI) bool { return n.Service == ordersName }})
	if forgive {
		srv.Forgive()
	}
	return srv, serve(t, listen(t), srv.Serve), handled
}

// TestAFloodIsRememberedOverConnections: a peer whose connection was ended for a flood is turned away when it comes
// again, before anything of it is read. Its connections that are in order go on, and so does everybody else who comes from the
// same address.
func TestAFloodIsRememberedOverConnections(t *testing.T) {
	m := newMesh(t)
	srv, at, handled := m.flooded(t, false)
	bad := m.west.svid(t, thief2, time.Hour)
	d, _ := m.dialer(t, nil)
	mustGet(t, d, want(at.addr, 0))
	in, _ := m.dialerAs(t, bad, nil) // the same identity, in order, from before
	mustGet(t, in, want(at.addr, 0))
	c, err := m.shake(at.addr, bad)
	if err != nil {
		t.Fatal(err)
	}
	resets(t, c)
	eventually(t, "the flood is noticed", func() bool { return m.log.has("its peer floods it") })
	before := handled.Load()
	if c, err = m.shake(at.addr, bad); err == nil && !greeted(t, c) {
		t.Error("a peer that has just flooded is served again")
	}
	if n := handled.Load(); n != before {
		t.Errorf("%d requests of one who is turned away were begun", n-before)
	}
	eventually(t, "it is said and counted", func() bool { return m.log.has("turned away") && srv.Stats().TurnedAway > 0 })
	mustGet(t, in, want(at.addr, 0))
	mustGet(t, d, want(at.addr, 0))
	fresh, _ := m.dialer(t, nil)
	mustGet(t, fresh, want(at.addr, 0))
}

func TestControlAFloodIsForgottenWithItsConnection(t *testing.T) {
	m := newMesh(t)
	_, at, _ := m.flooded(t, true)
	bad := m.west.svid(t, thief2, time.Hour)
	for range 2 {
		c, err := m.shake(at.addr, bad)
		if err != nil {
			t.Fatal(err)
		}
		resets(t, c)
	}
	c, err := m.shake(at.addr, bad)
	if err != nil {
		t.Fatal(err)
	}
	if greeted(t, c) {
		t.Error("without the memory a peer that has flooded is turned away")
	}
}

var thief2 = mesh.Identity{TrustDomain: west, Namespace: "default", ServiceAccount: "gone-bad"}

// TestHandshakesThatComeToNothingAreBounded: an address whose handshakes fail is refused before a handshake is begun once
// it has wasted its allowance.
func TestHandshakesThatComeToNothingAreBounded(t *testing.T) {
	for _, forgive := range []bool{false, true} {
		m := newMesh(t)
		srv, at, _ := m.flooded(t, forgive)
		for range 400 {
			c, err := net.Dial("tcp", at.addr.String())
			if err != nil {
				continue // refused so soon that it shows here
			}
			_, _ = c.Write([]byte("this is no handshake"))
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
			c.Close()
		}
		if n := srv.Stats().Refused; (n == 0) != forgive {
			t.Errorf("defence %v: %d of 400 connections were refused at the door", !forgive, n)
		}
	}
}
