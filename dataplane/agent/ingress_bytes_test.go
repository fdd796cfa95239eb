package agent_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
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

// tcpApp answers each connection with its name and what it got, once its client has ended its direction; one that begins with
// ">" is told its name at once.
func tcpApp(t testing.TB, name string) netip.AddrPort {
	t.Helper()
	return listening(t, func(c net.Conn) {
		first := make([]byte, 1)
		if n, _ := c.Read(first); n == 1 && first[0] == '>' {
			fmt.Fprintf(c, "%s ", name)
		}
		b, err := io.ReadAll(c)
		if err == nil && first[0] == '>' {
			_, err = c.Write(b)
		} else if err == nil {
			_, err = fmt.Fprintf(c, "%s %s%s", name, first, b)
		}
		if err != nil {
			t.Logf("%s: %v", name, err)
		}
	})
}

// tlsApp answers each connection of TLS with the server name that it asked for.
func tlsApp(t testing.TB) netip.AddrPort {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)},
		&x509.Certificate{SerialNumber: big.NewInt(1)}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	return listening(t, func(c net.Conn) {
		s := tls.Server(c, config)
		if s.Handshake() == nil {
			fmt.Fprintf(s, "TLS for %s", s.ConnectionState().ServerName)
		}
		s.Close()
	})
}

// listening serves connections until the test ends.
func listening(t testing.TB, one func(net.Conn)) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(2 * bound))
				one(c)
			}()
		}
	}()
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// said sends bytes to a port, ends its direction and returns what is answered.
func said(t testing.TB, at netip.AddrPort, what string) (string, error) {
	t.Helper()
	c, err := net.Dial("tcp", at.String())
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(bound))
	if _, err := io.WriteString(c, what); err != nil {
		return "", err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	return string(b), err
}

// shaken makes a connection of TLS and returns what it is told.
func shaken(at netip.AddrPort, name string) (string, error) {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: bound}, "tcp", at.String(), &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(bound))
	b, err := io.ReadAll(c)
	return string(b), err
}

// behind are two clusters of which us-east is reached by its gateway, and services in both: resolver of UDP, and catalog whose
// port 81 is bytes; vault, in eu-west alone, is TLS.
type behind struct {
	*world
	apps    map[string]*net.UDPConn
	servers map[string]*member
}

var vault = mesh.ServiceName{Namespace: "shop", Name: "vault"}

func newBehind(t *testing.T) *behind {
	w := &behind{world: newWorld(t), apps: map[string]*net.UDPConn{}, servers: map[string]*member{}}
	gateway := loopback.AddrPort(t)
	w.script.set("shop/gateway", &ir.Proxy{ID: "shop/gateway"})
	w.servers["gateway"] = w.start("us-east", "shop/gateway", "gateway", func(c *agent.Config) { c.Mode, c.Gateway = agent.ModeGateway, gateway })
	w.script.set("us-east", &ir.Cluster{Name: "us-east", TrustDomain: w.clusters["us-east"].td, RTT: 80 * time.Millisecond, Gateways: []netip.AddrPort{gateway}})
	group := func(n mesh.ServiceName, near, far ir.Endpoint) []ir.Group {
		w.script.set(n.String(), &ir.Slots{TrustDomain: w.clusters["us-east"].td, Table: mesh.SlotTable{Service: n, Generation: 1, Slots: addrs(far), Moved: []uint64{1}}})
		return []ir.Group{{Cluster: "eu-west", Exported: true, Identities: w.identity("eu-west", n), Endpoints: []ir.Endpoint{near}},
			{Cluster: "us-east", Exported: true, Identities: w.identity("us-east", n), Slots: []uint64{1}}}
	}
	udp := func(c mesh.ClusterName, name string) (e ir.Endpoint) {
		w.apps[name] = udpApp(t, name)
		w.servers[name], e = w.udpServer(c, name, w.apps[name])
		return e
	}
	tcp := func(c mesh.ClusterName, name string, n mesh.ServiceName, at netip.AddrPort) (e ir.Endpoint) {
		w.servers[name], e = w.serverOf(c, name, n, at)
		return e
	}
	w.service(resolver, group(resolver, udp("eu-west", "udp-0"), udp("us-east", "udp-2")), nil)
	w.service(catalog, group(catalog, tcp("eu-west", "catalog-0", catalog, tcpApp(t, "catalog-0")), tcp("us-east", "catalog-1", catalog, tcpApp(t, "catalog-1"))), nil)
	w.service(vault, []ir.Group{{Cluster: "eu-west", Exported: true, Identities: w.identity("eu-west", vault), Endpoints: []ir.Endpoint{tcp("eu-west", "vault-0", vault, tlsApp(t))}}}, nil)
	ports := []ir.Port{{Name: "dns", Port: udpPort, Protocol: mesh.ProtocolUDP}}
	w.script.set(resolver.String(), &ir.Service{Name: resolver, Ports: ports, Traffic: ir.Traffic{Strategy: mesh.StrategyAuto, ConnectTimeout: 10 * time.Second,
		RequestTimeout: 15 * time.Second, Retry: mesh.RetryPolicy{Attempts: 2}, Outlier: mesh.Outlier{ConsecutiveFailures: 3}}})
	w.script.set(resolver.String(), &ir.Name{Service: resolver, Ports: ports, Address: netip.MustParseAddr("127.9.9.18")})
	return w
}

