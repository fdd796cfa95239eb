package agent_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/agent"
	"github.com/isthmus-mesh/isthmus/dataplane/http2"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/internal/foreign"
	"github.com/isthmus-mesh/isthmus/internal/loopback"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// pair is a client's sidecar and a server's, with an application in between that speaks both
// versions of HTTP: on port 8080 of its service it is declared to speak the one, on 8082 the other.
type pair struct {
	client *member
	addr   netip.Addr // of the service, as the client sees it
}

func newPair(t *testing.T, target netip.AddrPort) *pair {
	t.Helper()
	w := newWorld(t)
	server, e := w.serverOf("eu-west", "catalog-0", catalog, target)
	w.service(catalog, []ir.Group{{Cluster: "eu-west", Exported: true, Identities: w.identity("eu-west", catalog), Endpoints: []ir.Endpoint{e}}}, nil)
	outbound, services := loopback.AddrPort(t), loopback.Net(t)
	w.asExplicitProxy(outbound, e, target)
	w.script.set("shop/frontend", &ir.Proxy{ID: "shop/frontend"})
	client := w.start("eu-west", "shop/frontend", "frontend", func(cfg *agent.Config) {
		cfg.Outbound, cfg.ServiceNet = outbound, services
	})
	server.waitReady(t)
	client.waitReady(t)
	p := &pair{client: client, addr: in(services, 17)}
	eventually(t, "the service has its listeners", func() bool {
		c, err := net.Dial("tcp", p.at(8082))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return p
}

// asExplicitProxy makes the explicit proxy's own address one of a service: a client that knows of
// no proxies asks, by the host of its requests, for what it is connected to.
func (w *world) asExplicitProxy(at netip.AddrPort, e ir.Endpoint, target netip.AddrPort) {
	ports := []ir.Port{{Port: at.Port(), Protocol: mesh.ProtocolHTTP2}}
	w.service(cart, []ir.Group{{Cluster: "eu-west", Exported: true, Identities: w.identity("eu-west", catalog), Endpoints: []ir.Endpoint{e}}}, nil)
	w.script.set(cart.String(), &ir.Service{Name: cart, Ports: ports, Traffic: ir.Traffic{Strategy: mesh.StrategyAuto, RequestTimeout: 15 * time.Second}})
	w.script.set(cart.String(), &ir.Name{Service: cart, Ports: ports, Address: at.Addr()})
	in := func(n mesh.ServiceName, ps ...ir.InboundPort) ir.Inbound { return ir.Inbound{Service: n, Ports: ps} }
	w.script.set("shop/"+e.Tag, &ir.Proxy{ID: "shop/" + e.Tag, Inbound: []ir.Inbound{
		in(catalog, ir.InboundPort{Port: 8080, Protocol: mesh.ProtocolHTTP, Target: target}, ir.InboundPort{Port: 8082, Protocol: mesh.ProtocolHTTP2, Target: target}),
		in(cart, ir.InboundPort{Port: at.Port(), Protocol: mesh.ProtocolHTTP2, Target: target})}})
}

// in is an address of a network of 256.
func in(net netip.Prefix, last byte) netip.Addr {
	a := net.Addr().As4()
	a[3] = last
	return netip.AddrFrom4(a)
}

func (p *pair) at(port uint16) string { return netip.AddrPortFrom(p.addr, port).String() }

// both is an HTTP client of net/http that speaks one version in the clear.
func speaking(t *testing.T, version int) *http.Client {
	tr := &http.Transport{Protocols: new(http.Protocols), ExpectContinueTimeout: 5 * time.Second}
	tr.Protocols.SetHTTP1(version == 1)
	tr.Protocols.SetUnencryptedHTTP2(version == 2)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: bound}
}

// serveBoth runs an application of net/http that speaks both versions in the clear.
func serveBoth(t *testing.T, h http.Handler) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, Protocols: new(http.Protocols)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close() })
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// TestListenersH2Spec runs h2spec against both listeners of the own application: the explicit
// proxy and a service's.
func TestListenersH2Spec(t *testing.T) {
	p := newPair(t, serveBoth(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, "hello")
	})))
	t.Run("explicit proxy", func(t *testing.T) { foreign.H2Spec(t, p.client.cfg.Outbound.String()) })
	t.Run("service of HTTP/1.1", func(t *testing.T) { foreign.H2Spec(t, p.at(8080)) })
	t.Run("service of HTTP/2", func(t *testing.T) { foreign.H2Spec(t, p.at(8082)) })
}

