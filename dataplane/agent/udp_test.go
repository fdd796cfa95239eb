package agent_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/agent"
	"github.com/isthmus-mesh/isthmus/internal/loopback"
	"github.com/isthmus-mesh/isthmus/mesh"
)

var resolver = mesh.ServiceName{Namespace: "shop", Name: "resolver"}

// udpPort is a port of resolver, of UDP and of TCP as 53 is.
const udpPort = 5353

// udpApp answers each datagram with its name, the session's port as it sees it, and what it got.
func udpApp(t testing.TB, name string) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(host)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			_, _ = c.WriteToUDPAddrPort(fmt.Appendf(nil, "%s %d %s", name, from.Port(), b[:n]), from)
		}
	}()
	return c
}

// udpServer starts a sidecar of resolver, and returns the endpoint.
func (w *world) udpServer(c mesh.ClusterName, name string, udp *net.UDPConn) (*member, ir.Endpoint) {
	w.t.Helper()
	inbound := loopback.AddrPort(w.t)
	w.script.set("shop/"+name, &ir.Proxy{ID: "shop/" + name, Inbound: []ir.Inbound{{Service: resolver, Ports: []ir.InboundPort{
		{Port: udpPort, Protocol: mesh.ProtocolUDP, Target: udp.LocalAddr().(*net.UDPAddr).AddrPort()},
		{Port: udpPort, Protocol: mesh.ProtocolHTTP, Target: app(w.t, name)}}}}})
	m := w.start(c, "shop/"+name, resolver.Name, func(cfg *agent.Config) { cfg.Inbound = inbound })
	return m, ir.Endpoint{Tag: name, Proxy: inbound, Weight: 1}
}

// talker is a client of UDP.
type talker struct {
	t testing.TB
	net.Conn
}

