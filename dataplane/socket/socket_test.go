package socket_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/socket"
)

// ends returns both ends of a connection: one of package socket, one of package net.
func ends(t testing.TB) (ours, theirs net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			close(accepted)
			return
		}
		accepted <- c
	}()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	theirs, ok := <-accepted
	if !ok {
		t.Fatal("not accepted")
	}
	t.Cleanup(func() { _, _ = c.Close(), theirs.Close() })
	return socket.New(c), theirs
}

func TestBothDirectionsCarryMoreThanTheKernelHolds(t *testing.T) {
	ours, theirs := ends(t)
	sent := make([]byte, 9<<20+7)
	if _, err := rand.Read(sent); err != nil {
		t.Fatal(err)
	}
	for _, way := range []struct {
		name     string
		from, to net.Conn
	}{{"write", ours, theirs}, {"read", theirs, ours}} {
		failed := make(chan error, 1)
		go func() {
			n, err := way.from.Write(sent)
			if err == nil && n != len(sent) {
				err = io.ErrShortWrite
			}
			failed <- err
		}()
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(way.to, got); err != nil {
			t.Fatalf("%s: %v", way.name, err)
		}
		if err := <-failed; err != nil || !bytes.Equal(got, sent) {
			t.Errorf("%s: %v, equal: %v", way.name, err, bytes.Equal(got, sent))
		}
	}
}

func TestHalfCloseIsSeenAndTheOtherHalfGoesOn(t *testing.T) {
	ours, theirs := ends(t)
	if err := ours.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := theirs.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after a half close: %v, want EOF", err)
	}
	if _, err := theirs.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	_ = theirs.Close()
	if b, err := io.ReadAll(ours); string(b) != "x" || err != nil {
		t.Errorf("the other half carried %q, %v; want x", b, err)
	}
}

func TestDeadlinesAndCloseEndCallsThatWait(t *testing.T) {
	ours, _ := ends(t)
	_ = ours.SetDeadline(time.Now().Add(10 * time.Millisecond))
	if n, err := ours.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %d, %v; want the deadline's error", n, err)
	}
	n, err := ours.Write(make([]byte, 64<<20)) // nobody reads
	if n == 64<<20 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("write: %d, %v; want a part and the deadline's error", n, err)
	}
	_ = ours.SetDeadline(time.Time{})
	failed := make(chan error, 1)
	go func() {
		_, err := ours.Read(make([]byte, 1))
		failed <- err
	}()
	_ = ours.Close()
	if err := <-failed; !errors.Is(err, net.ErrClosed) {
		t.Errorf("read of a closed connection: %v, want net.ErrClosed", err)
	}
}

func TestAResetIsAnError(t *testing.T) {
	ours, theirs := ends(t)
	_ = theirs.(*net.TCPConn).SetLinger(0)
	_ = theirs.Close()
	_ = ours.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := ours.Read(make([]byte, 1)); err == nil || err == io.EOF || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read after a reset: %v, want the reset", err)
	}
}

func TestWhatHasNoDescriptorIsLeftAlone(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if got := socket.New(a); got != a {
		t.Errorf("New of a pipe is %T", got)
	}
}

func TestCallsAllocateNothing(t *testing.T) {
	ours, theirs := ends(t)
	p, q := []byte("x"), make([]byte, 1)
	got := testing.AllocsPerRun(100, func() {
		_, _ = ours.Write(p)
		_, _ = theirs.Read(q)
		_, _ = theirs.Write(p)
		_, _ = ours.Read(q)
	})
	if got > 0 {
		t.Errorf("%v allocations, want none", got)
	}
}

// BenchmarkPingPong is a byte there and back between two goroutines, package net at one end.
func BenchmarkPingPong(b *testing.B) {
	for _, kind := range []string{"socket", "net"} {
		b.Run(kind, func(b *testing.B) {
			ours, theirs := ends(b)
			if kind == "net" {
				ours = ours.(interface{ Inner() net.Conn }).Inner()
			}
			go func() {
				q := make([]byte, 1)
				for {
					if _, err := theirs.Read(q); err != nil {
						return
					}
					if _, err := theirs.Write(q); err != nil {
						return
					}
				}
			}()
			p := []byte("x")
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ours.Write(p); err != nil {
					b.Fatal(err)
				}
				if _, err := ours.Read(p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
