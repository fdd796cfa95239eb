package proxy_test

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/http1"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
)

// BenchmarkThroughHTTP1 is a request over loopback TCP through http1 and the pipeline to a
// server in memory: what a client proxy costs without its tunnel.
func BenchmarkThroughHTTP1(b *testing.B) {
	w := newWorld(b, 10, nil)
	cfg := w.cfg
	cfg.Done = func(*proxy.Record) {}
	s := answer(200, "ok")
	var open message.Stream = bare{s}
	cfg.Open = func(time.Time, *proxy.Destination) (message.Stream, error) { s.read = 0; return open, nil }
	p := proxy.New(cfg)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := ln.Accept()
		if err != nil {
			return
		}
		sc := http1.NewServerConn(c, &http1.Config{})
		defer sc.Close()
		for {
			ex, err := sc.Next()
			if err != nil {
				return
			}
			p.Outbound(ex, proxy.Via{})
		}
	}()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	ask := []byte("GET /a/b HTTP/1.1\r\nHost: catalog.shop.svc.clusterset.local\r\nAccept: */*\r\nX-Request-Id: 1\r\n\r\n")
	want := len("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
	buf := make([]byte, want)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(ask); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
	}
	c.Close()
	<-done
}
