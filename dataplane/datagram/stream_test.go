package datagram_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/datagram"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// app is a socket of an application, and the stream to it.
func app(t testing.TB) (*net.UDPConn, message.Stream, context.CancelFunc, *atomic.Uint64) {
	t.Helper()
	server, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.DialUDP("udp", nil, server.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	ctx, drain := context.WithCancel(context.Background())
	dropped := new(atomic.Uint64)
	s, err := datagram.Stream(c, ctx, dropped)
	if err != nil {
		t.Fatal(err)
	}
	limit := time.Now().Add(time.Minute)
	s.SetDeadline(limit)
	_ = server.SetDeadline(limit)
	t.Cleanup(func() { s.Close(); server.Close(); drain() })
	return server, s, drain, dropped
}

func TestAStreamCarriesDatagramsWhole(t *testing.T) {
	server, s, _, dropped := app(t)
	buf := make([]byte, datagram.MaxSize)
	for _, n := range []int{0, 1, 1200, 20000, 65507} {
		want := bytes.Repeat([]byte{byte(n + 1)}, n)
		wire := datagram.Append(nil, want)
		for len(wire) > 0 { // as it comes from the pipeline
			k := min(len(wire), 16<<10)
			if _, err := s.Write(wire[:k]); err != nil {
				t.Fatal(err)
			}
			wire = wire[k:]
		}
		k, from, err := server.ReadFromUDPAddrPort(buf)
		if err != nil || !bytes.Equal(buf[:k], want) {
			t.Fatalf("%d bytes of %d came, %v", k, n, err)
		}
		if _, err := server.WriteToUDPAddrPort(want, from); err != nil {
			t.Fatal(err)
		}
		whole := make([]byte, len(datagram.Append(nil, want)))
		if _, err := io.ReadFull(s, whole); err != nil || !bytes.Equal(whole, datagram.Append(nil, want)) {
			t.Fatalf("an answer of %d bytes: %v", n, err)
		}
	}
	if _, err := s.Write(datagram.Append(nil, make([]byte, 65520))); err != nil || dropped.Load() != 1 {
		t.Errorf("a datagram that IP cannot carry: %v, %d dropped: want it dropped and the session to go on", err, dropped.Load())
	}
}

func TestAStreamEnds(t *testing.T) {
	t.Run("in order when the client has left", func(t *testing.T) {
		_, s, _, _ := app(t)
		if err := s.CloseWrite(nil); err != nil {
			t.Error(err)
		}
		if _, err := s.Read(make([]byte, 9)); !errors.Is(err, io.EOF) {
			t.Errorf("%v, want EOF", err)
		}
	})
	t.Run("in order when the proxy drains", func(t *testing.T) {
		_, s, drain, _ := app(t)
		drain()
		if _, err := s.Read(make([]byte, 9)); !errors.Is(err, io.EOF) {
			t.Errorf("%v, want EOF", err)
		}
	})
	t.Run("broken when nobody listens", func(t *testing.T) {
		server, s, _, _ := app(t)
		server.Close()
		if _, err := s.Write(datagram.Append(nil, []byte("x"))); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Read(make([]byte, 9)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%v, want connection refused", err)
		}
	})
}
