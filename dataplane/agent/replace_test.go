package agent_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/agent"
	"github.com/isthmus-mesh/isthmus/internal/loopback"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// replaceable gives a proxy a socket for its successor, with a path short enough for one.
func replaceable(t testing.TB, drain time.Duration) func(*agent.Config) {
	t.Helper()
	dir, err := os.MkdirTemp("", "ho")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return func(c *agent.Config) { c.Handover, c.DrainTime = filepath.Join(dir, "s"), drain }
}

// replace starts a successor of m and waits until it serves alone.
func (w *world) replace(m *member) *member {
	w.t.Helper()
	key, _ := keys.Load(m.cfg.Snapshot)
	next := w.run(m.cfg, key.(trust.SealKey), agent.Options{Replace: true})
	next.waitReady(w.t)
	eventually(w.t, "the process before has yielded", func() bool { return !m.Ready() })
	return next
}

// traffic is load of one kind; every request that fails is kept.
type traffic struct {
	what   string
	mu     sync.Mutex
	n      int
	failed []string
}

func (f *traffic) note(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n++
	if err != nil {
		f.failed = append(f.failed, err.Error())
	}
}

func (f *traffic) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n
}

// drive sends requests of one kind, one after the other, until ctx ends. It is load enough for every
// moment of a replacement to meet some, and leaves the machine time for what is tested.
func (f *traffic) drive(ctx context.Context, work *sync.WaitGroup, one func() error) {
	work.Go(func() {
		for ctx.Err() == nil {
			f.note(one())
		}
	})
}

// request sends one and wants 200 and the whole answer.
func request(c *http.Client, method, u string) error {
	r, err := http.NewRequest(method, u, strings.NewReader("x"))
	if err != nil {
		return err
	}
	if method == "GET" {
		r.Body, r.ContentLength = nil, 0
	}
	a, err := c.Do(r)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err == nil && a.StatusCode != 200 {
		err = fmt.Errorf("%s %s: %d %s", method, u, a.StatusCode, b)
	}
	return err
}

// echoing is a TCP application that sends back what it gets.
func echoing(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() { ln.Close(); work.Wait() })
	return ln
}

// line is a connection through the mesh to an application that echoes.
type line struct {
	net.Conn
	r *bufio.Reader
}

func dialTunnel(outbound netip.AddrPort) (*line, error) {
	c, err := net.Dial("tcp", outbound.String())
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(bound))
	l := &line{c, bufio.NewReader(c)}
	if _, err := io.WriteString(c, "CONNECT catalog.shop:81 HTTP/1.1\r\nHost: catalog.shop:81\r\n\r\n"); err != nil {
		c.Close()
		return nil, err
	}
	a, err := http.ReadResponse(l.r, &http.Request{Method: "CONNECT"})
	if err == nil && a.StatusCode != 200 {
		why, _ := io.ReadAll(a.Body)
		err = fmt.Errorf("CONNECT: %d %s", a.StatusCode, why)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return l, nil
}

func (l *line) say(text string) error {
	_ = l.SetDeadline(time.Now().Add(bound))
	if _, err := io.WriteString(l, text+"\n"); err != nil {
		return err
	}
	got, err := l.r.ReadString('\n')
	if err == nil && got != text+"\n" {
		err = fmt.Errorf("said %q, heard %q", text, got)
	}
	return err
}

// tunnels is a new connection with one message, ended in order.
func tunnels(outbound netip.AddrPort) error {
	l, err := dialTunnel(outbound)
	if err != nil {
		return err
	}
	defer l.Close()
	return l.say("hello")
}

// pair is a client and one server, both replaceable: nowhere else could a request go.
func (w *world) pair(drain time.Duration) (client, server *member) {
	w.t.Helper()
	echo := echoing(w.t).Addr().(*net.TCPAddr).AddrPort()
	inbound := loopback.AddrPort(w.t)
	w.script.set("shop/catalog-0", &ir.Proxy{ID: "shop/catalog-0", Inbound: []ir.Inbound{{Service: catalog, Ports: []ir.InboundPort{
		{Port: 80, Protocol: mesh.ProtocolHTTP, Target: app(w.t, "catalog-0")}, {Port: 81, Protocol: mesh.ProtocolTCP, Target: echo},
		{Port: 8082, Protocol: mesh.ProtocolHTTP2, Target: echoingCalls(w.t)}}}}})
	set := replaceable(w.t, drain)
	server = w.start("eu-west", "shop/catalog-0", "catalog", func(c *agent.Config) { c.Inbound = inbound; set(c) })
	w.service(catalog, []ir.Group{{Cluster: "eu-west", Exported: true, Identities: w.identity("eu-west", catalog),
		Endpoints: []ir.Endpoint{{Tag: "catalog-0", Proxy: inbound, Weight: 1}}}}, nil)
	w.script.set("shop/frontend", &ir.Proxy{ID: "shop/frontend"})
	set = replaceable(w.t, drain)
	client = w.start("eu-west", "shop/frontend", "frontend", func(c *agent.Config) { c.Outbound, c.DNS = loopback.AddrPort(w.t), loopback.AddrPort(w.t); set(c) })
	server.waitReady(w.t)
	client.waitReady(w.t)
	return client, server
}

const catalogURL = "http://catalog.shop.svc.clusterset.local/"

