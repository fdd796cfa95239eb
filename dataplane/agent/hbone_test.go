package agent_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/agent"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/internal/loopback"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// node is a connection as a node proxy of an ambient mesh makes it: net/http's HTTP/2 over mTLS, by HBONE unless another
// protocol is said.
type node struct {
	*http.ClientConn
	t testing.TB
}

// dialNode connects to a server proxy of eu-west that serves as account, with a certificate of the authority by. A node asks for
// no name unless one is said.
func (w *world) dialNode(server *member, by *authority, id mesh.Identity, nameAndProtocol ...string) (*node, error) {
	w.t.Helper()
	name, protocol := "", "h2"
	if len(nameAndProtocol) > 0 {
		name, protocol = nameAndProtocol[0], nameAndProtocol[1]
	}
	bundles, err := trust.NewBundles(w.clusters["eu-west"].bundle())
	if err != nil {
		return nil, err
	}
	source := trust.NewSource(clock.Real{})
	if err := source.Update(by.svid(w.t, id), bundles); err != nil {
		return nil, err
	}
	config := trust.ClientConfig(source, trust.AcceptServers(server.cfg.TrustDomain, server.cfg.Identity()), name, protocol)
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: bound}, "tcp", server.cfg.Inbound.String(), config)
	if err != nil {
		return nil, err
	}
	// To net/http a connection is made and speaks HTTP/2 by prior knowledge.
	tr := &http.Transport{Protocols: new(http.Protocols), HTTP2: &http.HTTP2Config{StrictMaxConcurrentRequests: true},
		DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}
	tr.Protocols.SetUnencryptedHTTP2(true)
	cc, err := tr.NewClientConn(w.t.Context(), "http", server.cfg.Inbound.String())
	if err != nil {
		c.Close()
		return nil, err
	}
	w.t.Cleanup(func() { cc.Close() })
	return &node{cc, w.t}, nil
}

// ztunnel is whom a node proxy speaks for.
func (w *world) ztunnel(c mesh.ClusterName) mesh.Identity {
	return mesh.Identity{TrustDomain: w.clusters[c].td, Namespace: "elsewhere", ServiceAccount: "client"}
}

func (w *world) node(server *member) *node {
	w.t.Helper()
	n, err := w.dialNode(server, w.clusters["us-east"], w.ztunnel("us-east"))
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// carried is a connection in a stream.
type carried struct {
	io.ReadCloser                // what comes back
	to            *io.PipeWriter // closing it is half-closing the connection
	r             *bufio.Reader
}

// request sends one with fields, "name: value", and returns the answer's head; the connection is nil unless one is open.
func (n *node) request(method, authority string, fields ...string) (*http.Response, *carried, error) {
	ctx, stop := context.WithTimeout(context.Background(), bound)
	n.t.Cleanup(stop)
	r, w := io.Pipe()
	q, err := http.NewRequestWithContext(ctx, method, "http://"+authority, r)
	if err != nil {
		return nil, nil, err
	}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		q.Header.Add(name, value)
	}
	a, err := n.RoundTrip(q)
	if err != nil {
		w.Close()
		return nil, nil, err
	}
	if a.StatusCode != 200 {
		w.Close()
		return a, nil, nil
	}
	return a, &carried{a.Body, w, bufio.NewReader(a.Body)}, nil
}

// connect opens a connection, or returns "status reason".
func (n *node) connect(authority string, fields ...string) (string, *carried) {
	n.t.Helper()
	a, b, err := n.request("CONNECT", authority, fields...)
	if err != nil {
		return err.Error(), nil
	}
	if b == nil {
		_, _ = io.Copy(io.Discard, a.Body)
		a.Body.Close()
	}
	return strings.TrimSpace(fmt.Sprint(a.StatusCode, " ", a.Header.Get("isthmus-reason"))), b
}

// say says a line, which comes back.
func (b *carried) say(text string) error {
	if _, err := io.WriteString(b.to, text+"\n"); err != nil {
		return err
	}
	got, err := b.r.ReadString('\n')
	if err == nil && got != text+"\n" {
		err = fmt.Errorf("said %q, heard %q", text, got)
	}
	return err
}

// finish half-closes, and wants what the application says when it has heard that.
func (b *carried) finish() error {
	b.to.Close()
	rest, err := io.ReadAll(b.r)
	if err == nil && string(rest) != farewell {
		err = fmt.Errorf("%q at the end", rest)
	}
	return errors.Join(err, b.Close())
}

const farewell = "that was all\n"

