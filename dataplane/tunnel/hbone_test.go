package tunnel_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/tunnel"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// hello makes a connection as a peer with that certificate, or none, asking for a name, or none, and offering protocols.
func hello(addr netip.AddrPort, s *trust.SVID, name string, offers ...string) (*tls.Conn, error) {
	cfg := &tls.Config{ServerName: name, NextProtos: offers, MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}
	if s != nil {
		cfg.Certificates = []tls.Certificate{{Certificate: s.Chain, PrivateKey: s.Key, Leaf: s.Leaf}}
	}
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: bound}, "tcp", addr.String(), cfg)
	if err == nil {
		_ = c.SetDeadline(time.Now().Add(bound))
	}
	return c, err
}

// asks sends a request on a connection that has just been made, and returns the status and fields that come back.
func asks(c net.Conn, fields ...string) (status string, got map[string]string, settings map[http2.SettingID]uint32, err error) {
	f := http2.NewFramer(c, c)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err = io.WriteString(c, http2.ClientPreface); err == nil {
		err = f.WriteSettings()
	}
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		_ = enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	if err == nil {
		err = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
	}
	settings = map[http2.SettingID]uint32{}
	for err == nil {
		var frame http2.Frame
		if frame, err = f.ReadFrame(); err != nil {
			break
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			_ = frame.ForeachSetting(func(s http2.Setting) error { settings[s.ID] = s.Val; return nil })
			if !frame.IsAck() {
				err = f.WriteSettingsAck()
			}
		case *http2.MetaHeadersFrame:
			got = map[string]string{}
			for _, h := range frame.Fields {
				got[h.Name] = h.Value
			}
			return got[":status"], got, settings, nil
		case *http2.GoAwayFrame:
			err = fmt.Errorf("GOAWAY %v %s", frame.ErrCode, frame.DebugData())
		case *http2.RSTStreamFrame:
			err = fmt.Errorf("RST_STREAM %v", frame.ErrCode)
		}
	}
	return "", nil, settings, err
}

var connectTo = []string{":method", "CONNECT", ":authority", "10.0.0.9:80"}

// TestHBONEIsToldByALPN: who offers h2 and not what our proxies speak is a proxy of another mesh, and need ask for no name. A name
// that is not served is refused as ever, and who offers both is one of ours.
func TestHBONEIsToldByALPN(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	seen := make(chan tunnel.Peer, 1)
	answer := answerWith("")
	srv, _ := m.server(t, m.east.svid(t, orders, time.Hour), func(ex message.Exchange, p tunnel.Peer) { seen <- p; answer(ex, p) })
	svid := m.west.svid(t, shop, time.Hour)
	name := mesh.SNI{Slot: 3, Service: ordersName, TrustDomain: east}
	for _, c := range []struct {
		name   string
		offers []string
		want   *tunnel.Peer // nil: refused
	}{
		{"", []string{tunnel.HBONE}, &tunnel.Peer{Identity: shop, HBONE: true}},
		{"", []string{"http/1.1", tunnel.HBONE}, &tunnel.Peer{Identity: shop, HBONE: true}},
		{name.String(), []string{tunnel.HBONE}, &tunnel.Peer{Identity: shop, SNI: name, HBONE: true}},
		{name.String(), []string{tunnel.HBONE, tunnel.ALPN}, &tunnel.Peer{Identity: shop, SNI: name}},
		{name.String(), []string{tunnel.ALPN}, &tunnel.Peer{Identity: shop, SNI: name}},
		{"0.other.default." + string(east), []string{tunnel.HBONE}, nil},
		{"orders.default.svc.clusterset.local", []string{tunnel.HBONE}, nil},
		{"", []string{tunnel.HBONE, tunnel.ALPN}, nil},
		{"", []string{tunnel.ALPN}, nil},
		{"", []string{"http/1.1"}, nil},
		{name.String(), []string{"http/1.1"}, nil},
		{name.String(), nil, nil},
		{"", nil, nil},
	} {
		conn, err := hello(srv.addr, svid, c.name, c.offers...)
		status := ""
		if err == nil {
			status, _, _, err = asks(conn, connectTo...)
			conn.Close()
		}
		switch {
		case c.want == nil && err == nil:
			t.Errorf("%q offering %q: answered %s", c.name, c.offers, status)
		case c.want == nil:
			if unserved := c.name != name.String(); unserved && !strings.Contains(err.Error(), "unrecognized name") {
				t.Errorf("%q offering %q: %v, want the alert unrecognized_name", c.name, c.offers, err)
			}
		case err != nil || status != "200":
			t.Errorf("%q offering %q: %s, %v", c.name, c.offers, status, err)
		default:
			if got := <-seen; got != *c.want {
				t.Errorf("%q offering %q: %+v, want %+v", c.name, c.offers, got, *c.want)
			}
		}
	}
}

