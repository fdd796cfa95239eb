package http1

import (
	"context"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

const browserRequest = "GET /catalogue/items/4711?colour=blue&size=m HTTP/1.1\r\n" +
	"Host: shop.example.com\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0 Safari/537.36\r\n" +
	"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n" +
	"Accept-Encoding: gzip, deflate, br\r\n" +
	"Accept-Language: en-GB,en;q=0.5\r\n" +
	"Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n" +
	"X-Request-Id: 7b0c3e1e-6f7e-4e55-9a43-1a2b3c4d5e6f\r\n" +
	"Connection: keep-alive\r\n\r\n"

const serverResponse = "HTTP/1.1 200 OK\r\n" +
	"Content-Type: application/json\r\n" +
	"Date: Mon, 23 Nov 2026 02:00:00 GMT\r\n" +
	"Cache-Control: no-store\r\n" +
	"Server: app\r\n" +
	"Content-Length: 512\r\n\r\n"

// parseAndWrite takes a request and a response through the parser and the writer.
func parseAndWrite(tb testing.TB) func() {
	var req, res message.Head
	var out []byte
	return func() {
		req.Reset()
		if _, perr := parseRequest(&req, req.KeepString(browserRequest), 128); perr != nil {
			tb.Fatal(perr)
		}
		var err error
		if out, _, err = appendRequest(out[:0], &req, true); err != nil {
			tb.Fatal(err)
		}
		res.Reset()
		if _, _, perr := parseResponse(&res, res.KeepString(serverResponse), 128, asked{}); perr != nil {
			tb.Fatal(perr)
		}
		if out, _, err = appendResponse(out[:0], &res, false, answered{}); err != nil {
			tb.Fatal(err)
		}
	}
}

func TestHeadsCostNoAllocation(t *testing.T) {
	if n := testing.AllocsPerRun(1000, parseAndWrite(t)); n != 0 {
		t.Errorf("%v allocations to parse and write a request and a response, want 0", n)
	}
}

func BenchmarkParseRequest(b *testing.B) {
	var h message.Head
	b.SetBytes(int64(len(browserRequest)))
	b.ReportAllocs()
	for b.Loop() {
		h.Reset()
		block := h.KeepString(browserRequest)
		var scan headScan
		_, _ = scan.scan(block)
		if _, perr := parseRequest(&h, block, 128); perr != nil {
			b.Fatal(perr)
		}
	}
}

func BenchmarkWriteRequest(b *testing.B) {
	var h message.Head
	_, _ = parseRequest(&h, h.KeepString(browserRequest), 128)
	out := make([]byte, 0, bufferSize)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := appendRequest(out, &h, true); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseAndWriteBothHeads(b *testing.B) {
	run := parseAndWrite(b)
	b.ReportAllocs()
	for b.Loop() {
		run()
	}
}

// forward is the loop of a proxy with both legs in one goroutine.
func forward(ex message.Exchange, p *Pool, target string, h *message.Head, buf []byte) error {
	s, _, err := p.Get(context.Background(), target)
	if err != nil {
		return err
	}
	defer s.Close()
	down, up := ex.(*Exchange), s.(*Stream)
	if err := up.Send(down.Request(), down.Request().Length == 0); err != nil {
		return err
	}
	end, err := up.Receive(h)
	if err != nil {
		return err
	}
	down.Cork()
	if err := down.Respond(h, end); err != nil || end {
		return err
	}
	for {
		if !up.Ready() {
			if err := down.Flush(); err != nil {
				return err
			}
		}
		n, err := up.Read(buf)
		if _, werr := down.Write(buf[:n]); werr != nil {
			return werr
		}
		if err == io.EOF {
			return down.Finish(up.Trailers())
		}
		if err != nil {
			return err
		}
	}
}

// proxyLoop returns a function that takes one request through a client's socket, a ServerConn, a
// pooled ClientConn and a backend that answers without parsing.
func proxyLoop(tb testing.TB, response string) func() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { answerAll(ln, []byte(response), &wg) })
	tb.Cleanup(func() { ln.Close(); wg.Wait() })
	p, target := newTestPool(tb, PoolConfig{}), ln.Addr().String()
	client, server := tcpPair(tb)
	_ = client.SetDeadline(time.Time{})
	done := make(chan error, 1)
	go func() { done <- proxyConn(server, &Config{}, p, target) }()
	tb.Cleanup(func() { client.Close(); <-done })
	request := []byte(browserRequest)
	buf := make([]byte, 64<<10)
	size := written(tb, response)
	if strings.Contains(response, "chunked") {
		size = len("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n")
	}
	return func() {
		if _, err := client.Write(request); err != nil {
			tb.Fatal(err)
		}
		if _, err := io.ReadFull(client, buf[:size]); err != nil {
			tb.Fatal(err)
		}
	}
}

var proxyResponses = map[string]string{
	"length":  serverResponse + strings.Repeat("x", 512),
	"chunked": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
}

// BenchmarkProxyLoop reports the CPU of the whole process: client, proxy and backend.
func BenchmarkProxyLoop(b *testing.B) {
	for name, response := range proxyResponses {
		b.Run(name, func(b *testing.B) {
			run := proxyLoop(b, response)
			run()
			before := cpu()
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				run()
			}
			b.StopTimer()
			b.ReportMetric(float64((cpu()-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
		})
	}
}

// BenchmarkDirect is BenchmarkProxyLoop without the proxy: the floor.
func BenchmarkDirect(b *testing.B) {
	client, server := tcpPair(b)
	_ = client.SetDeadline(time.Time{})
	response := []byte(proxyResponses["length"])
	go func() {
		buf := make([]byte, 4096)
		for {
			if _, err := server.Read(buf); err != nil {
				return
			}
			_, _ = server.Write(response)
		}
	}()
	buf := make([]byte, len(response))
	request := []byte(browserRequest)
	before := cpu()
	b.ResetTimer()
	for range b.N {
		_, _ = client.Write(request)
		if _, err := io.ReadFull(client, buf); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64((cpu()-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
}

func cpu() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		panic(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkIdleConnection reports the heap and stack that a connection holds while it waits for
// its second request; the client's end in the same process is counted too.
func BenchmarkIdleConnection(b *testing.B) {
	const n = 500
	for range b.N {
		cfg := &Config{}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		var clients []net.Conn
		var ends []<-chan error
		for range n {
			client, server := tcpPair(b)
			ends = append(ends, serve(server, cfg, func(ex message.Exchange) { _ = ex.Respond(head(204, 0), true) }))
			if _, err := io.WriteString(client, browserRequest); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(client, make([]byte, len("HTTP/1.1 204 No Content\r\n\r\n"))); err != nil {
				b.Fatal(err)
			}
			clients = append(clients, client)
		}
		runtime.GC()
		runtime.GC() // the second empties the pools
		runtime.ReadMemStats(&after)
		held := after.HeapAlloc + after.StackInuse - before.HeapAlloc - before.StackInuse
		b.ReportMetric(float64(held)/n, "B/conn")
		for i, c := range clients {
			c.Close()
			<-ends[i]
		}
	}
}
