package agent_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// issuer is an authority of applications.
type issuer struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "applications"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{key: key}
	if i.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return i
}

// pem is the certificate as a ConfigMap holds it.
func (i *issuer) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.cert.Raw}))
}

// application serves over TLS as catalog.example.com and spiffe://example.com/catalog: HTTP of the versions that protos name,
// or, where they name none, lines that come back.
func (i *issuer) application(t *testing.T, protos ...string) netip.AddrPort {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{"catalog.example.com", "*.shops.example.com"},
		URIs:      []*url.URL{{Scheme: "spiffe", Host: "example.com", Path: "/catalog"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, i.cert, &key.PublicKey, i.key)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: protos}
	at := ln.Addr().(*net.TCPAddr).AddrPort()
	t.Cleanup(func() { ln.Close() })
	if len(protos) == 0 {
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					tc := tls.Server(c, config)
					_, _ = io.Copy(tc, tc)
					_ = tc.CloseWrite()
				}()
			}
		}()
		return at
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s by TLS for %s as %s", r.Proto, r.TLS.ServerName, r.TLS.NegotiatedProtocol)
	}), TLSConfig: config, ErrorLog: log.New(io.Discard, "", 0), Protocols: new(http.Protocols)}
	srv.Protocols.SetHTTP1(slices.Contains(protos, "http/1.1"))
	srv.Protocols.SetHTTP2(slices.Contains(protos, "h2"))
	go func() { _ = srv.ServeTLS(ln, "", "") }()
	t.Cleanup(func() { srv.Close() })
	return at
}

// TestApplicationsAreSpokenToByTLS has a server's sidecar speak to an application that speaks TLS alone: in both versions of
// HTTP, as bytes, and by every way a policy may say who it must be. Who does not prove it is not spoken to, whatever the
// request: nothing goes in the clear, nothing unverified.
func TestApplicationsAreSpokenToByTLS(t *testing.T) {
	right, wrong := newIssuer(t), newIssuer(t)
	both, old, lines := right.application(t, "h2", "http/1.1"), right.application(t, "http/1.1"), right.application(t)
	w := newWorld(t)
	server, e := w.serverOf("eu-west", "catalog-0", catalog, both)
	w.service(catalog, []ir.Group{{Cluster: "eu-west", Exported: true, Identities: w.identity("eu-west", catalog), Endpoints: []ir.Endpoint{e}}}, nil)
	client := w.client()
	server.waitReady(t)
	client.waitReady(t)
	c := via(t, client)
	c.Transport.(*http.Transport).DisableKeepAlives = true
	serve := func(target netip.AddrPort, p *ir.BackendTLS) {
		w.script.set("shop/catalog-0", &ir.Proxy{ID: "shop/catalog-0", Inbound: []ir.Inbound{{Service: catalog, Ports: []ir.InboundPort{
			{Port: 8080, Protocol: mesh.ProtocolHTTP, Target: target, TLS: p}, {Port: 8082, Protocol: mesh.ProtocolHTTP2, Target: target, TLS: p},
			{Port: 81, Protocol: mesh.ProtocolTCP, Target: lines, TLS: p}}}}})
	}
	get := func(port int) string {
		status, reason, body := ask(t, c, fmt.Sprintf("http://catalog.shop:%d/", port))
		return strings.TrimSpace(fmt.Sprint(status, " ", reason, " ", body))
	}
	becomes := func(t *testing.T, what string, port int, want string) {
		t.Helper()
		last := ""
		defer func() {
			if t.Failed() {
				t.Logf("%s: last was %s", what, last)
			}
		}()
		eventually(t, what+": "+want, func() bool {
			last = get(port)
			return strings.Contains(last, want)
		})
	}
	policy := func(change func(*ir.BackendTLS)) *ir.BackendTLS {
		p := &ir.BackendTLS{Object: "BackendTLSPolicy shop/catalog@eu-west", Hostname: "catalog.example.com", Roots: right.pem()}
		if change != nil {
			change(p)
		}
		return p
	}
	names := func(n ...mesh.SubjectName) func(*ir.BackendTLS) {
		return func(p *ir.BackendTLS) { p.Hostname, p.Names = "other.example.com", n }
	}
	const refused = "503 tls_failure"
	for _, tc := range []struct {
		name        string
		target      netip.AddrPort
		policy      *ir.BackendTLS
		http, http2 string
	}{
		{"the host name", both, policy(nil), "HTTP/1.1 by TLS for catalog.example.com as http/1.1", "HTTP/2.0 by TLS for catalog.example.com as h2"},
		{"another host name", both, policy(func(p *ir.BackendTLS) { p.Hostname = "cart.example.com" }), refused, refused},
		{"a URI, whatever the host name", both, policy(names(mesh.SubjectName{Kind: mesh.SubjectURI, Value: "spiffe://example.com/catalog"})),
			"HTTP/1.1 by TLS for other.example.com as http/1.1", "HTTP/2.0 by TLS for other.example.com as h2"},
		{"another URI", both, policy(names(mesh.SubjectName{Kind: mesh.SubjectURI, Value: "spiffe://example.com/cart"})), refused, refused},
		{"one of several names", both, policy(names(mesh.SubjectName{Kind: mesh.SubjectHostname, Value: "cart.example.com"}, mesh.SubjectName{Kind: mesh.SubjectHostname, Value: "catalog.example.com"})),
			"HTTP/1.1 by TLS for other", "HTTP/2.0 by TLS for other"},
		{"a wildcard that the certificate has", both, policy(names(mesh.SubjectName{Kind: mesh.SubjectHostname, Value: "*.shops.example.com"})), "200", "200"},
		{"a wildcard that covers what the certificate has", both, policy(names(mesh.SubjectName{Kind: mesh.SubjectHostname, Value: "*.example.com"})), refused, refused},
		{"a kind of name of a later version", both, policy(names(mesh.SubjectName{Kind: "Later", Value: "catalog.example.com"})), refused, refused},
		{"another authority", both, policy(func(p *ir.BackendTLS) { p.Roots = wrong.pem() }), refused, refused},
		{"another authority, by its names", both, policy(func(p *ir.BackendTLS) {
			p.Roots, p.Names = wrong.pem(), []mesh.SubjectName{{Kind: mesh.SubjectHostname, Value: "catalog.example.com"}}
		}), refused, refused},
		{"the authorities of this host", both, policy(func(p *ir.BackendTLS) { p.Roots, p.System = "", true }), refused, refused},
		{"no authority at all", both, policy(func(p *ir.BackendTLS) { p.Roots = "" }), refused, refused},
		{"a policy that cannot be understood", both, policy(func(p *ir.BackendTLS) { p.Invalid = "its ConfigMap does not exist" }), refused, refused},
		{"HTTP/1.1 alone", old, policy(nil), "HTTP/1.1 by TLS for catalog.example.com as http/1.1", refused},
		{"no policy: an application that speaks TLS answers HTTP/1.1 in the clear by 400", both, nil, "400", "50"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			serve(both, policy(nil)) // so that an answer is this policy's, and not that of the one before
			becomes(t, "before", 8080, "200")
			serve(tc.target, tc.policy)
			becomes(t, "HTTP/1.1", 8080, tc.http)
			becomes(t, "HTTP/2", 8082, tc.http2)
		})
	}
	t.Run("bytes", func(t *testing.T) {
		serve(both, policy(nil))
		becomes(t, "the policy is there", 8080, "200")
		echoes := func() string {
			conn, err := net.Dial("tcp", client.cfg.Outbound.String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(bound))
			fmt.Fprint(conn, "CONNECT catalog.shop:81 HTTP/1.1\r\nHost: catalog.shop:81\r\n\r\n")
			r := bufio.NewReader(conn)
			head, err := http.ReadResponse(r, &http.Request{Method: "CONNECT"})
			if err != nil {
				t.Fatal(err)
			}
			if head.StatusCode != 200 {
				return head.Header.Get("isthmus-reason")
			}
			fmt.Fprint(conn, "line\n")
			line, err := r.ReadString('\n')
			if err != nil {
				return err.Error()
			}
			if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if rest, err := io.ReadAll(r); len(rest) > 0 || err != nil { // the end comes through TLS too
				t.Errorf("after the end: %q, %v", rest, err)
			}
			return line
		}
		if got := echoes(); got != "line\n" {
			t.Errorf("%q came back through TLS", got)
		}
		serve(both, policy(func(p *ir.BackendTLS) { p.Roots = wrong.pem() }))
		eventually(t, "another authority refuses bytes too", func() bool { return echoes() == string(mesh.ReasonTLS) })
	})
}