// TestHBONEWantsTheSameProof of who is there as connections of our own.
func TestHBONEWantsTheSameProof(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	srv := m.orders(t)
	mars := newAuthority(t, "mars.isthmus.local")
	impostor := newAuthority(t, west)
	for name, svid := range map[string]*trust.SVID{
		"nobody":                 nil,
		"a stranger":             mars.svid(t, mesh.Identity{TrustDomain: mars.td, Namespace: "x", ServiceAccount: "y"}, time.Hour),
		"an impostor":            impostor.svid(t, shop, time.Hour),
		"one of an earlier day":  m.west.svid(t, shop, -time.Minute),
		"":                       m.west.svid(t, shop, time.Hour),
		"one of our own cluster": m.east.svid(t, thief, time.Hour),
	} {
		status := ""
		conn, err := hello(srv.addr, svid, "", tunnel.HBONE)
		if err == nil {
			status, _, _, err = asks(conn, connectTo...)
			conn.Close()
		}
		if lawful := name == "" || strings.HasPrefix(name, "one of our"); lawful != (err == nil && status == "200") {
			t.Errorf("%s: %s, %v", name, status, err)
		}
	}
	eventually(t, "the log says why", func() bool {
		return m.log.has("a connection was refused") && m.log.has("reason="+string(mesh.ReasonTLS))
	})
}

// TestHBONEHasNoExtendedConnect: it is neither offered nor taken; between our own proxies it is both.
func TestHBONEHasNoExtendedConnect(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	srv := m.orders(t)
	svid := m.west.svid(t, shop, time.Hour)
	const enableConnectProtocol = http2.SettingID(0x8) // RFC 8441 §3
	name := mesh.SNI{Service: ordersName, TrustDomain: east}.String()
	for protocol, want := range map[string]string{tunnel.HBONE: "400", tunnel.ALPN: "200"} {
		conn, err := hello(srv.addr, svid, name, protocol)
		if err != nil {
			t.Fatal(err)
		}
		status, fields, settings, err := asks(conn, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":authority", "10.0.0.9:80", ":path", "/")
		conn.Close()
		if err != nil || status != want || settings[enableConnectProtocol] != map[string]uint32{"400": 0, "200": 1}[want] {
			t.Errorf("%s: status %s with %v, settings %v, %v; want %s", protocol, status, fields, settings, err, want)
		}
		if want == "400" && fields["isthmus-reason"] != string(mesh.ReasonMalformed) {
			t.Errorf("%s: %v", protocol, fields)
		}
	}
}

