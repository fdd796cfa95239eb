//go:build !race

package agent_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/isthmus-mesh/isthmus/core/ir"
)

// Both sidecars are in this process, as are an application and its client, which allocate nothing.
// crypto/tls allocates 24 octets for each read of its socket that finds something, which are
// counted apart: there is no way round it. (The race detector makes sync.Pool forget.)
func TestNoAllocationThroughBothSidecars(t *testing.T) {
	w := newWorld(t)
	server, e := w.serverOf("eu-west", "catalog-0", catalog, answers(t))
	w.service(catalog, []ir.Group{{Cluster: "eu-west", Exported: true, Identities: w.identity("eu-west", catalog), Endpoints: []ir.Endpoint{e}}}, nil)
	client := w.client()
	server.waitReady(t)
	client.waitReady(t)
	askers := make([]*asker, 16)
	for i := range askers {
		askers[i] = newAsker(t, client.cfg.Outbound)
	}
	load := func(each int) {
		errs := make([]error, len(askers))
		var done sync.WaitGroup
		for i, c := range askers {
			done.Go(func() { errs[i] = c.ask(each) })
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
	load(each)
	tlsAfter, after := allocated(t)
	requests := float64(each * len(askers))
	t.Logf("a request: %.2f allocations of crypto/tls", float64(tlsAfter-tlsBefore)/requests)
	var sum int64
	var most strings.Builder
	for stack, n := range after {
		n -= before[stack]
		if own(stack) {
			continue
		}
		sum += n
		if float64(n) > requests/20 {
			fmt.Fprintf(&most, "\n%d times in", n)
			for f := range frames(stack) {
				fmt.Fprintf(&most, " %s:%d", f.Function, f.Line)
			}
		}
	}
	// What runs beside requests, and what the collector has taken from pools, is no request's.
	if each := float64(sum) / requests; each > 0.3 {
		t.Errorf("a request costs %.2f allocations outside crypto/tls; want none%s", each, &most)
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

// answers is an application that answers every request by the same.
func answers(t testing.TB) netip.AddrPort {
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
				answerAll(c)
			})
		}
	})
	t.Cleanup(conns.Wait)
	t.Cleanup(func() { ln.Close() })
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

const greeting = "hello"

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
