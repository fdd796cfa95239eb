package tunnel_test

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/dataplane/tunnel"
)

// TestServersAreReachedWhereTheyAreTranslatedTo: the proxy is known by one address and connected to at another,
// even where its own lies in a network that nothing leads into.
func TestServersAreReachedWhereTheyAreTranslatedTo(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	srv := m.orders(t)
	l := newLink(t, func() netip.AddrPort { return srv.addr })
	known, unknown := netip.MustParseAddrPort("127.9.3.1:15008"), netip.MustParseAddrPort("127.9.4.1:15008")
	d, _ := m.dialer(t, func(c *tunnel.DialerConfig) {
		c.Paths = tunnel.Paths{Translate: map[netip.AddrPort]netip.AddrPort{known: l.addr}, Unreachable: []netip.Prefix{netip.MustParsePrefix("127.9.0.0/16")}}
	})
	mustGet(t, d, want(known, 0))
	l.mu.Lock()
	dials := l.dials
	l.mu.Unlock()
	if dials != 1 {
		t.Errorf("%d connections through the link, want 1", dials)
	}
	if _, _, err := get(d, want(unknown, 0), nil); err == nil || !strings.Contains(err.Error(), "127.9.4.1:15008: no path leads there") {
		t.Errorf("where no path leads: %v, want a refusal that says so", err)
	}
	mustGet(t, d, want(srv.addr, 0)) // anywhere else: as ever
}

// TestWhatIsBehindAGatewayOrALinkIsNotNear, however short the way to those is; nor is what the kernel knows nothing of.
func TestWhatIsBehindAGatewayOrALinkIsNotNear(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	pipe, other := net.Pipe()
	defer pipe.Close()
	defer other.Close()
	here, linked := netip.MustParseAddrPort(ln.Addr().String()), netip.MustParseAddrPort("127.9.3.1:15008")
	d, _ := newMesh(t).dialer(t, func(c *tunnel.DialerConfig) {
		c.Paths = tunnel.Paths{Translate: map[netip.AddrPort]netip.AddrPort{linked: here}}
	})
	for _, tt := range []struct {
		name    string
		conn    net.Conn
		addr    netip.AddrPort
		gateway bool
		want    bool
	}{{"a proxy", c, here, false, true}, {"a gateway", c, here, true, false}, {"a link", c, linked, false, false}, {"no socket", pipe, here, false, false}} {
		if got := d.Near(tt.conn, tt.addr, &tunnel.Want{Gateway: tt.gateway}); got != tt.want {
			t.Errorf("%s is near: %v, want %v", tt.name, got, tt.want)
		}
	}
}
