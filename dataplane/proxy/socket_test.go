package proxy_test

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/http1"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/dataplane/raw"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// tcpPair is a connection's two ends.
func tcpPair(t *testing.T) (a, b *net.TCPConn) {
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
	for _, e := range []net.Conn{c, d} {
		_ = e.SetDeadline(time.Now().Add(time.Minute))
	}
	return c.(*net.TCPConn), d.(*net.TCPConn)
}

// whole is a stream that may only be handed over: its bytes are not to pass the pipeline.
type whole struct {
	message.Stream
	t *testing.T
}

func (s whole) Read([]byte) (int, error)  { s.t.Error("read by the pipeline"); return 0, io.EOF }
func (s whole) Write([]byte) (int, error) { s.t.Error("written by the pipeline"); return 0, io.EOF }
func (s whole) Raw() (net.Conn, []byte) {
	return s.Stream.(interface{ Raw() (net.Conn, []byte) }).Raw()
}

// connected is a tunnel of the explicit proxy to an endpoint that is a plain connection: its client, which
// has sent ahead, its server and how it is recorded.
func connected(t *testing.T, w *world, ahead string) (client, server *net.TCPConn, ended chan proxy.Record) {
	t.Helper()
	client, down := tcpPair(t)
	up, server := tcpPair(t)
	w.script = []any{whole{raw.Stream(up), t}}
	ended = make(chan proxy.Record, 1)
	go func() {
		sc := http1.NewServerConn(down, &http1.Config{})
		ex, err := sc.Next()
		if err != nil {
			t.Error(err)
		} else {
			w.proxy.Outbound(ex, proxy.Via{})
			if _, err := sc.Next(); err == nil {
				t.Error("a request after a tunnel")
			}
		}
		_ = sc.Close()
		ended <- w.last
	}()
	if _, err := io.WriteString(client, "CONNECT catalog.shop:5432 HTTP/1.1\r\nHost: catalog.shop:5432\r\n\r\n"+ahead); err != nil {
		t.Fatal(err)
	}
	const granted = "HTTP/1.1 200 OK\r\n\r\n"
	got := make([]byte, len(granted))
	if _, err := io.ReadFull(client, got); err != nil || string(got) != granted {
		t.Fatalf("%q, %v", got, err)
	}
	return client, server, ended
}

// TestATunnelBetweenSocketsIsHandedOver with what the client had sent ahead, is half-closed either way and
// counted; bulk that crosses into the kernel's copy and back included.
func TestATunnelBetweenSocketsIsHandedOver(t *testing.T) {
	client, server, ended := connected(t, newWorld(t, 1, nil), "ahead")
	const bulk = 5 << 20
	go func() {
		_, _ = client.Write(make([]byte, bulk))
		_, _ = io.WriteString(client, "end")
		_ = client.CloseWrite()
	}()
	b, err := io.ReadAll(server)
	if err != nil || len(b) != 5+bulk+3 || string(b[:5]) != "ahead" || string(b[5+bulk:]) != "end" {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	if _, err := io.WriteString(server, "answer"); err != nil {
		t.Fatal(err)
	}
	_ = server.Close()
	if b, err := io.ReadAll(client); string(b) != "answer" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	if r := <-ended; r.Reason != mesh.ReasonNone || r.Status != 200 || r.RequestBytes != 5+bulk+3 || r.ResponseBytes != 6 {
		t.Errorf("recorded %+v", r)
	}
}

// TestATunnelBetweenSocketsBreaksAsOne: a reset at one end is one at the other, and is recorded.
func TestATunnelBetweenSocketsBreaksAsOne(t *testing.T) {
	client, server, ended := connected(t, newWorld(t, 1, nil), "")
	_ = server.SetLinger(0)
	_ = server.Close()
	if _, err := client.Read(make([]byte, 1)); err == nil || err == io.EOF || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v, want a reset", err)
	}
	if r := <-ended; r.Reason != mesh.ReasonReset {
		t.Errorf("recorded %q: %s", r.Reason, r.Detail)
	}
}

// TestATunnelBetweenSocketsFallsIdle where a policy says so.
func TestATunnelBetweenSocketsFallsIdle(t *testing.T) {
	w := newWorld(t, 1, func(s *ir.Service, _ *ir.Endpoints) { s.Traffic.IdleTimeout = 200 * time.Millisecond })
	client, _, ended := connected(t, w, "")
	if _, err := client.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v, want the end", err)
	}
	if r := <-ended; r.Reason != mesh.ReasonTimeout {
		t.Errorf("recorded %q: %s", r.Reason, r.Detail)
	}
}
