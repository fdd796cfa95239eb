package link

import (
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// benchLink runs a perfect link, so that the figures are those of the relay, not of the path it emulates.
func benchLink(b *testing.B) (dial func() (near, far net.Conn)) {
	b.Helper()
	target, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	at := target.Addr().(*net.TCPAddr).AddrPort()
	cfg := Config{A: "a", B: "b", Forwards: []Forward{{
		Listen: netip.MustParseAddrPort("127.0.0.1:0"), Target: at, Source: at.Addr(),
	}}}.withDefaults()
	r := newRelay(b.Context(), cfg, slog.New(slog.DiscardHandler))
	if err := r.start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { r.stop(); _ = target.Close() })
	listen := r.stats().Forwards[0].Listen.String()
	return func() (net.Conn, net.Conn) {
		near, err := net.Dial("tcp", listen)
		if err != nil {
			b.Fatal(err)
		}
		far, err := target.Accept()
		if err != nil {
			b.Fatal(err)
		}
		return near, far
	}
}

// cpu is the time that this process, load and all, has spent.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkBulk tells CPU per MiB, that of the sender and of the receiver in it.
func BenchmarkBulk(b *testing.B) {
	near, far := benchLink(b)()
	defer near.Close()
	defer far.Close()
	mib := make([]byte, 1<<20)
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	start := cpu(b)
	b.ResetTimer()
	go func() {
		for range b.N {
			if _, err := near.Write(mib); err != nil {
				return // the reader fails, which is what counts
			}
		}
	}()
	if _, err := io.CopyN(io.Discard, far, int64(b.N)<<20); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64((cpu(b)-start).Microseconds())/float64(b.N), "cpu-µs/MiB")
}

// BenchmarkConnection tells CPU per connection that is opened, carries a byte and is closed.
func BenchmarkConnection(b *testing.B) {
	dial := benchLink(b)
	b.ReportAllocs()
	start := cpu(b)
	for b.Loop() {
		near, far := dial()
		_, _ = near.Write([]byte("x"))
		if _, err := io.ReadFull(far, make([]byte, 1)); err != nil {
			b.Fatal(err)
		}
		_ = near.Close()
		_ = far.Close()
	}
	b.ReportMetric(float64((cpu(b)-start).Microseconds())/float64(b.N), "cpu-µs/conn")
}

// BenchmarkIdleConnection tells the memory of a connection without traffic: heap and stacks, both ends' own included.
func BenchmarkIdleConnection(b *testing.B) {
	dial := benchLink(b)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const conns = 500
	for range b.N {
		for range conns {
			near, far := dial()
			defer near.Close()
			defer far.Close()
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	grown := after.HeapAlloc + after.StackInuse - before.HeapAlloc - before.StackInuse
	b.ReportMetric(float64(grown)/1024/conns/float64(b.N), "KiB/conn")
}

func BenchmarkPathSend(b *testing.B) {
	p := NewPath(Shape{RTT: 80 * time.Millisecond, Jitter: 5 * time.Millisecond, Loss: 0.001, Bandwidth: 1e9}, 1)
	var f Flow
	b.ReportAllocs()
	now := time.Duration(0)
	for b.Loop() {
		now += 250 * time.Microsecond
		p.Send(&f, now, blockBytes)
	}
}
