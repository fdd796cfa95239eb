//go:build !race

package agent_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/netip"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/http2"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Both sidecars are in this process, as are an application and its client, which allocate nothing.
// crypto/tls allocates 24 octets for each read of its socket that finds something, which are
// counted apart: there is no way round it. (The race detector makes sync.Pool forget.)
func TestNoAllocationThroughBothSidecars(t *testing.T) {
	w := newWorld(t)
	group := func(n mesh.ServiceName, e ir.Endpoint) {
		w.service(n, []ir.Group{{Cluster: "eu-west", Exported: true, Identities: w.identity("eu-west", n), Endpoints: []ir.Endpoint{e}}}, nil)
	}
	plain, e := w.serverOf("eu-west", "catalog-0", catalog, listen(t, answerAll))
	group(catalog, e)
	unary, e := w.serverOf("eu-west", "cart-0", cart, listen(t, answerCalls))
	group(cart, e)
	client := w.client()
	for _, m := range []*member{plain, unary, client} {
		m.waitReady(t)
	}
	t.Run("HTTP/1.1", func(t *testing.T) {
		askers := make([]func(int) error, 16)
		for i := range askers {
			askers[i] = newAsker(t, client.cfg.Outbound).ask
		}
		allocatesNothing(t, askers)
	})
	t.Run("unary gRPC", func(t *testing.T) {
		askers := make([]func(int) error, 16)
		conns := [2]*http2.ClientConn{newCalls(t, client.cfg.Outbound), newCalls(t, client.cfg.Outbound)}
		for i := range askers {
			askers[i] = (&unaryCalls{c: conns[i%2]}).ask
		}
		allocatesNothing(t, askers)
	})
}

