package agent_test

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/agent"
	"github.com/isthmus-mesh/isthmus/internal/loopback"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestUndeclaredPortsAreLookedAt: on ports of which nothing was declared, requests are requests, in the version that the
// client speaks, and are routed, judged and counted; everything else is bytes, also where the server speaks first.
func TestUndeclaredPortsAreLookedAt(t *testing.T) {
	mixed := mesh.ServiceName{Namespace: "shop", Name: "mixed"}
	const web, rpc, greeter, secure = 90, 91, 92, 93
	listen := func(serve func(net.Conn)) netip.AddrPort {
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
				go serve(c)
			}
		}()
		return ln.Addr().(*net.TCPAddr).AddrPort()
	}
	greet := listen(func(c net.Conn) {
		defer c.Close()
		_, _ = io.WriteString(c, "220 at your service\r\n")
		_, _ = io.Copy(c, c)
	})
	versions := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto+" "+r.URL.Path) })
	both := &http.Server{Handler: versions, Protocols: new(http.Protocols), ReadHeaderTimeout: time.Minute}
	both.Protocols.SetHTTP1(true)
	both.Protocols.SetUnencryptedHTTP2(true)
	bothLn, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = both.Serve(bothLn) }()
	t.Cleanup(func() { both.Close() })
	https := httptest.NewTLSServer(versions)
	t.Cleanup(https.Close)

	w := newWorld(t)
	inbound, addresses := loopback.AddrPort(t), loopback.Net(t)
	var ports []ir.Port
	serves := ir.Inbound{Service: mixed}
	for number, target := range map[uint16]netip.AddrPort{web: app(t, "web"), rpc: bothLn.Addr().(*net.TCPAddr).AddrPort(),
		greeter: greet, secure: https.Listener.Addr().(*net.TCPAddr).AddrPort()} {
		ports = append(ports, ir.Port{Port: number, Protocol: mesh.ProtocolAuto})
		serves.Ports = append(serves.Ports, ir.InboundPort{Port: number, Protocol: mesh.ProtocolAuto, Target: target})
	}
	w.script.set("shop/mixed-0", &ir.Proxy{ID: "shop/mixed-0", Inbound: []ir.Inbound{serves}})
	server := w.start("eu-west", "shop/mixed-0", mixed.Name, func(c *agent.Config) { c.Inbound = inbound })
	deny := ir.AccessEntry{Object: "AccessPolicy shop/no-admin", Policy: mesh.AccessPolicy{Namespace: "shop", Name: "no-admin", Action: mesh.Deny,
		Rules: []mesh.AccessRule{{To: []mesh.AccessOperation{{Paths: []string{"/admin*"}, Ports: []uint16{web}}}}}}}
	w.service(mixed, []ir.Group{{Cluster: "eu-west", Exported: true, Identities: w.identity("eu-west", mixed),
		Endpoints: []ir.Endpoint{{Tag: "mixed-0", Proxy: inbound, Weight: 1}}}}, nil, deny)
	w.script.set(mixed.String(), &ir.Service{Name: mixed, Ports: ports, Routed: true,
		Routes: []ir.Route{{Object: "HTTPRoute shop/gone", Port: web, Match: mesh.RouteMatch{PathType: mesh.PathPrefix, Path: "/gone"},
			Filters: []mesh.RouteFilter{{Kind: mesh.FilterRedirect, StatusCode: 301, PathType: "ReplaceFullPath", Path: "/there"}}},
			{Object: "HTTPRoute shop/all", Port: web, Match: mesh.RouteMatch{PathType: mesh.PathPrefix, Path: "/"}, Backends: []ir.Backend{{Service: mixed, Port: web, Weight: 1}}}},
		Traffic: ir.Traffic{Strategy: mesh.StrategyAuto, ConnectTimeout: 10 * time.Second, RequestTimeout: 15 * time.Second}})
	w.script.set(mixed.String(), &ir.Name{Service: mixed, Ports: ports, Address: netip.MustParseAddr("127.9.9.19")})
	w.script.set("shop/frontend", &ir.Proxy{ID: "shop/frontend"})
	client := w.start("eu-west", "shop/frontend", "frontend", func(c *agent.Config) {
		c.Outbound, c.ServiceNet = loopback.AddrPort(t), addresses
	})
	server.waitReady(t)
	client.waitReady(t)
	at := func(port int) string { return net.JoinHostPort(in(addresses, 19).String(), strconv.Itoa(port)) }
	dial := func(t *testing.T, port int) net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", at(port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(bound))
		return c
	}
	plain := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: bound,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

	t.Run("a request is a request", func(t *testing.T) {
		if status, reason, body := ask(t, plain, "http://"+at(web)+"/x"); status != 200 || !strings.HasPrefix(body, "web GET /x URI=spiffe://") {
			t.Errorf("%d %s %q, want the caller to be told", status, reason, body)
		}
		if status, reason, _ := ask(t, plain, "http://"+at(web)+"/gone"); status != 301 {
			t.Errorf("%d %s, want the route's redirect", status, reason)
		}
		if status, reason, _ := ask(t, plain, "http://"+at(web)+"/admin"); status != 403 || reason != string(mesh.ReasonDenied) {
			t.Errorf("%d %s, want the policy's refusal", status, reason)
		}
	})
	t.Run("the application is spoken to as its client speaks", func(t *testing.T) {
		two := &http.Transport{Protocols: new(http.Protocols)}
		two.Protocols.SetUnencryptedHTTP2(true)
		t.Cleanup(two.CloseIdleConnections)
		for want, c := range map[string]*http.Client{"HTTP/1.1 /v": plain, "HTTP/2.0 /v": {Transport: two, Timeout: bound}} {
			if status, reason, body := ask(t, c, "http://"+at(rpc)+"/v"); status != 200 || body != want {
				t.Errorf("%d %s %q, want %q", status, reason, body, want)
			}
		}
	})
	t.Run("TLS passes", func(t *testing.T) {
		c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, Timeout: bound}
		if status, reason, body := ask(t, c, "https://"+at(secure)+"/tls"); status != 200 || body != "HTTP/1.1 /tls" {
			t.Errorf("%d %s %q", status, reason, body)
		}
	})
	t.Run("a server that speaks first is heard", func(t *testing.T) {
		c := dial(t, greeter)
		b := make([]byte, len("220 at your service\r\n"))
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatalf("the greeting: %q, %v", b, err)
		}
		if _, err := io.WriteString(c, "EHLO me\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, b[:9]); err != nil || string(b[:9]) != "EHLO me\r\n" {
			t.Fatalf("%q, %v", b[:9], err)
		}
	})
	t.Run("other bytes pass as they come, past routes of requests", func(t *testing.T) {
		c := dial(t, greeter)
		if _, err := io.WriteString(c, "\x00\x01GET"); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, len("220 at your service\r\n")+5)
		if _, err := io.ReadFull(c, b); err != nil || !strings.HasSuffix(string(b), "\x00\x01GET") {
			t.Fatalf("%q, %v", b, err)
		}
	})
	t.Run("metrics tell what it was", func(t *testing.T) {
		_, _, text := ask(t, plain, "http://"+client.cfg.Admin.String()+"/metrics")
		for _, p := range []string{"HTTP", "HTTP2", "TCP"} {
			if !strings.Contains(text, `destination_service="mixed",destination_namespace="shop",destination_cluster="eu-west",protocol="`+p+`"`) {
				t.Errorf("the metrics have no %s", p)
			}
		}
	})
}