// TestVersionsAreBridged: a client of either version reaches an application of either, and what
// the other version says otherwise arrives in its own words.
func TestVersionsAreBridged(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		w.Header().Set("X-Proto", r.Proto)
		w.Header().Set("X-Host", r.Host)
		w.Header()["X-Cookie"] = r.Header["Cookie"]
		w.Header().Set("X-TE", r.Header.Get("Te"))
		body, err := io.ReadAll(r.Body) // in HTTP/1.1 net/http reads no more once it writes
		_, _ = w.Write(body)
		w.Header().Set("X-Sum", fmt.Sprint(len(body), err, r.Trailer.Get("X-Client-Sum")))
	})
	mux.HandleFunc("/early", func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusForbidden) })
	mux.HandleFunc("/hints", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		fmt.Fprint(w, "page")
	})
	p := newPair(t, serveBoth(t, mux))
	for client := 1; client <= 2; client++ {
		for app := 1; app <= 2; app++ {
			t.Run(fmt.Sprintf("HTTP/%d to HTTP/%d", client, app), func(t *testing.T) {
				c := speaking(t, client)
				base := "http://" + p.at(map[int]uint16{1: 8080, 2: 8082}[app])
				proto := map[int]string{1: "HTTP/1.1", 2: "HTTP/2.0"}
				bridged(t, c, base, proto[client], proto[app])
			})
		}
	}
}

func bridged(t *testing.T, c *http.Client, base, client, app string) {
	body := strings.Repeat("0123456789", 20_000)
	req, _ := http.NewRequestWithContext(t.Context(), "POST", base+"/echo", struct{ io.Reader }{strings.NewReader(body)})
	req.Header["Cookie"] = []string{"a=1; b=2"}
	req.Header.Set("TE", "trailers")
	req.Trailer = http.Header{"X-Client-Sum": {"whole"}}
	resp, got := do(t, c, req)
	want := map[string]string{"X-Proto": app, "X-Host": strings.TrimPrefix(base, "http://"), "X-Cookie": "a=1; b=2", "X-TE": "trailers"}
	for name, v := range want {
		if h := strings.Join(resp.Header.Values(name), "|"); h != v {
			t.Errorf("%s: %q, want %q", name, h, v)
		}
	}
	if resp.Proto != client || got != body || resp.Trailer.Get("X-Sum") != "200000 <nil>whole" {
		t.Errorf("%s, %d bytes came back, trailer %q", resp.Proto, len(got), resp.Trailer)
	}

	req, _ = http.NewRequestWithContext(t.Context(), "HEAD", base+"/early", nil)
	if resp, got := do(t, c, req); resp.StatusCode != 403 || got != "" || resp.ContentLength != 3 {
		t.Errorf("HEAD: %d, %d bytes of %d announced", resp.StatusCode, len(got), resp.ContentLength)
	}

	// The application answers while the body is on its way, and reads none of it.
	endless := &stopped{Reader: neverEnding{}, left: 8 << 20}
	req, _ = http.NewRequestWithContext(t.Context(), "POST", base+"/early", endless)
	if resp, got := do(t, c, req); resp.StatusCode != 403 || got != "no\n" {
		t.Errorf("early answer: %d %q", resp.StatusCode, got)
	}

	continued := false
	trace := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got100Continue: func() { continued = true }})
	req, _ = http.NewRequestWithContext(trace, "PUT", base+"/echo", strings.NewReader("waits"))
	req.Header.Set("Expect", "100-continue")
	if _, got := do(t, c, req); got != "waits" || !continued {
		t.Errorf("Expect: 100-continue: %q, continued %v", got, continued)
	}

	var hints []string
	trace = httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		hints = append(hints, fmt.Sprint(code, h.Get("Link")))
		return nil
	}})
	req, _ = http.NewRequestWithContext(trace, "GET", base+"/hints", nil)
	if _, got := do(t, c, req); got != "page" || len(hints) != 1 || hints[0] != "103</style.css>; rel=preload" {
		t.Errorf("early hints: %q %q", hints, got)
	}
}