// allocatesNothing has askers ask beside each other, and holds what the sidecars allocate to nothing.
func allocatesNothing(t *testing.T, askers []func(n int) error) {
	t.Helper()
	load := func(each int) {
		errs := make([]error, len(askers))
		var done sync.WaitGroup
		for i, ask := range askers {
			done.Go(func() { errs[i] = ask(each) })
		}
		done.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	load(200) // connections and what is used again are made
	rate := runtime.MemProfileRate
	runtime.MemProfileRate = 1
	defer func() { runtime.MemProfileRate = rate }()
	const each = 1000
	tlsBefore, before := allocated(t)
	percent := debug.SetGCPercent(-1) // what the collector takes from pools is made again, and is no request's
	load(each)
	debug.SetGCPercent(percent)
	tlsAfter, after := allocated(t)
	requests := float64(each * len(askers))
	t.Logf("a request: %.2f allocations of crypto/tls", float64(tlsAfter-tlsBefore)/requests)
	for stack, n := range after {
		n -= before[stack]
		// What runs beside requests goes by the time that they take, which is the machine's: it comes from many places.
		if float64(n) < requests/20 || own(stack) || ofTheSecond(stack) {
			continue
		}
		var path strings.Builder
		for f := range frames(stack) {
			fmt.Fprintf(&path, " %s:%d", f.Function, f.Line)
		}
		t.Errorf("a request costs %.2f allocations outside crypto/tls, want none, in%s", float64(n)/requests, &path)
	}
	if n := tlsAfter - tlsBefore; n == 0 {
		t.Error("nothing was counted of what crypto/tls allocates: the count does not work")
	}
}

// stack is where an allocation was made.
type stack = [32]uintptr

// allocated counts all allocations so far that the profiler has seen: those of reading TLS, and others
// by where they were made.
func allocated(t *testing.T) (tls int64, others map[stack]int64) {
	t.Helper()
	runtime.GC() // what was allocated since the last but one is not told before
	runtime.GC()
	records := make([]runtime.MemProfileRecord, 50_000)
	n, ok := runtime.MemProfile(records, true)
	if !ok {
		t.Fatalf("%d records of the profiler, more than are asked for", n)
	}
	others = make(map[stack]int64, n)
	for _, r := range records[:n] {
		if within(r.Stack0, "crypto/tls.(*Conn).readFromUntil") {
			tls += r.AllocObjects
		} else {
			others[r.Stack0] += r.AllocObjects
		}
	}
	return tls, others
}

// own reports whether it was this test that allocated.
func own(s stack) bool { return within(s, "dataplane/agent_test.") }

// ofTheSecond reports whether it was for the control plane or the snapshot, by the second and not by the request.
func ofTheSecond(s stack) bool {
	return within(s, "google.golang.org/grpc") || within(s, "dataplane/load.") || within(s, "agent.(*keeper).")
}

func within(s stack, function string) bool {
	for f := range frames(s) {
		if strings.Contains(f.Function, function) {
			return true
		}
	}
	return false
}

func frames(s stack) iter.Seq[runtime.Frame] {
	return func(yield func(runtime.Frame) bool) {
		n := slices.Index(s[:], 0)
		if n < 0 {
			n = len(s)
		}
		for all := runtime.CallersFrames(s[:n]); ; {
			f, more := all.Next()
			if !yield(f) || !more {
				return
			}
		}
	}
}

// listen is an application that serves each connection by serve.
func listen(t testing.TB, serve func(net.Conn)) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(conns.Wait)
	t.Cleanup(func() { ln.Close() })
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

const greeting = "hello"

// answerAll answers every request of HTTP/1.1 by the same.
func answerAll(c net.Conn) {
	in := bufio.NewReader(c)
	answer := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", len(greeting), greeting)
	for skipHead(in) == nil {
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

// skipHead reads up to and with the empty line.
func skipHead(in *bufio.Reader) error {
	for {
		line, err := in.ReadSlice('\n')
		if err != nil || len(bytes.TrimSpace(line)) == 0 {
			return err
		}
	}
}

// asker asks over one connection, one request after another.
type asker struct {
	c       net.Conn
	in      *bufio.Reader
	request []byte
}

func newAsker(t testing.TB, proxy netip.AddrPort) *asker {
	t.Helper()
	c, err := net.Dial("tcp", proxy.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &asker{c, bufio.NewReader(c), []byte("GET http://catalog.shop.svc.clusterset.local/items?id=7 HTTP/1.1\r\n" +
		"Host: catalog.shop.svc.clusterset.local\r\nUser-Agent: test\r\n\r\n")}
}

func (c *asker) ask(n int) error {
	for range n {
		if _, err := c.c.Write(c.request); err != nil {
			return err
		}
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
			return fmt.Errorf("answered %q", line)
		}
		if err := skipHead(c.in); err != nil {
			return err
		}
		if _, err := c.in.Discard(len(greeting)); err != nil {
			return err
		}
	}
	return nil
}

// answerCalls answers every call of gRPC by the message that it came with.
func answerCalls(c net.Conn) {
	_ = http2.ServeConn(context.Background(), c, http2.Config{}, func(ex message.Exchange) {
		var h message.Head
		h.Reset()
		h.Status, h.Length = 200, message.LengthUnknown
		h.Add("content-type", "application/grpc")
		buf := make([]byte, 64)
		n, err := io.ReadFull(ex, buf)
		if errors.Is(err, io.ErrUnexpectedEOF) && ex.Respond(&h, false) == nil {
			if _, err := ex.Write(buf[:n]); err == nil {
				_ = ex.Finish([]message.Field{{Name: []byte("grpc-status"), Value: []byte("0")}})
			}
		}
	})
}

func newCalls(t testing.TB, proxy netip.AddrPort) *http2.ClientConn {
	t.Helper()
	nc, err := net.Dial("tcp", proxy.String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := http2.NewClientConn(nc, http2.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// unaryCalls is one goroutine's calls on a connection that others call on as well.
type unaryCalls struct {
	c    *http2.ClientConn
	head message.Head
	buf  [64]byte
}

func (u *unaryCalls) ask(n int) error {
	for range n {
		if err := u.call(); err != nil {
			return err
		}
	}
	return nil
}

func (u *unaryCalls) call() error {
	s, err := u.c.Open(context.Background())
	if err != nil {
		return err
	}
	defer s.Close()
	h := &u.head
	h.Reset()
	h.Method, h.Scheme, h.Length = h.KeepString("POST"), h.KeepString("http"), message.LengthUnknown
	h.Authority, h.Path = h.KeepString("cart.shop:8082"), h.KeepString("/shop.Cart/Get")
	h.Add("content-type", "application/grpc")
	h.Add("te", "trailers")
	if err := s.Send(h, false); err != nil {
		return err
	}
	if _, err := s.Write([]byte(greeting)); err != nil {
		return err
	}
	if err := s.CloseWrite(nil); err != nil {
		return err
	}
	if _, err := s.Receive(h); err != nil {
		return err
	}
	read, err := io.ReadFull(s, u.buf[:])
	trailers := s.Trailers()
	if !errors.Is(err, io.ErrUnexpectedEOF) || h.Status != 200 || string(u.buf[:read]) != greeting || len(trailers) != 1 || string(trailers[0].Value) != "0" {
		return fmt.Errorf("answered %d, %q with trailers %q: %w", h.Status, u.buf[:read], trailers, err)
	}
	return nil
}
