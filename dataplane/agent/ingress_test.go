package agent_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/agent"
	"github.com/isthmus-mesh/isthmus/internal/issued"
	"github.com/isthmus-mesh/isthmus/internal/loopback"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// ingressGateway starts an ingress gateway that serves what the script says of Gateways.
func (w *world) ingressGateway(at netip.Addr) *member {
	w.t.Helper()
	const id = "isthmus-system/ingress-0"
	w.script.set(id, &ir.Proxy{ID: id})
	return w.start("eu-west", id, "ingress", func(c *agent.Config) {
		c.Mode, c.Ingress, c.IngressOffset, c.DNS = agent.ModeIngress, at, 8000, loopback.AddrPort(w.t)
	})
}

// told is an application that answers with the fields that it was sent.
func told(t testing.TB) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "host=%s path=%s", r.Host, r.URL.Path)
		for _, n := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Client-Cert", "Isthmus-Criticality", "Isthmus-To",
			"Isthmus-Deadline", "Forwarded", "X-Real-Ip", "X-Added"} {
			if v := r.Header.Values(n); len(v) > 0 {
				fmt.Fprintf(w, " %s=%s", strings.ToLower(n), strings.Join(v, "|"))
			}
		}
		fmt.Fprintf(w, " id=%t", r.Header.Get("X-Request-Id") != "mine" && r.Header.Get("X-Request-Id") != "")
	})}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close() })
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// enter asks an ingress gateway for a URL of some host.
func enter(t testing.TB, at netip.AddrPort, host, path string, fields ...string) (int, string, string) {
	t.Helper()
	r, err := http.NewRequest("GET", "http://"+at.String()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = host
	for i := 0; i+1 < len(fields); i += 2 {
		r.Header.Add(fields[i], fields[i+1])
	}
	c := http.Client{Timeout: bound, Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	a, err := c.Do(r)
	if err != nil {
		return 0, err.Error(), ""
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	if l := a.Header.Get("Location"); l != "" {
		return a.StatusCode, l, string(b)
	}
	return a.StatusCode, a.Header.Get("isthmus-reason"), string(b)
}

// TestAnIngressGatewayLetsRequestsIn is a Gateway and what requests from outside the mesh meet at it.
func TestAnIngressGatewayLetsRequestsIn(t *testing.T) {
	w := newWorld(t)
	near, e0 := w.serverOf("eu-west", "catalog-0", catalog, told(t))
	far, e1 := w.server("us-east", "catalog-1", catalog)
	gateway := loopback.AddrPort(t)
	w.script.set("shop/gateway", &ir.Proxy{ID: "shop/gateway"})
	w.script.set(catalog.String(), &ir.Slots{TrustDomain: w.clusters["us-east"].td, Table: mesh.SlotTable{Service: catalog, Generation: 1, Slots: addrs(e1), Moved: []uint64{1}}})
	gate := w.start("us-east", "shop/gateway", "gateway", func(c *agent.Config) { c.Mode, c.Gateway = agent.ModeGateway, gateway })
	w.script.set("us-east", &ir.Cluster{Name: "us-east", TrustDomain: w.clusters["us-east"].td, RTT: 80 * time.Millisecond, Gateways: []netip.AddrPort{gateway}})
	onlyIngress := ir.AccessEntry{Object: "AccessPolicy shop/ingress", Policy: mesh.AccessPolicy{Namespace: "shop", Name: "ingress", Action: mesh.Allow,
		Rules: []mesh.AccessRule{{From: []mesh.AccessSource{{Identities: []string{"spiffe://eu-west.isthmus.local/ns/isthmus-system/sa/ingress"}}}}}}}
	w.service(catalog, []ir.Group{
		{Cluster: "eu-west", Exported: true, Identities: w.identity("eu-west", catalog), Endpoints: []ir.Endpoint{e0}},
		{Cluster: "us-east", Exported: true, Identities: w.identity("us-east", catalog), Slots: []uint64{1}},
	}, nil, onlyIngress)
	to := []ir.Backend{{Service: catalog, Port: 80, Weight: 1}}
	shop := []ir.Route{
		{Object: "HTTPRoute shop/web", Rule: 0, Match: mesh.RouteMatch{PathType: mesh.PathPrefix, Path: "/old"}, Filters: []mesh.RouteFilter{{Kind: mesh.FilterRedirect, PathType: "ReplacePrefixMatch", Path: "/new"}}},
		{Object: "HTTPRoute shop/web", Rule: 1, Match: mesh.RouteMatch{PathType: mesh.PathPrefix, Path: "/"}, Backends: to,
			Filters: []mesh.RouteFilter{{Kind: mesh.FilterRequestHeaders, Add: []mesh.HeaderValue{{Name: "x-added", Value: "by-route"}}}}},
	}
	web := &ir.Gateway{Namespace: "shop", Name: "web", Object: "Gateway shop/web@eu-west", Listeners: []ir.Listener{
		{Name: "http", Port: 80, Protocol: mesh.ListenerHTTP, Hosts: []ir.VirtualHost{{Hostname: "shop.example", Routes: shop}, {Hostname: "*.wild.example", Routes: shop[1:]}}},
		{Name: "own", Port: 80, Hostname: "own.wild.example", Protocol: mesh.ListenerHTTP},
	}}
	w.script.set("shop/web", web)
	at := loopback.Net(t).Addr().Next()
	in := w.ingressGateway(at)
	for _, m := range []*member{near, far, gate, in} {
		m.waitReady(t)
	}
	door := netip.AddrPortFrom(at, 8080)
	eventually(t, "the Gateway's port is open", func() bool { s, _, _ := enter(t, door, "shop.example", "/"); return s == 200 })

	t.Run("a request goes to the mesh with the ingress's own identity", func(t *testing.T) {
		status, reason, body := enter(t, door, "Shop.Example.:8080", "/a//b")
		if status != 200 || !strings.Contains(body, "path=/a/b ") || !strings.Contains(body, "x-forwarded-client-cert=URI=spiffe://eu-west.isthmus.local/ns/isthmus-system/sa/ingress") ||
			!strings.Contains(body, "x-added=by-route") {
			t.Errorf("%d %s %q", status, reason, body)
		}
	})
	t.Run("nothing forged comes in", func(t *testing.T) {
		_, _, body := enter(t, door, "shop.example", "/", "X-Forwarded-For", "6.6.6.6", "X_Forwarded_For", "6.6.6.6", "Forwarded", "for=6.6.6.6", "X-Real-IP", "6.6.6.6",
			"X-Forwarded-Proto", "https", "X-Forwarded-Client-Cert", "URI=spiffe://eu-west.isthmus.local/ns/shop/sa/frontend", "Isthmus-Criticality", "Critical",
			"Isthmus-To", "shop/vault:80", "Isthmus-Deadline", "1", "X-Request-Id", "mine")
		want := fmt.Sprintf("x-forwarded-for=%s x-forwarded-proto=http x-forwarded-host=shop.example x-forwarded-client-cert=URI=spiffe://eu-west.isthmus.local/ns/isthmus-system/sa/ingress x-added=by-route id=true", host)
		if !strings.HasSuffix(body, want) {
			t.Errorf("%q, want it to end in %q", body, want)
		}
	})
	t.Run("hosts and listeners", func(t *testing.T) {
		for _, c := range []struct {
			host, path string
			status     int
			reason     string
		}{
			{"a.wild.example", "/", 200, ""}, {"a.b.wild.example", "/", 200, ""},
			{"wild.example", "/", 404, "no_route"}, {"other.example", "/", 404, "no_route"},
			{"own.wild.example", "/", 404, "no_route"}, // its own listener has no route, and another's are none of its
			{"catalog.shop.svc.clusterset.local", "/", 404, "no_route"},
			{"shop.example", "/old/x", 302, "http://shop.example:8080/new/x"},
		} {
			if s, reason, body := enter(t, door, c.host, c.path); s != c.status || reason != c.reason {
				t.Errorf("%s%s: %d %s %q, want %d %s", c.host, c.path, s, reason, body, c.status, c.reason)
			}
		}
	})
	t.Run("no tunnel leads in", func(t *testing.T) {
		for _, target := range []string{"catalog.shop.svc.clusterset.local:80", "shop.example:80", "127.0.0.1:22"} {
			c, err := net.Dial("tcp", door.String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(bound))
			fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, target)
			a, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: "CONNECT"})
			if err != nil || a.StatusCode != 404 || a.Header.Get("isthmus-reason") != "no_route" {
				t.Errorf("CONNECT %s: %+v, %v", target, a, err)
			}
		}
	})
	t.Run("proxies before it are believed as far as they are trusted", func(t *testing.T) {
		trusting := *web
		trusting.TrustedHops = 1
		w.script.set("shop/web", &trusting)
		eventually(t, "the change is in force", func() bool {
			_, _, body := enter(t, door, "shop.example", "/", "X-Forwarded-For", "6.6.6.6, 7.7.7.7", "X-Forwarded-Proto", "https")
			return strings.Contains(body, "x-forwarded-for=6.6.6.6, 7.7.7.7, "+host+" x-forwarded-proto=https")
		})
	})
	t.Run("names lead to where clients may come in", func(t *testing.T) {
		east := netip.MustParseAddr("192.0.2.2")
		w.script.set("eu-west", &ir.Cluster{Name: "eu-west", TrustDomain: w.clusters["eu-west"].td, Ingresses: []netip.Addr{at}})
		there := ir.Cluster{Name: "us-east", TrustDomain: w.clusters["us-east"].td, RTT: 80 * time.Millisecond, Gateways: []netip.AddrPort{gateway}, Ingresses: []netip.Addr{east}}
		w.script.set("us-east", &there)
		r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "udp", in.cfg.DNS.String())
		}}
		leads := func(host string, want ...netip.Addr) func() bool {
			return func() bool {
				ctx, cancel := context.WithTimeout(context.Background(), bound)
				defer cancel()
				got, _ := r.LookupNetIP(ctx, "ip4", host)
				for i := range got {
					got[i] = got[i].Unmap()
				}
				slices.SortFunc(got, netip.Addr.Compare) // a resolver of Go's orders them anew
				return slices.Equal(got, want)
			}
		}
		eventually(t, "both ingress gateways are told", leads("shop.example.", at, east))
		if !leads("any.wild.example.", at, east)() || !leads("other.example.")() {
			t.Error("a host below a wildcard is not answered, or one of nobody is")
		}
		lacks := there
		lacks.Unserved = []string{"shop/web/http"}
		w.script.set("us-east", &lacks)
		eventually(t, "a cluster that does not serve the listener is withdrawn", leads("shop.example.", at))
		lacks.Unserved = []string{"shop/web/own"}
		w.script.set("us-east", &lacks)
		eventually(t, "what it does not serve is another listener", leads("shop.example.", at, east))
		gone := there
		gone.Reach = mesh.Unreachable
		w.script.set("us-east", &gone)
		eventually(t, "a cluster that cannot be reached is withdrawn", leads("shop.example.", at))
		there.Ingresses = nil
		w.script.set("us-east", &there)
	})
	t.Run("another cluster serves where this one does not", func(t *testing.T) {
		_ = near.end()
		for range 20 {
			if s, reason, body := enter(t, door, "shop.example", "/"); s != 200 || !strings.HasPrefix(body, "catalog-1 ") {
				t.Fatalf("%d %s %q", s, reason, body)
			}
		}
	})
	t.Run("a Gateway that is gone is served no more", func(t *testing.T) {
		w.script.set("shop/web", &ir.Gateway{Namespace: "shop", Name: "web"})
		eventually(t, "the port is closed", func() bool {
			c, err := net.Dial("tcp", door.String())
			if err == nil {
				c.Close()
			}
			return err != nil
		})
	})
}