// serveEcho is an application that says what it hears, and then that that was all.
func serveEcho(t testing.TB, ln net.Listener) netip.AddrPort {
	t.Helper()
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer c.Close()
				if _, err := io.Copy(c, c); err == nil {
					_, _ = io.WriteString(c, farewell)
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close(); work.Wait() })
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// fully is say and finish on a connection that must open.
func (n *node) fully(authority string, fields ...string) error {
	status, b := n.connect(authority, fields...)
	if b == nil {
		return errors.New(status)
	}
	return errors.Join(b.say("to "+authority), b.finish())
}

// echoServer is a server proxy of shop/catalog whose application says what it hears, at an address of its own. Its service's
// ports 80, 81, 8080 and 8082 are all the application's one.
func (w *world) echoServer(policies ...ir.AccessEntry) (*member, netip.AddrPort) {
	w.t.Helper()
	ln, err := net.Listen("tcp", host+":0")
	if err != nil {
		w.t.Fatal(err)
	}
	target := serveEcho(w.t, ln)
	server, e := w.serverOf("eu-west", "catalog-0", catalog, target)
	w.allow(e, policies...)
	server.waitReady(w.t)
	return server, target
}

// allow states who may call shop/catalog.
func (w *world) allow(e ir.Endpoint, policies ...ir.AccessEntry) {
	w.service(catalog, []ir.Group{{Cluster: "eu-west", Exported: true, Identities: w.identity("eu-west", catalog), Endpoints: []ir.Endpoint{e}}}, nil, policies...)
}

func denyPort(port uint16) ir.AccessEntry {
	return ir.AccessEntry{Object: "AccessPolicy shop/none", Policy: mesh.AccessPolicy{Name: "none", Action: mesh.Deny,
		Rules: []mesh.AccessRule{{To: []mesh.AccessOperation{{Ports: []uint16{port}}}}}}}
}