func udpClient(t testing.TB, at netip.AddrPort) *talker {
	t.Helper()
	c, err := net.Dial("udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &talker{t, c}
}

// ask sends until an answer comes, as clients of UDP do, and returns who answered, and to which port.
func (c *talker) ask(data string) (name, session string) {
	c.t.Helper()
	b := make([]byte, 1<<16)
	limit := time.Now().Add(bound)
	for n := 0; time.Now().Before(limit); n++ {
		what := fmt.Sprintf("%d/%s", n, data)
		if _, err := c.Write([]byte(what)); err != nil {
			continue // refused, while nobody listens
		}
		_ = c.SetReadDeadline(time.Now().Add(250 * time.Millisecond))
		for {
			k, err := c.Read(b)
			if err != nil {
				break
			}
			if f := strings.SplitN(string(b[:k]), " ", 3); len(f) == 3 && f[2] == what {
				return f[0], f[1]
			}
		}
	}
	c.t.Fatalf("nobody answered %.20q", data)
	return "", ""
}

// TestUDPIsCarried is one mesh and what sessions of UDP meet in it, in order.
func TestUDPIsCarried(t *testing.T) {
	w := newWorld(t)
	apps := map[string]*net.UDPConn{"udp-0": udpApp(t, "udp-0"), "udp-1": udpApp(t, "udp-1"), "udp-2": udpApp(t, "udp-2")}
	servers, relays, local := map[string]*member{}, map[string]*relay{}, []ir.Endpoint{}
	for _, name := range []string{"udp-0", "udp-1"} {
		m, e := w.udpServer("eu-west", name, apps[name])
		r := newRelay(t, e.Proxy)
		e.Proxy = r.addr()
		servers[name], relays[name], local = m, r, append(local, e)
	}
	far, e2 := w.udpServer("us-east", "udp-2", apps["udp-2"])
	gateway, services := loopback.AddrPort(t), loopback.Net(t)
	w.script.set("shop/gateway", &ir.Proxy{ID: "shop/gateway"})
	w.script.set(resolver.String(), &ir.Slots{TrustDomain: w.clusters["us-east"].td,
		Table: mesh.SlotTable{Service: resolver, Generation: 1, Slots: addrs(e2), Moved: []uint64{1}}})
	gate := w.start("us-east", "shop/gateway", "gateway", func(c *agent.Config) { c.Mode, c.Gateway = agent.ModeGateway, gateway })
	w.script.set("us-east", &ir.Cluster{Name: "us-east", TrustDomain: w.clusters["us-east"].td, RTT: 80 * time.Millisecond, Gateways: []netip.AddrPort{gateway}})
	w.service(resolver, []ir.Group{
		{Cluster: "eu-west", Exported: true, Identities: w.identity("eu-west", resolver), Endpoints: local},
		{Cluster: "us-east", Exported: true, Identities: w.identity("us-east", resolver), Slots: []uint64{1}}}, nil)
	ports := []ir.Port{{Name: "dns", Port: udpPort, Protocol: mesh.ProtocolUDP}, {Name: "dns-tcp", Port: udpPort, Protocol: mesh.ProtocolHTTP}}
	w.script.set(resolver.String(), &ir.Service{Name: resolver, Ports: ports, Traffic: ir.Traffic{Strategy: mesh.StrategyAuto, ConnectTimeout: 10 * time.Second,
		RequestTimeout: 15 * time.Second, Retry: mesh.RetryPolicy{Attempts: 2}, Outlier: mesh.Outlier{ConsecutiveFailures: 3}}})
	w.script.set(resolver.String(), &ir.Name{Service: resolver, Ports: ports, Address: netip.MustParseAddr("127.9.9.18")})
	w.script.set("shop/frontend", &ir.Proxy{ID: "shop/frontend"})
	client := w.start("eu-west", "shop/frontend", "frontend", func(c *agent.Config) {
		c.Outbound, c.ServiceNet = loopback.AddrPort(t), services
	})
	for _, m := range []*member{servers["udp-0"], servers["udp-1"], far, gate, client} {
		m.waitReady(t)
	}
	at := netip.AddrPortFrom(in(services, 18), udpPort)
	one, two := udpClient(t, at), udpClient(t, at)
	name, session := one.ask("x")
	t.Run("each client has a session, which stays with its endpoint", func(t *testing.T) {
		if _, other := two.ask("x"); other == session {
			t.Errorf("two clients share the session of port %s", session)
		}
		for _, size := range []int{0, 1, 1200, 9000, 60000} {
			if n, s := one.ask(strings.Repeat("d", size)); n != name || s != session {
				t.Errorf("a datagram of %d bytes went to %s from port %s, the one before to %s from %s", size, n, s, name, session)
			}
		}
	})
	t.Run("the port of TCP with the same number is another", func(t *testing.T) {
		c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: bound}
		if status, reason, body := ask(t, c, "http://"+at.String()+"/x"); status != 200 || !strings.Contains(body, " GET /x ") {
			t.Errorf("%d %s %q", status, reason, body)
		}
		conn, err := net.Dial("tcp", client.cfg.Outbound.String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		// A connection is not taken for a session, whatever is in it.
		_, _ = io.WriteString(conn, "CONNECT resolver.shop:5353 HTTP/1.1\r\nHost: resolver.shop:5353\r\n\r\n\x00\x01x")
		b := make([]byte, 1024)
		n, _ := conn.Read(b)
		if bytes.Contains(b[:n], []byte(name+" ")) {
			t.Errorf("%q", b[:n])
		}
	})
	t.Run("metrics tell of sessions", func(t *testing.T) {
		c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: bound}
		_, _, text := ask(t, c, "http://"+client.cfg.Admin.String()+"/metrics")
		for _, want := range []string{`destination_service="resolver",destination_namespace="shop",destination_cluster="eu-west",protocol="UDP"`, "isthmus_datagrams_dropped_total 0"} {
			if !strings.Contains(text, want) {
				t.Errorf("the metrics have no %s:\n%s", want, text)
			}
		}
	})
	t.Run("an application that died ends its sessions, and the next datagram goes elsewhere", func(t *testing.T) {
		apps[name].Close()
		if n, _ := one.ask("x"); n == name || n == "udp-2" {
			t.Errorf("%s answered", n)
		}
	})
	t.Run("so does a proxy that was killed; then the other cluster serves, through its gateway", func(t *testing.T) {
		for _, r := range relays {
			r.kill()
		}
		if n, _ := one.ask("x"); n != "udp-2" {
			t.Errorf("%s answered", n)
		}
	})
	t.Run("sessions do not hold up who drains", func(t *testing.T) {
		// waiting fails after 20 s, before the drain time of 30 s has passed
		for _, m := range []*member{far, client} {
			if err := m.end(); err == nil || !strings.Contains(err.Error(), "context canceled") {
				t.Errorf("ended with %v", err)
			}
		}
	})
}
