package http2

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// benchHead is a head as a sidecar sends it: a dozen repeated fields and two unique ones.
func benchHead(h *message.Head, unique string) {
	h.Reset()
	h.Method, h.Scheme = h.KeepString("GET"), h.KeepString("https")
	h.Authority, h.Path = h.KeepString("reviews.bookinfo.svc.mesh:9080"), h.KeepString("/reviews/1")
	h.Add("user-agent", "curl/7.88.1")
	h.Add("accept", "*/*")
	h.Add("accept-encoding", "gzip, deflate, br")
	h.Add("x-forwarded-proto", "https")
	h.Add("isthmus-to", "bookinfo/reviews:9080")
	h.Add("isthmus-route", "reviews-default")
	h.Add("isthmus-deadline", "15000")
	h.Add("x-request-id", unique)
	h.Add("traceparent", unique)
	h.Length = 0
}

const benchUnique = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

var benchBody = make([]byte, 256)

// benchHandler answers with 256 octets. It is one value for all requests.
func benchHandler() func(message.Exchange) {
	heads := sync.Pool{New: func() any { return new(message.Head) }}
	return func(x message.Exchange) {
		h := heads.Get().(*message.Head)
		defer heads.Put(h)
		h.Reset()
		h.Status, h.Length = 200, int64(len(benchBody))
		h.Add("content-type", "application/json")
		h.Add("server", "isthmus")
		h.Add("isthmus-load", "12")
		h.Add("isthmus-endpoint", "e42")
		if x.Respond(h, false) != nil {
			return
		}
		if _, err := x.Write(benchBody); err != nil {
			return
		}
		x.Finish(nil)
	}
}

// benchClient sends one request after another.
type benchClient struct {
	cc   *ClientConn
	h    message.Head
	body [512]byte
}

func (b *benchClient) do() error {
	s, err := b.cc.Open(context.Background())
	if err != nil {
		return err
	}
	defer s.Close()
	s.SetDeadline(time.Now().Add(time.Minute))
	benchHead(&b.h, benchUnique)
	if err := s.Send(&b.h, true); err != nil {
		return err
	}
	if _, err := s.Receive(&b.h); err != nil {
		return err
	}
	n := 0
	for {
		m, err := s.Read(b.body[:])
		n += m
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if n != len(benchBody) {
		return fmt.Errorf("%d octets", n)
	}
	return nil
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkRequests counts both ends: CPU microseconds a request are the client's and the server's together.
func BenchmarkRequests(b *testing.B) {
	for name, dial := range map[string]func(testing.TB) (net.Conn, net.Conn){"tcp": tcpPair, "tls": tlsPair} {
		for _, streams := range []int{1, 16, 128} {
			b.Run(fmt.Sprintf("%s/%d", name, streams), func(b *testing.B) {
				c, s := dial(b)
				cc := pair(b, Config{}, c, s, benchHandler())
				clients := make([]*benchClient, streams)
				for i := range clients {
					clients[i] = &benchClient{cc: cc}
				}
				run := func(total int64) {
					var left atomic.Int64
					left.Store(total)
					var wg sync.WaitGroup
					for _, k := range clients {
						wg.Go(func() {
							for left.Add(-1) >= 0 {
								if err := k.do(); err != nil {
									b.Error(err)
									return
								}
							}
						})
					}
					wg.Wait()
				}
				run(int64(10 * streams))
				b.ReportAllocs()
				cpu := cpuTime()
				b.ResetTimer()
				run(int64(b.N))
				b.StopTimer()
				b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/float64(b.N), "cpu-µs/req")
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
			})
		}
	}
}

// BenchmarkBulk moves bodies of 1 MiB there and back on one stream after another.
func BenchmarkBulk(b *testing.B) {
	for name, dial := range map[string]func(testing.TB) (net.Conn, net.Conn){"tcp": tcpPair, "tls": tlsPair} {
		b.Run(name, func(b *testing.B) {
			c, s := dial(b)
			cc := pair(b, Config{}, c, s, echo)
			body := make([]byte, 1<<20)
			b.SetBytes(2 << 20)
			for b.Loop() {
				if _, got, _, err := do(cc, request("POST", "/"), body, nil); err != nil || len(got) != len(body) {
					b.Fatal(len(got), err)
				}
			}
		})
	}
}

func BenchmarkEncodeHead(b *testing.B) {
	e := newEncoder(4096)
	var h message.Head
	benchHead(&h, benchUnique)
	var dst []byte
	for b.Loop() {
		dst = e.appendRequest(dst[:0], &h, true)
	}
	b.ReportMetric(float64(len(dst)), "octets")
}

func BenchmarkDecodeHead(b *testing.B) {
	e, d := newEncoder(4096), newDecoder()
	p := headParser{limit: 64 << 10}
	var h, got message.Head
	benchHead(&h, benchUnique)
	var dst []byte
	for b.Loop() {
		dst = e.appendRequest(dst[:0], &h, true)
		p.reset(&got, requestHead)
		if err := d.decode(dst, &p); err != nil || p.finish(true) != "" {
			b.Fatal(err, p.fault)
		}
	}
}

// BenchmarkFrame writes and parses the fixed part of a frame.
func BenchmarkFrame(b *testing.B) {
	f := frame{16384, frameData, flagEndStream, 7}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = appendFrame(buf[:0], f)
		if parseFrame(buf) != f {
			b.Fatal("another frame came back")
		}
	}
}
