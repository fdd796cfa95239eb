package tunnel_test

import (
	"errors"
	"io"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/tunnel"
)

var benchBody = make([]byte, 256)

// benchHandler answers with 256 bytes and allocates nothing.
func benchHandler() func(message.Exchange, tunnel.Peer) {
	heads := sync.Pool{New: func() any { return new(message.Head) }}
	return func(ex message.Exchange, _ tunnel.Peer) {
		h := heads.Get().(*message.Head)
		defer heads.Put(h)
		h.Reset()
		h.Status, h.Length = 200, int64(len(benchBody))
		if ex.Respond(h, false) != nil {
			return
		}
		if _, err := ex.Write(benchBody); err != nil {
			return
		}
		_ = ex.Finish(nil)
	}
}

func roundTrip(d *tunnel.Dialer, w *tunnel.Want, h *message.Head, buf []byte, deadline time.Time) error {
	s, err := d.Open(deadline, w)
	if err != nil {
		return err
	}
	defer s.Close()
	s.SetDeadline(deadline)
	requestHead(h)
	if err := s.Send(h, true); err != nil {
		return err
	}
	if _, err := s.Receive(h); err != nil {
		return err
	}
	for {
		if _, err := s.Read(buf); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkHop is a request over one mTLS connection; both ends, and the gateway, run in this
// process, and CPU microseconds a request are those of all of them together.
func BenchmarkHop(b *testing.B) {
	for _, through := range []string{"direct", "gateway"} {
		for _, streams := range []int{1, 64} {
			b.Run(through+"/"+map[int]string{1: "1", 64: "64"}[streams], func(b *testing.B) {
				m := newMesh(b)
				r, _ := m.server(b, m.east.svid(b, orders, time.Hour), benchHandler())
				if through == "gateway" {
					r, _ = m.gateway(b, always(r.addr))
				}
				d, _ := m.dialer(b, nil)
				w := want(r.addr, 0)
				deadline := time.Now().Add(time.Hour)
				var h message.Head
				if err := roundTrip(d, w, &h, make([]byte, 1<<10), deadline); err != nil {
					b.Fatal(err)
				}
				b.ReportAllocs()
				b.ResetTimer()
				cpu := cpuTime()
				b.SetParallelism(streams)
				if streams == 1 {
					buf := make([]byte, 1<<10)
					for b.Loop() {
						if err := roundTrip(d, w, &h, buf, deadline); err != nil {
							b.Fatal(err)
						}
					}
				} else {
					b.RunParallel(func(pb *testing.PB) {
						var h message.Head
						buf := make([]byte, 1<<10)
						for pb.Next() {
							if err := roundTrip(d, w, &h, buf, deadline); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/float64(b.N), "cpu-µs/op")
			})
		}
	}
}

// BenchmarkOpen is what the dialer adds to a stream: no byte is sent.
func BenchmarkOpen(b *testing.B) {
	m := newMesh(b)
	r, _ := m.server(b, m.east.svid(b, orders, time.Hour), benchHandler())
	d, _ := m.dialer(b, nil)
	w := want(r.addr, 0)
	deadline := time.Now().Add(time.Hour)
	b.ReportAllocs()
	for b.Loop() {
		s, err := d.Open(deadline, w)
		if err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}

// BenchmarkGatewayBulk passes bytes one way; a buffer of 8 KiB would cost two copies.
func BenchmarkGatewayBulk(b *testing.B) {
	m := newMesh(b)
	sink, received := bulkSink(b)
	gw, _ := m.gateway(b, always(sink.addr))
	c := helloTo(b, gw.addr)
	defer c.Close()
	buf := make([]byte, 256<<10)
	b.SetBytes(int64(len(buf)))
	n := int64(0)
	for b.Loop() {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
		n += int64(len(buf))
	}
	eventually(b, "all arrives", func() bool { return received.Load() >= n })
}