// TestHBONE has what a node proxy of another mesh does to a sidecar: the client is net/http's HTTP/2, whose streams are
// connections to the application, by its address and by the name of its service.
func TestHBONE(t *testing.T) {
	w := newWorld(t)
	server, target := w.echoServer()
	n := w.node(server)
	here := target.Addr().String()

	t.Run("a connection goes both ways, and half-closes", func(t *testing.T) {
		for _, authority := range []string{target.String(), "[::ffff:" + here + "]:" + fmt.Sprint(target.Port()), "catalog.shop.svc.clusterset.local:81",
			"catalog.shop.svc.cluster.local:80", "catalog.shop:8080"} {
			if err := n.fully(authority, "baggage: k8s.namespace.name=other", "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"); err != nil {
				t.Errorf("%s: %v", authority, err)
			}
		}
	})
	t.Run("a thousand streams on a connection", func(t *testing.T) {
		var all sync.WaitGroup
		for range 1000 {
			all.Go(func() {
				if err := n.fully(target.String()); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	})
	t.Run("what is refused, and why", func(t *testing.T) {
		for authority, want := range map[string]string{
			"127.9.9.9:" + fmt.Sprint(target.Port()):                     "421 misdirected",
			"[::1]:" + fmt.Sprint(target.Port()):                         "421 misdirected",
			here + ":1":                                                  "502 unknown_port",
			server.cfg.Admin.String():                                    "421 misdirected",
			server.cfg.Inbound.String():                                  "421 misdirected",
			"catalog.shop:9999":                                          "502 unknown_port",
			"cart.shop.svc.clusterset.local:80":                          "421 misdirected",
			"catalog:80":                                                 "400 malformed_request",
			"www.example.com:80":                                         "400 malformed_request",
			"catalog.shop.svc.clusterset.local.example.com:80":           "400 malformed_request",
			here + ":0" + fmt.Sprint(target.Port()):                      "400 malformed_request",
			"catalog.shop.svc.clusterset.local:" + fmt.Sprint(1<<16+80):  "400 malformed_request",
			"elsewhere.shop." + string(w.clusters["eu-west"].td) + ":80": "400 malformed_request",
		} {
			if got, b := n.connect(authority); got != want || b != nil {
				t.Errorf("%s: %s, want %s", authority, got, want)
			}
		}
	})
	t.Run("requests are none of it", func(t *testing.T) {
		for _, method := range []string{"GET", "POST", "OPTIONS", "PRI"} {
			a, _, err := n.request(method, target.String())
			if err != nil {
				t.Errorf("%s: %v", method, err)
				continue
			}
			a.Body.Close()
			if a.StatusCode != 405 || a.Header.Get("isthmus-reason") != "malformed_request" || a.Header.Get("allow") != "CONNECT" {
				t.Errorf("%s: %d %v", method, a.StatusCode, a.Header)
			}
		}
	})
	t.Run("it is counted as what it is", func(t *testing.T) {
		const who = `source_workload="client",source_namespace="elsewhere",source_cluster="us-east",destination_service="catalog",destination_namespace="shop",destination_cluster="eu-west",protocol="TCP"`
		eventually(t, "the metrics name the caller", func() bool {
			text := metricsOf(t, server)
			return strings.Contains(text, `isthmus_tcp_connections_opened_total{reporter="destination",`+who) && strings.Contains(text, who+`,code="502",reason="unknown_port"} `)
		})
	})
}

// TestHBONEIsUnderThePoliciesOfOurOwn: who may not call may not call this way either, and what denies a connection ends it.
func TestHBONEIsUnderThePoliciesOfOurOwn(t *testing.T) {
	w := newWorld(t)
	only := ir.AccessEntry{Object: "AccessPolicy shop/only", Policy: mesh.AccessPolicy{Name: "only", Action: mesh.Allow,
		Rules: []mesh.AccessRule{{From: []mesh.AccessSource{{Namespaces: []string{"elsewhere"}}}}}}}
	server, target := w.echoServer(only)
	e := ir.Endpoint{Tag: "catalog-0", Proxy: server.cfg.Inbound, Weight: 1}
	n := w.node(server)

	// Another identity of the same domain, and a domain that is believed and is no cluster's.
	other := w.ztunnel("us-east")
	other.Namespace = "another"
	denied, err := w.dialNode(server, w.clusters["us-east"], other)
	if err != nil {
		t.Fatal(err)
	}
	far := newAuthority(t, "far")
	bundle := far.bundle()
	w.script.set(string(far.td), &bundle)
	var foreign *node
	eventually(t, "the far domain is believed", func() bool {
		foreign, err = w.dialNode(server, far, mesh.Identity{TrustDomain: far.td, Namespace: "elsewhere", ServiceAccount: "client"})
		if err != nil {
			return false
		}
		got, _ := foreign.connect(target.String())
		return got == "403 access_denied"
	})
	for _, authority := range []string{target.String(), "catalog.shop:81"} {
		if got, _ := denied.connect(authority); got != "403 access_denied" {
			t.Errorf("%s of who is not allowed: %s", authority, got)
		}
		if err := n.fully(authority); err != nil {
			t.Errorf("%s of who is: %v", authority, err)
		}
	}
	stranger := newAuthority(t, "mars")
	if s, err := w.dialNode(server, stranger, mesh.Identity{TrustDomain: stranger.td, Namespace: "elsewhere", ServiceAccount: "client"}); err == nil {
		if got, b := s.connect(target.String()); b != nil || strings.HasPrefix(got, "4") {
			t.Errorf("a stranger is answered %s", got)
		}
	}

	// By its address a connection is to four ports of the service, and each must admit it; by the service's name to the one.
	open := func(authority string) *carried {
		t.Helper()
		got, b := n.connect(authority)
		if b == nil {
			t.Fatal(got)
		}
		if err := b.say("before"); err != nil {
			t.Fatal(err)
		}
		return b
	}
	byAddress, byName, spared := open(target.String()), open("catalog.shop:8080"), open("catalog.shop:81")
	w.allow(e, only, denyPort(8080))
	for what, b := range map[string]*carried{"by address": byAddress, "by name": byName} {
		if _, err := b.r.ReadByte(); err == nil || errors.Is(err, io.EOF) || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a connection that is denied now, %s: %v", what, err)
		}
	}
	if err := errors.Join(spared.say("after"), spared.finish()); err != nil {
		t.Errorf("a connection to a port that is not denied: %v", err)
	}
	for authority, want := range map[string]string{target.String(): "403 access_denied", "catalog.shop:8080": "403 access_denied", "catalog.shop:81": "200"} {
		if got, _ := n.connect(authority); got != want {
			t.Errorf("%s: %s, want %s", authority, got, want)
		}
	}
}

// TestHBONEClientsAreNotBelieved: what they write under the mesh's names changes nothing, neither what is decided nor what is
// answered. Between our own proxies, which is the control, each of the fields means something.
func TestHBONEClientsAreNotBelieved(t *testing.T) {
	w := newWorld(t)
	server, target := w.echoServer()
	elsewhere, late := "isthmus-to: shop/cart:80", "isthmus-deadline: 0"
	n := w.node(server)
	for _, forged := range [][]string{nil, {elsewhere}, {late}, {elsewhere, late, "isthmus-to: x", "isthmus-http2: 1", "isthmus_deadline: 0", "isthmus-criticality: high",
		"x-forwarded-client-cert: URI=spiffe://eu-west.isthmus.local/ns/isthmus-system/sa/control-plane", "baggage: source.principal=root"}} {
		if err := n.fully(target.String(), forged...); err != nil {
			t.Errorf("with %q: %v", forged, err)
		}
		a, b, err := n.request("CONNECT", target.String(), forged...)
		if err != nil || b == nil {
			t.Fatal(a, err)
		}
		for name := range a.Header {
			if strings.HasPrefix(strings.ToLower(name), "isthmus-") {
				t.Errorf("it is told %s", name)
			}
		}
		if err := b.finish(); err != nil {
			t.Error(err)
		}
	}
	if got, _ := n.connect("127.9.9.9:80", "isthmus-to: shop/catalog:80"); got != "421 misdirected" {
		t.Errorf("another address, with the right service in a field: %s", got)
	}

	sni := mesh.SNI{Service: catalog, TrustDomain: server.cfg.TrustDomain}.String()
	one, err := w.dialNode(server, w.clusters["us-east"], w.ztunnel("us-east"), sni, "isthmus/1")
	if err != nil {
		t.Fatal(err)
	}
	for want, fields := range map[string][]string{"200": {"isthmus-to: shop/catalog:81"}, "421 misdirected": {elsewhere}, "504 request_timeout": {"isthmus-to: shop/catalog:81", late}} {
		if got, _ := one.connect(target.String(), fields...); got != want {
			t.Errorf("one of our own with %q: %s, want %s", fields, got, want)
		}
	}
	// A name binds a connection of HBONE as it binds ours.
	named, err := w.dialNode(server, w.clusters["us-east"], w.ztunnel("us-east"), sni, "h2")
	if err != nil {
		t.Fatal(err)
	}
	for authority, want := range map[string]string{target.String(): "200", "catalog.shop:81": "200", "cart.shop:80": "421 misdirected"} {
		if got, _ := named.connect(authority); got != want {
			t.Errorf("%s on a connection for shop/catalog: %s, want %s", authority, got, want)
		}
	}
}

// TestHBONEOverIPv6 has an application at an IPv6 address, and one service whose target is a port of the proxy itself, to which
// nothing is carried: it would come back as one of this host's own.
func TestHBONEOverIPv6(t *testing.T) {
	ln, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	target := serveEcho(t, ln)
	w := newWorld(t)
	inbound, outbound := loopback.AddrPort(t), loopback.AddrPort(t)
	w.script.set("shop/catalog-0", &ir.Proxy{ID: "shop/catalog-0", Inbound: []ir.Inbound{
		{Service: cart, Ports: []ir.InboundPort{{Port: 80, Protocol: mesh.ProtocolTCP, Target: outbound}}},
		{Service: catalog, Ports: []ir.InboundPort{{Port: 81, Protocol: mesh.ProtocolTCP, Target: target}}}}})
	server := w.start("eu-west", "shop/catalog-0", "catalog", func(c *agent.Config) { c.Inbound, c.Outbound = inbound, outbound })
	for _, n := range []mesh.ServiceName{cart, catalog} {
		w.service(n, []ir.Group{{Cluster: "eu-west", Exported: true, Identities: w.identity("eu-west", catalog), Endpoints: []ir.Endpoint{{Tag: "catalog-0", Proxy: inbound, Weight: 1}}}}, nil)
	}
	server.waitReady(t)
	n := w.node(server)
	if err := n.fully(target.String()); err != nil {
		t.Errorf("%s: %v", target, err)
	}
	for authority, want := range map[string]string{"[::2]:" + fmt.Sprint(target.Port()): "421 misdirected", "[::1]:1": "502 unknown_port",
		outbound.String(): "502 unknown_port", "cart.shop:80": "502 unknown_port"} {
		if got, _ := n.connect(authority); got != want {
			t.Errorf("%s: %s, want %s", authority, got, want)
		}
	}
}

// TestHBONEDrains: a connection that is open when the proxy is told to end goes on to its end, and no other is begun on
// it.
func TestHBONEDrains(t *testing.T) {
	w := newWorld(t)
	server, target := w.echoServer()
	n := w.node(server)
	_, b := n.connect(target.String())
	if b == nil {
		t.Fatal("no connection")
	}
	ended := make(chan error, 1)
	go func() { ended <- server.end() }()
	eventually(t, "the client is told", func() bool { return n.Available() == 0 })
	if err := errors.Join(b.say("still there"), b.finish()); err != nil {
		t.Error(err)
	}
	<-ended
}