// TestLoadedProxiesAreReplacedWithoutAFailedRequest replaces both proxies of a loaded pair three times
// each. Requests that must not be repeated are among the load, and there is one endpoint: nothing
// that fails is hidden by a retry of the mesh's. Of the clients', net/http's and grpc-go's send again what a
// server said that it has not begun (RFC 9113 §8.7). A connection and a call from before the first
// replacement go on to the end.
func TestLoadedProxiesAreReplacedWithoutAFailedRequest(t *testing.T) {
	w := newWorld(t)
	client, server := w.pair(time.Hour) // longer than the test may take, and what lives throughout
	outbound := client.cfg.Outbound
	long, err := dialTunnel(outbound)
	if err != nil {
		t.Fatal(err)
	}
	defer long.Close()
	if err := long.say("before"); err != nil {
		t.Fatal(err)
	}
	callers := caller(t, outbound)
	stream, err := dialCall(callers)
	if err == nil {
		err = stream.say("before")
	}
	if err != nil {
		t.Fatal(err)
	}
	first := [2]*member{client, server}
	c := via(t, client)
	fresh := &http.Client{Transport: &http.Transport{Proxy: c.Transport.(*http.Transport).Proxy, DisableKeepAlives: true}, Timeout: bound}
	kinds := []*traffic{{what: "GET"}, {what: "POST"}, {what: "POST on new connections"}, {what: "CONNECT"}, {what: "gRPC"}}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var work sync.WaitGroup
	kinds[0].drive(ctx, &work, func() error { return request(c, "GET", catalogURL) })
	kinds[1].drive(ctx, &work, func() error { return request(c, "POST", catalogURL) })
	kinds[2].drive(ctx, &work, func() error { return request(fresh, "POST", catalogURL) })
	kinds[3].drive(ctx, &work, func() error { return tunnels(outbound) })
	kinds[4].drive(ctx, &work, func() error { return calls(callers) })
	more := func() {
		for _, k := range kinds {
			want := k.count() + 15
			eventually(t, "more "+k.what, func() bool { return k.count() >= want })
		}
	}
	for i := range 3 {
		more()
		server = w.replace(server)
		more()
		client = w.replace(client)
		if err := stream.say(fmt.Sprint("after replacement ", i)); err != nil {
			t.Fatalf("a call from before, after replacement %d: %v", i, err)
		}
	}
	more()
	// What was long before is there still, in processes that drain.
	if err := long.say("after"); err != nil {
		t.Errorf("a connection from before: %v", err)
	}
	if err := stream.end(); err != nil {
		t.Errorf("a call from before: %v", err)
	}
	stop()
	work.Wait()
	for _, k := range kinds {
		if len(k.failed) > 0 {
			t.Errorf("%s: %d of %d failed: %s", k.what, len(k.failed), k.n, k.failed[0])
		}
		t.Logf("%s: %d", k.what, k.n)
	}
	long.Close()
	callers.Close()
	c.CloseIdleConnections()
	for _, m := range first {
		if err := m.wait(); !errors.Is(err, agent.ErrReplaced) {
			t.Errorf("%s ended with %v", m.cfg.ID, err)
		}
	}
	// The last generation keeps the snapshot: a restart boots from what it wrote.
	if err := client.end(); err == nil || !strings.Contains(err.Error(), "context canceled") {
		t.Errorf("the last client ended with %v", err)
	}
	key, _ := keys.Load(client.cfg.Snapshot)
	w.boot(client.cfg, key.(trust.SealKey)).waitReady(t)
}

// TestRestartedWithoutHandOverRequestsFail is the control run: the same pair, a restart in place of
// a replacement.
func TestRestartedWithoutHandOverRequestsFail(t *testing.T) {
	w := newWorld(t)
	client, _ := w.pair(time.Second)
	c := via(t, client)
	k := &traffic{what: "POST"}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var work sync.WaitGroup
	k.drive(ctx, &work, func() error { return request(c, "POST", catalogURL) })
	eventually(t, "some requests", func() bool { return k.count() > 30 })
	_ = client.end()
	key, _ := keys.Load(client.cfg.Snapshot)
	next := w.boot(client.cfg, key.(trust.SealKey))
	next.waitReady(t)
	stop()
	work.Wait()
	if len(k.failed) == 0 {
		t.Errorf("none of %d failed without a hand-over: the load proves nothing", k.n)
	}
}

// TestASuccessorThatIsNotReadyTakesNothing starts one that has no snapshot and no way to a
// certificate: the running proxy goes on.
func TestASuccessorThatIsNotReadyTakesNothing(t *testing.T) {
	w := newWorld(t)
	client, _ := w.pair(time.Second)
	cfg := client.cfg
	cfg.Snapshot += "-none"
	next := w.run(cfg, trust.NewSealKey(), agent.Options{Replace: true})
	c := via(t, client)
	for range 50 {
		if err := request(c, "POST", catalogURL); err != nil {
			t.Fatal(err)
		}
	}
	if next.Ready() || !client.Ready() {
		t.Errorf("ready: the successor %v, the running one %v", next.Ready(), client.Ready())
	}
	if err := next.end(); err == nil || !strings.Contains(err.Error(), "context canceled") {
		t.Errorf("the successor ended with %v", err)
	}
	if err := request(c, "POST", catalogURL); err != nil || !client.Ready() {
		t.Errorf("after the successor is gone: %v, ready %v", err, client.Ready())
	}
}