// TestHealthIsAskedByTLS has the health check of an application that speaks TLS alone ask it by TLS.
func TestHealthIsAskedByTLS(t *testing.T) {
	right := newIssuer(t)
	target := right.application(t, "h2", "http/1.1")
	for _, kind := range []mesh.HealthKind{mesh.HealthHTTP, mesh.HealthTCP} {
		t.Run(string(kind), func(t *testing.T) {
			w := newWorld(t)
			server, e := w.serverOf("eu-west", "catalog-0", catalog, target)
			ports := []ir.Port{{Port: 80, Protocol: mesh.ProtocolHTTP}}
			w.service(catalog, []ir.Group{{Cluster: "eu-west", Exported: true, Identities: w.identity("eu-west", catalog), Endpoints: []ir.Endpoint{e}}}, nil)
			w.script.set(catalog.String(), &ir.Service{Name: catalog, Ports: ports, Traffic: ir.Traffic{Strategy: mesh.StrategyAuto, RequestTimeout: 15 * time.Second,
				Health: &mesh.HealthCheck{Kind: kind, Interval: 20 * time.Millisecond, Timeout: 10 * time.Second, Healthy: 1, Unhealthy: 1}}})
			serve := func(roots string) {
				w.script.set("shop/catalog-0", &ir.Proxy{ID: "shop/catalog-0", Inbound: []ir.Inbound{{Service: catalog, Ports: []ir.InboundPort{{Port: 80, Protocol: mesh.ProtocolHTTP, Target: target,
					TLS: &ir.BackendTLS{Object: "BackendTLSPolicy shop/catalog@eu-west", Hostname: "catalog.example.com", Roots: roots}}}}}})
			}
			serve(right.pem())
			server.waitReady(t)
			eventually(t, "the application is well", func() bool {
				return strings.Contains(metricsOf(t, server), "isthmus_application_healthy{destination_service=\"catalog\",destination_namespace=\"shop\"} 1")
			})
			serve(newIssuer(t).pem())
			eventually(t, "one that cannot prove who it is is not", func() bool {
				return strings.Contains(metricsOf(t, server), "isthmus_application_healthy{destination_service=\"catalog\",destination_namespace=\"shop\"} 0")
			})
		})
	}
}

// metricsOf is what the admin port says.
func metricsOf(t *testing.T, m *member) string {
	t.Helper()
	status, text := adminCall(t, m, "GET", "/metrics")
	if status != 200 {
		t.Fatalf("metrics: status %d", status)
	}
	return text
}