func hostsTo(kind string, n mesh.ServiceName, port uint16, names ...string) (out []ir.VirtualHost) {
	for _, h := range names {
		out = append(out, ir.VirtualHost{Hostname: h, Routes: []ir.Route{{Object: kind + " shop/r", Datagrams: kind == "UDPRoute", Backends: []ir.Backend{{Service: n, Port: port, Weight: 1}}}}})
	}
	return out
}

// TestAnIngressGatewayCarriesBytes is a Gateway with listeners of UDP, TCP and TLS, and what clients outside the mesh meet there.
func TestAnIngressGatewayCarriesBytes(t *testing.T) {
	w := newBehind(t)
	w.script.set("shop/web", &ir.Gateway{Namespace: "shop", Name: "web", Object: "Gateway shop/web@eu-west", Listeners: []ir.Listener{
		{Name: "dns", Port: 53, Protocol: mesh.ListenerUDP, Hosts: hostsTo("UDPRoute", resolver, udpPort, "")},
		{Name: "bytes", Port: 53, Protocol: mesh.ListenerTCP, Hosts: hostsTo("TCPRoute", catalog, 81, "")},
		{Name: "bare", Port: 54, Protocol: mesh.ListenerUDP}, {Name: "bare-tcp", Port: 54, Protocol: mesh.ListenerTCP},
		{Name: "tls", Port: 443, Protocol: mesh.ListenerTLS, Hosts: hostsTo("TLSRoute", vault, 81, "vault.example")},
		{Name: "http", Port: 80, Protocol: mesh.ListenerHTTP, Hosts: hostsTo("HTTPRoute", catalog, 80, "shop.example")},
	}})
	at := loopback.Net(t).Addr().Next()
	door := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(at, port) }
	in := w.ingressGateway(at)
	for _, m := range w.servers {
		m.waitReady(t)
	}
	in.waitReady(t)
	one, two := udpClient(t, door(8053)), udpClient(t, door(8053))
	t.Run("each client of UDP has a session with an endpoint, and its own answers", func(t *testing.T) {
		name, session := one.ask("x")
		if name != "udp-0" {
			t.Errorf("%s answered, want the near one", name)
		}
		if _, other := two.ask("x"); other == session {
			t.Errorf("two clients share the session of port %s", session)
		}
		for _, size := range []int{0, 1, 1200, 60000} {
			if n, s := one.ask(strings.Repeat("d", size)); n != name || s != session {
				t.Errorf("a datagram of %d bytes went to %s from port %s, the one before to %s from %s", size, n, s, name, session)
			}
		}
	})
	t.Run("bytes of TCP, of which each direction ends by itself", func(t *testing.T) {
		for _, what := range []string{"x", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", strings.Repeat("long", 1<<18)} {
			if got, err := said(t, door(8053), what); err != nil || got != "catalog-0 "+what {
				t.Errorf("%d bytes: answered %d, %.40q, %v", len(what), len(got), got, err)
			}
		}
	})
	t.Run("TLS goes by the name that it asks for, and ends at the backend", func(t *testing.T) {
		if got, err := shaken(door(8443), "Vault.example"); err != nil || !strings.EqualFold(got, "TLS for vault.example") {
			t.Errorf("%q, %v", got, err)
		}
		for _, name := range []string{"other.example", "vault.shop.svc.clusterset.local", ""} {
			if got, err := shaken(door(8443), name); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
				t.Errorf("%q: %q, %v: want an alert", name, got, err)
			}
		}
		if got, err := said(t, door(8443), "GET / HTTP/1.1\r\nHost: vault.example\r\n\r\n"); err == nil && got != "\x15\x03\x03\x00\x02\x02\x70" {
			t.Errorf("what is not TLS is answered %q", got)
		}
	})
	t.Run("a listener without a route takes nothing", func(t *testing.T) {
		if got, err := said(t, door(8054), "x"); err == nil && got != "" {
			t.Errorf("answered %q", got)
		}
		c := udpClient(t, door(8054))
		c.once(t, "x")
		eventually(t, "the refusals are counted", func() bool {
			_, _, text := ask(t, &http.Client{Timeout: bound, Transport: &http.Transport{DisableKeepAlives: true}}, "http://"+in.cfg.Admin.String()+"/metrics")
			return hasLine(text, "isthmus_requests_total", `destination_service="gateway:web:bare"`, `protocol="UDP"`, `reason="no_route"`) &&
				hasLine(text, "isthmus_", `destination_service="gateway:web:bare-tcp"`, `reason="no_route"`)
		})
	})
	t.Run("an endpoint that goes is asked no more, and the other cluster serves", func(t *testing.T) {
		w.apps["udp-0"].Close()
		_ = w.servers["udp-0"].end()
		if n, _ := one.ask("x"); n != "udp-2" {
			t.Errorf("%s answered", n)
		}
		_ = w.servers["catalog-0"].end()
		if got, err := said(t, door(8053), "x"); err != nil || got != "catalog-1 x" {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("who came by a port that is gone comes no further", func(t *testing.T) {
		kept := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}, Timeout: bound}
		defer kept.CloseIdleConnections()
		from := func(host string) (status int) {
			r, err := http.NewRequest("GET", "http://"+door(8080).String()+"/", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Host = host
			a, err := kept.Do(r)
			if err != nil {
				return 0
			}
			_, _ = io.Copy(io.Discard, a.Body)
			a.Body.Close()
			return a.StatusCode
		}
		if got := from("other.example"); got != 404 {
			t.Fatalf("answered %d", got)
		}
		long, err := net.Dial("tcp", door(8053).String())
		if err != nil {
			t.Fatal(err)
		}
		defer long.Close()
		_ = long.SetDeadline(time.Now().Add(bound))
		_, _ = io.WriteString(long, ">first ")
		if _, err := io.ReadFull(long, make([]byte, len("catalog-1 "))); err != nil {
			t.Fatal(err)
		}
		w.script.set("shop/web", &ir.Gateway{Namespace: "shop", Name: "web"})
		eventually(t, "the ports are closed", func() bool {
			c, err := net.Dial("tcp", door(8080).String())
			if err == nil {
				c.Close()
			}
			return err != nil
		})
		for _, host := range []string{"other.example", "vault.shop.svc.clusterset.local:81", "catalog.shop.svc.clusterset.local", "catalog.shop"} {
			if got := from(host); got != 502 {
				t.Errorf("a request for %s on a connection that was open: %d", host, got)
			}
		}
		_, _ = io.WriteString(long, "last")
		_ = long.(*net.TCPConn).CloseWrite()
		if got, err := io.ReadAll(long); err != nil || string(got) != "first last" {
			t.Errorf("a connection of bytes that was open: %q, %v: want it carried to its end", got, err)
		}
	})
	t.Run("sessions do not hold up who drains", func(t *testing.T) {
		if err := in.end(); err == nil || !strings.Contains(err.Error(), "context canceled") {
			t.Errorf("ended with %v", err)
		}
	})
}

// once sends a datagram and wants no answer within the time that one would take.
func (c *talker) once(t testing.TB, data string) {
	t.Helper()
	_, _ = c.Write([]byte(data))
	_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := c.Read(make([]byte, 100)); err == nil {
		t.Errorf("%d bytes were answered", n)
	}
}

// hasLine reports whether a line has all the words.
func hasLine(text string, words ...string) bool {
	for _, line := range strings.Split(text, "\n") {
		all := true
		for _, w := range words {
			all = all && strings.Contains(line, w)
		}
		if all {
			return true
		}
	}
	return false
}