func do(t *testing.T, c *http.Client, req *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

type neverEnding struct{}

func (neverEnding) Read(p []byte) (int, error) { return len(p), nil }

// stopped is a body that a transport reads until it is closed, and of bounded length all the same.
type stopped struct {
	io.Reader
	mu   sync.Mutex
	left int
}

func (s *stopped) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left <= 0 {
		return 0, io.EOF
	}
	n, err := s.Reader.Read(p[:min(len(p), s.left)])
	s.left -= n
	return n, err
}

func (s *stopped) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = 0
	return nil
}

// socketAccept is RFC 6455 §4.2.2.
func socketAccept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// TestWebSocketsAreBridged: both handshakes, RFC 6455 §4 and RFC 8441 §5, reach applications that
// know the one, the other, or HTTP/2 without extended CONNECT.
func TestWebSocketsAreBridged(t *testing.T) {
	old := serveBoth(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 1 || !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
			fmt.Fprint(w, "a page")
			return
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
			socketAccept(r.Header.Get("Sec-WebSocket-Key")))
		rw.Flush()
		_, _ = io.Copy(c, rw)
	}))
	apps := map[string]struct {
		target netip.AddrPort
		port   uint16
	}{
		"HTTP/1.1":                        {old, 8080},
		"HTTP/2":                          {extendedConnect(t), 8082},
		"HTTP/2 without extended CONNECT": {old, 8082},
	}
	for name, app := range apps {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, app.target)
			t.Run("from HTTP/1.1", func(t *testing.T) { socketHTTP1(t, p.at(app.port)) })
			t.Run("from HTTP/2", func(t *testing.T) { socketHTTP2(t, p.at(app.port)) })
		})
	}
}

// extendedConnect is an application that echoes WebSockets of HTTP/2 and refuses the handshake of
// HTTP/1.1.
func extendedConnect(t *testing.T) netip.AddrPort {
	ln, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var conns sync.WaitGroup
	t.Cleanup(func() { cancel(); ln.Close(); conns.Wait() })
	conns.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				_ = http2.ServeConn(ctx, c, http2.Config{ConnectProtocol: true, DrainTimeout: time.Second}, func(ex message.Exchange) {
					h := &message.Head{Status: 400, Length: message.LengthUnknown}
					q := ex.Request()
					if string(q.Upgrade) == "websocket" && q.IsConnect() && !q.Has("sec-websocket-key") {
						h.Status = 200
					}
					if ex.Respond(h, false) == nil {
						_, _ = io.Copy(struct{ io.Writer }{ex}, struct{ io.Reader }{ex})
						_ = ex.Finish(nil)
					}
				})
			})
		}
	})
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

func socketHTTP1(t *testing.T, addr string) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(bound))
	const key = "dGhlIHNhbXBsZSBub25jZQ=="
	fmt.Fprintf(c, "GET /socket HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n", addr, key)
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 101 || resp.Header.Get("Sec-WebSocket-Accept") != socketAccept(key) {
		t.Fatalf("%d %v", resp.StatusCode, resp.Header)
	}
	echoes(t, c, r, func() { _ = c.(*net.TCPConn).CloseWrite() })
}

func socketHTTP2(t *testing.T, addr string) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c, err := http2.NewClientConn(nc, http2.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ask := func() (message.Stream, *message.Head) {
		s, err := c.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s.SetDeadline(time.Now().Add(bound))
		h := &message.Head{}
		h.Reset()
		h.Method, h.Scheme, h.Path = []byte("CONNECT"), []byte("http"), []byte("/socket")
		h.Authority, h.Upgrade, h.Length = []byte(addr), []byte("websocket"), message.LengthUnknown
		h.Add("sec-websocket-version", "13")
		if err := s.Send(h, false); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Receive(h); err != nil {
			t.Fatal(err)
		}
		return s, h
	}
	s, h := ask()
	defer s.Close()
	if h.Status != 200 || h.Has("sec-websocket-accept") || h.Has("isthmus-not-switched") {
		t.Fatalf("%d %q", h.Status, h.Fields)
	}
	echoes(t, s, s, func() { _ = s.CloseWrite(nil) })
}

// echoes sends what WebSocket's frames would be, and more, both ways at once.
func echoes(t *testing.T, w io.Writer, r io.Reader, end func()) {
	t.Helper()
	body := bytes.Repeat([]byte("\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"), 1<<16)
	sent := make(chan error, 1)
	go func() {
		_, err := w.Write(body)
		end()
		sent <- err
	}()
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, body) {
		t.Errorf("%d bytes of %d came back, %v", len(got), len(body), err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}