// TestAnIngressGatewayEndsTLS is a Gateway whose port has listeners of HTTPS and one of TLS that passes through, and what clients of
// TLS meet there; and one whose certificates change while requests come.
func TestAnIngressGatewayEndsTLS(t *testing.T) {
	w := newBehind(t)
	ca := issued.NewAuthority(t)
	end := func(name, hostname string, pair issued.Pair, hosts ...ir.VirtualHost) ir.Termination {
		return ir.Termination{Listener: ir.Listener{Name: name, Port: 443, Protocol: mesh.ListenerHTTPS, Hostname: hostname, Hosts: hosts},
			Certificates: []ir.Certificate{{Object: "Secret shop/" + name, Chain: string(pair.Certificate), Key: mesh.Hide(pair.Key)}}}
	}
	app := mesh.ServiceName{Namespace: "shop", Name: "orders"}
	server, e := w.serverOf("eu-west", "orders-0", app, told(t))
	w.service(app, []ir.Group{{Cluster: "eu-west", Exported: true, Identities: w.identity("eu-west", app), Endpoints: []ir.Endpoint{e}}}, nil)
	w.servers["orders-0"] = server
	web := func(pair issued.Pair) *ir.Gateway {
		away := ir.VirtualHost{Hostname: "shop.example", Routes: []ir.Route{{Object: "HTTPRoute shop/away", Match: mesh.RouteMatch{PathType: mesh.PathPrefix, Path: "/"},
			Filters: []mesh.RouteFilter{{Kind: mesh.FilterRedirect, Scheme: "https", Port: 8443, StatusCode: 301}}}}}
		bytes := end("bytes", "bytes.example", pair, hostsTo("TLSRoute", catalog, 81, "bytes.example")...)
		bytes.Protocol = mesh.ListenerTLS
		broken := end("broken", "broken.example", pair)
		broken.Certificates, broken.Invalid = nil, "Secret shop/broken: there is none"
		return &ir.Gateway{Namespace: "shop", Name: "web", Object: "Gateway shop/web@eu-west",
			Listeners: []ir.Listener{{Name: "http", Port: 80, Protocol: mesh.ListenerHTTP, Hosts: []ir.VirtualHost{away}},
				{Name: "pass", Port: 443, Protocol: mesh.ListenerTLS, Hostname: "vault.example", Hosts: hostsTo("TLSRoute", vault, 81, "vault.example")}},
			Terminations: []ir.Termination{end("wild", "*.example", pair, hostsTo("HTTPRoute", app, 80, "shop.example", "other.example")...),
				end("own", "own.example", ca.For("own.example"), hostsTo("HTTPRoute", app, 80, "own.example")...), bytes, broken}}
	}
	w.script.set("shop/web", web(ca.For("*.example")))
	at := loopback.Net(t).Addr().Next()
	in := w.ingressGateway(at)
	door := netip.AddrPortFrom(at, 8443)
	for _, m := range w.servers {
		m.waitReady(t)
	}
	in.waitReady(t)
	client := func(name string, http2 bool) *http.Client {
		tr := &http.Transport{ForceAttemptHTTP2: http2, TLSClientConfig: &tls.Config{RootCAs: ca.Pool(), ServerName: name}}
		if !http2 {
			tr.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
		}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Timeout: bound, Transport: tr}
	}
	ask := func(c *http.Client, authority string) (*http.Response, string, error) {
		r, err := http.NewRequest("GET", "https://"+door.String()+"/a", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = authority
		a, err := c.Do(r)
		if err != nil {
			return nil, "", err
		}
		defer a.Body.Close()
		b, err := io.ReadAll(a.Body)
		return a, string(b), err
	}
	eventually(t, "the Gateway's port is open", func() bool { _, _, err := ask(client("shop.example", true), "shop.example"); return err == nil })
	for _, http2 := range []bool{true, false} {
		c, major := client("shop.example", http2), 1
		if http2 {
			major = 2
		}
		for range 3 {
			a, body, err := ask(c, "shop.example")
			if err != nil || a.StatusCode != 200 || a.ProtoMajor != major || !strings.Contains(body, "x-forwarded-proto=https x-forwarded-host=shop.example") {
				t.Fatalf("HTTP/%d: %+v %q %v", major, a, body, err)
			}
		}
		for authority, want := range map[string]string{"other.example": "200 ", "own.example": "421 misdirected", "vault.example": "421 misdirected", "unknown.example": "404 no_route", "own.test": "404 no_route"} {
			a, _, err := ask(c, authority)
			if err != nil || fmt.Sprint(a.StatusCode, " ", a.Header.Get("isthmus-reason")) != want {
				t.Errorf("%s on a connection for shop.example: %+v %v, want %s", authority, a, err, want)
			}
		}
	}
	_, text := adminCall(t, in, "GET", "/metrics")
	for _, want := range []string{`isthmus_listener_handshakes_total{listener="shop/web/own",outcome="done"} 0`, `isthmus_listener_handshakes_total{listener="shop/web/broken",outcome="refused"} 0`,
		`isthmus_listener_certificate_expiry_timestamp_seconds{listener="shop/web/broken"} 0`} {
		if !strings.Contains(text, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	if a, _, err := ask(client("own.example", true), "own.example"); err != nil || a.StatusCode != 200 {
		t.Errorf("the control of 421, by its own connection: %+v %v", a, err)
	}
	if got, err := shaken(door, "vault.example"); got != "TLS for vault.example" {
		t.Errorf("what passes through: %q %v", got, err)
	}
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: bound}, "tcp", door.String(), &tls.Config{RootCAs: ca.Pool(), ServerName: "bytes.example"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(bound))
	_, _ = io.WriteString(conn, "in the clear behind")
	if err := conn.CloseWrite(); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "catalog-0 in the clear behind" {
		t.Errorf("bytes out of TLS: %q %v", got, err)
	}
	for name, alert := range map[string]string{"broken.example": "internal error", "own.test": "unrecognized name"} {
		if _, err := shaken(door, name); err == nil || !strings.Contains(err.Error(), alert) {
			t.Errorf("%s: %v, want %s", name, err, alert)
		}
	}
	_, text = adminCall(t, in, "GET", "/metrics")
	for _, want := range []string{`isthmus_listener_handshakes_total{listener="shop/web/own",outcome="done"} 1`, `isthmus_listener_handshakes_total{listener="shop/web/broken",outcome="refused"} 1`} {
		if !strings.Contains(text, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	if strings.Contains(text, `isthmus_listener_certificate_expiry_timestamp_seconds{listener="shop/web/own"} 0`) {
		t.Error("the metrics do not say when a certificate ends")
	}
	if status, location, _ := enter(t, netip.AddrPortFrom(at, 8080), "shop.example", "/a"); status != 301 || location != "https://shop.example:8443/a" {
		t.Errorf("in the clear: %d %s, want to be sent to HTTPS", status, location)
	}
	if got, err := said(t, door, "GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n"); strings.Contains(got, "HTTP") {
		t.Errorf("a request in the clear is answered at a port of TLS: %q %v", got, err)
	}
	t.Run("certificates change under load", func(t *testing.T) {
		old, fresh := client("shop.example", true), make(chan error, 100)
		if _, _, err := ask(old, "shop.example"); err != nil {
			t.Fatal(err)
		}
		stop := make(chan struct{})
		var load sync.WaitGroup
		var asked atomic.Int64
		for _, keep := range []bool{true, false, true, false} {
			load.Go(func() {
				c := client("shop.example", keep)
				for {
					select {
					case <-stop:
						return
					default:
					}
					a, _, err := ask(c, "shop.example")
					if err == nil && a.StatusCode != 200 {
						err = fmt.Errorf("%d %s", a.StatusCode, a.Header.Get("isthmus-reason"))
					}
					if err != nil {
						select {
						case fresh <- err:
						default:
						}
					}
					asked.Add(1)
					if !keep {
						c.CloseIdleConnections()
					}
				}
			})
		}
		serial := func() string {
			c, err := tls.DialWithDialer(&net.Dialer{Timeout: bound}, "tcp", door.String(), &tls.Config{RootCAs: ca.Pool(), ServerName: "shop.example"})
			if err != nil {
				return err.Error()
			}
			defer c.Close()
			return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
		}
		for range 5 {
			before, at := serial(), asked.Load()
			w.script.set("shop/web", web(ca.For("*.example")))
			eventually(t, "new connections see another certificate", func() bool { return serial() != before })
			eventually(t, "requests go on", func() bool { return asked.Load() > at+20 })
		}
		close(stop)
		load.Wait()
		close(fresh)
		for err := range fresh {
			t.Errorf("a request failed: %v", err)
		}
		if a, _, err := ask(old, "shop.example"); err != nil || a.StatusCode != 200 {
			t.Errorf("the connection of the first certificate: %+v %v", a, err)
		}
	})
	t.Run("nothing that people read has the key", func(t *testing.T) {
		pair := ca.For("*.example")
		w.script.set("shop/web", web(pair))
		eventually(t, "it is in force", func() bool {
			c, err := tls.DialWithDialer(&net.Dialer{Timeout: bound}, "tcp", door.String(), &tls.Config{RootCAs: ca.Pool(), ServerName: "shop.example"})
			if err != nil {
				return false
			}
			defer c.Close()
			block, _ := pem.Decode(pair.Certificate)
			return bytes.Equal(c.ConnectionState().PeerCertificates[0].Raw, block.Bytes)
		})
		b, err := json.Marshal(in.Dump())
		if err != nil || !bytes.Contains(b, []byte(ir.TypeGateway)) {
			t.Fatalf("%s %v", b, err)
		}
		for _, trace := range pair.Traces() {
			if bytes.Contains(b, []byte(trace)) {
				t.Errorf("the dump has the key")
			}
		}
	})
}
