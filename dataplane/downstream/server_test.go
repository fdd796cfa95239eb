package downstream_test

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/downstream"
	"github.com/isthmus-mesh/isthmus/dataplane/http1"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

const guard = 30 * time.Second

// site is a server with a listener, and how it ends.
type site struct {
	addr       string
	drain, cut context.CancelFunc
	running    sync.WaitGroup
	took       chan string // paths of requests that are being answered
	answer     chan struct{}
}

func open(t *testing.T, grace time.Duration) *site {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &site{addr: ln.Addr().String(), took: make(chan string, 1000), answer: make(chan struct{})}
	drain, stop := context.WithCancel(t.Context())
	hard, cut := context.WithCancel(t.Context())
	s.drain, s.cut = stop, cut
	server := &downstream.Server{HTTP1: downstream.HTTP1(nil), Refused: func(*http1.ParseError) {}, Log: slog.New(slog.DiscardHandler), Go: func(_ net.Conn, f func()) { s.running.Go(f) }}
	back := server.End(drain, hard, func() time.Duration { return grace })
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.running.Go(func() { server.Serve(c, s.handle) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		accepting.Wait()
		cut()
		s.running.Wait()
		back()
	})
	return s
}

func (s *site) handle(ex message.Exchange) {
	path := string(ex.Request().Path)
	s.took <- path
	if path == "/wait" {
		<-s.answer
	}
	h := &message.Head{Status: 200, Length: int64(len(path))}
	if err := ex.Respond(h, false); err != nil {
		ex.Abort(err)
		return
	}
	_, _ = io.WriteString(ex, path)
	_ = ex.Finish(nil)
}

type conn struct {
	net.Conn
	r *bufio.Reader
}

func (s *site) dial(t *testing.T) *conn {
	t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(guard))
	return &conn{c, bufio.NewReader(c)}
}

// get asks for path and returns whether the answer says that it is the last.
func (c *conn) get(t *testing.T, path string) (last bool) {
	t.Helper()
	if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	return c.read(t, path)
}

func (c *conn) read(t *testing.T, path string) (last bool) {
	t.Helper()
	a, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	if b, err := io.ReadAll(a.Body); err != nil || string(b) != path {
		t.Fatalf("%s: %q, %v", path, b, err)
	}
	return a.Close
}

// TestConnectionsThatRestedServeOnAndEnd: requests come on connections that have long been idle; a drain
// ends those that stay so after the grace, and lets the last request of the others be answered.
func TestConnectionsThatRestedServeOnAndEnd(t *testing.T) {
	s := open(t, 50*time.Millisecond)
	var all []*conn
	for range 40 {
		all = append(all, s.dial(t))
	}
	for round := range 3 {
		for _, c := range all {
			if c.get(t, "/a") {
				t.Fatalf("round %d: the answer closes the connection", round)
			}
		}
		<-time.After(60 * time.Millisecond) // longer than a connection keeps its stack
	}
	busy := s.dial(t)
	if _, err := io.WriteString(busy, "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	for <-s.took != "/wait" {
	}
	s.drain()
	for _, c := range all {
		if _, err := c.r.ReadByte(); err != io.EOF {
			t.Fatalf("an idle connection of a server that drains: %v, want its end", err)
		}
	}
	close(s.answer)
	if !busy.read(t, "/wait") {
		t.Error("the last answer does not say that it is the last")
	}
	s.running.Wait()
}

// TestAServerThatIsCutClosesWhatIsBusy, which waits for nothing more.
func TestAServerThatIsCutClosesWhatIsBusy(t *testing.T) {
	s := open(t, time.Hour)
	busy, idle := s.dial(t), s.dial(t)
	idle.get(t, "/a")
	if _, err := io.WriteString(busy, "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	for <-s.took != "/wait" {
	}
	s.cut()
	for _, c := range []*conn{busy, idle} {
		if _, err := c.r.ReadByte(); err == nil {
			t.Error("a byte came from a server that was cut")
		}
	}
	close(s.answer)
	s.running.Wait()
}
