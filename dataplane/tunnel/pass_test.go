//go:build unix

package tunnel

import (
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// pairOf is a TCP connection's two ends.
func pairOf(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	d, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); d.Close() })
	return c.(*net.TCPConn), d.(*net.TCPConn)
}

// TestASourceThatWaitsHoldsNoBuffer: ten thousand idle pairs would else hold 160 MiB.
func TestASourceThatWaitsHoldsNoBuffer(t *testing.T) {
	a, b := pairOf(t)
	s := newSource(b)
	held := make(chan bool)
	try := s.try
	s.try = func(fd uintptr) bool {
		done := try(fd)
		if !done {
			held <- s.buf != nil
		}
		return done
	}
	got := make(chan string)
	go func() {
		p, _ := s.next()
		got <- string(p)
	}()
	if <-held {
		t.Error("it waits and holds a buffer")
	}
	if _, err := a.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if p := <-got; p != "x" {
		t.Errorf("read %q", p)
	}
	s.release()
	a.Close()
	if _, err := s.next(); err != io.EOF || s.buf != nil {
		t.Errorf("at the end: %v, holding %v", err, s.buf != nil)
	}
}

// TestWhatBreaksDoesNotLookWhole: a reset on one side is a reset on the other.
func TestWhatBreaksDoesNotLookWhole(t *testing.T) {
	client, down := pairOf(t)
	up, server := pairOf(t)
	var in, out atomic.Int64
	done := make(chan struct{})
	go func() { defer close(done); Pass(down, up, time.Minute, &in, &out) }()
	if _, err := server.Write([]byte("half of")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(client, make([]byte, 7)); err != nil {
		t.Fatal(err)
	}
	_ = server.SetLinger(0)
	server.Close()
	if _, err := client.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("%v, want a reset", err)
	}
	<-done
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkPass is both ends and what passes between them, in CPU microseconds.
func BenchmarkPass(b *testing.B) {
	const chunk = 1 << 20
	for _, how := range []string{"splice", "copy"} {
		b.Run("bulk/"+how, func(b *testing.B) {
			client, down := pairOf(b)
			up, server := pairOf(b)
			var in, out atomic.Int64
			go func() {
				if how == "splice" {
					Pass(down, up, time.Minute, &in, &out)
					return
				}
				_, _ = io.CopyBuffer(struct{ io.Writer }{up}, struct{ io.Reader }{down}, make([]byte, 32<<10))
			}()
			go func() {
				_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{server}, make([]byte, 256<<10))
			}()
			buf := make([]byte, chunk)
			b.SetBytes(chunk)
			before := cpu()
			for b.Loop() {
				if _, err := client.Write(buf); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-µs/MiB")
		})
	}
	b.Run("message", func(b *testing.B) {
		client, down := pairOf(b)
		up, server := pairOf(b)
		var in, out atomic.Int64
		go Pass(down, up, time.Minute, &in, &out)
		go func() { _, _ = io.Copy(struct{ io.Writer }{server}, struct{ io.Reader }{server}) }()
		buf := make([]byte, 64)
		b.ReportAllocs()
		before := cpu()
		for b.Loop() {
			if _, err := client.Write(buf); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(client, buf); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-µs/op")
	})
}