// TestAFloodByHBONEIsRemembered, whichever protocol its peer comes back with.
func TestAFloodByHBONEIsRemembered(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	srv, at, handled := m.flooded(t, false)
	bad, good := m.west.svid(t, thief2, time.Hour), m.west.svid(t, shop, time.Hour)
	conn, err := hello(at.addr, bad, "", tunnel.HBONE)
	if err != nil {
		t.Fatal(err)
	}
	resets(t, conn)
	eventually(t, "the flood is noticed", func() bool { return m.log.has("its peer floods it") })
	before := handled.Load()
	name := mesh.SNI{Service: ordersName, TrustDomain: east}.String()
	for protocol, name := range map[string]string{tunnel.HBONE: "", tunnel.ALPN: name} {
		if conn, err = hello(at.addr, bad, name, protocol); err == nil && !greeted(t, conn) {
			t.Errorf("%s: a peer that has just flooded is served again", protocol)
		}
	}
	if n := handled.Load(); n != before {
		t.Errorf("%d streams of one who is turned away were begun", n-before)
	}
	eventually(t, "it is counted", func() bool { return srv.Stats().TurnedAway > 0 })
	if conn, err = hello(at.addr, good, "", tunnel.HBONE); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if status, _, _, err := asks(conn, connectTo...); err != nil || status != "200" {
		t.Errorf("another peer of the same address: %s, %v", status, err)
	}
}

// TestALostRootCutsHBONE as it cuts all live connections.
func TestALostRootCutsHBONE(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	srv, source := m.server(t, m.east.svid(t, orders, time.Hour), answerWith("hello"))
	conn, err := hello(srv.addr, m.west.svid(t, shop, time.Hour), "", tunnel.HBONE)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if status, _, _, err := asks(conn, connectTo...); err != nil || status != "200" {
		t.Fatalf("%s, %v", status, err)
	}
	if err := source.Update(nil, bundlesOf(t, m.east)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, net.ErrClosed) || isTimeout(err) {
		t.Errorf("a connection whose peer is trusted no more: %v", err)
	}
	if !m.log.has("its peer is no longer trusted") {
		t.Error("the log does not say why it was cut")
	}
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// TestClientsOfHBONEAreAsked: one that is silent for hours lives as long as it answers, which HTTP/2 does by itself; one
// that does not is given up. Who is not asked is given up either way: TestServersGiveUpClientsThatAreGone.
func TestClientsOfHBONEAreAsked(t *testing.T) {
	inBubble(t, func(t *testing.T, m *mesh2, p *pipes, hang chan struct{}) {
		cc, s := p.openAs(t, m, m.west.svid(t, shop, 4*time.Hour), "", tunnel.HBONE)
		defer cc.Close()
		<-time.After(3 * time.Hour)
		close(hang)
		var h message.Head
		if _, err := s.Receive(&h); err != nil || h.Status != 200 {
			t.Errorf("after three hours: %d, %v", h.Status, err)
		}
		s.Close()
	})
	inBubble(t, func(t *testing.T, m *mesh2, p *pipes, hang chan struct{}) {
		defer close(hang)
		a, b := net.Pipe()
		p.conns <- b
		tc := tls.Client(a, trust.ClientConfig(sourceOf(t, m.west.svid(t, shop, time.Hour), m.bundles), trust.AcceptServers(east, orders), "", tunnel.HBONE))
		if err := tc.Handshake(); err != nil {
			t.Fatal(err)
		}
		var first bytes.Buffer
		f := http2.NewFramer(&first, nil)
		first.WriteString(http2.ClientPreface)
		_, _ = f.WriteSettings(), f.WriteSettingsAck()
		var block bytes.Buffer
		enc := hpack.NewEncoder(&block)
		for i := 0; i < len(connectTo); i += 2 {
			_ = enc.WriteField(hpack.HeaderField{Name: connectTo[i], Value: connectTo[i+1]})
		}
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true})
		if _, err := tc.Write(first.Bytes()); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_, _ = io.Copy(io.Discard, tc) // it reads all, and answers nothing
		tc.Close()
		if took := time.Since(began); took < 10*time.Second || took > 15*time.Second {
			t.Errorf("given up after %s of silence, want 10 to 15 s", took)
		}
	})
}
