// Package downstream serves the connections of HTTP on which an application's requests come. Its
// one idea is that most of many connections are idle at any time: each is one small object, waits
// on a stack as small as stacks begin, and what the proxy's end does to all of them
// is asked for once.
//
// It listens for nothing and routes nothing. Read Server first.
package downstream

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/http1"
	"github.com/isthmus-mesh/isthmus/dataplane/http2"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Server serves connections until its contexts end. It may be used by any number of goroutines.
// None of the fields changes once it is in use.
type Server struct {
	// HTTP1 has HTTP2 and RestAfter set, as Config makes it.
	HTTP1 *http1.Config
	HTTP2 http2.Config
	// Refused is told of what was no request.
	Refused func(*http1.ParseError)
	Log     *slog.Logger
	// Go runs a function on a goroutine that somebody waits for, and keeps its panics to the
	// connection.
	Go func(net.Conn, func())

	drain   context.Context
	clients clients
}

// restAfter is how long a connection keeps the stack on which its last request was
// served. It has grown to 8 KiB by then, and never shrinks while its goroutine waits; the stack of
// one that has just begun is 2 KiB.
const restAfter = 25 * time.Millisecond

// A body must come at bodyRate bytes a second, on average over the time that is spent waiting for it, and may fall
// bodyGrace behind: a dribble would keep a connection, and one of the application that it is for, for as long as it
// likes. A client that pauses for longer in the middle of a body is cut off with 408.
const (
	bodyRate  = 100
	bodyGrace = 30 * time.Second
)

// HTTP1 returns the configuration for connections that may turn out to be of HTTP/2.
func HTTP1(refused func(*http1.ParseError, *message.Head)) *http1.Config {
	return &http1.Config{HTTP2: true, RestAfter: restAfter, Refused: refused, ReadRateMin: bodyRate, RateGrace: bodyGrace}
}

// End makes the connections end: when drain does, the next response on each says that it is the
// last, and after grace idle ones close; when hard ends, all close. It is called once, before
// Serve. The returned function takes that back.
func (s *Server) End(drain, hard context.Context, grace func() time.Duration) (stop func()) {
	s.drain = drain
	var timer *time.Timer
	started := make(chan struct{})
	stopDrain := context.AfterFunc(drain, func() {
		s.clients.reach(draining)
		timer = time.AfterFunc(grace(), func() { s.clients.reach(noIdle) })
		close(started)
	})
	stopCut := context.AfterFunc(hard, func() { s.clients.reach(cut) })
	return func() {
		stopCut()
		if !stopDrain() {
			<-started
			timer.Stop()
		}
	}
}

// Serve serves a connection of HTTP: of HTTP/2 if it begins with its preface, else of
// HTTP/1.1; each request is a call of handle. It returns early from a connection that rests, which
// goes on by itself, and closes it in the end.
func (s *Server) Serve(conn net.Conn, handle func(message.Exchange)) {
	c := &client{of: s, conn: conn, handle: handle, sc: http1.NewServerConn(conn, s.HTTP1)}
	s.clients.add(c)
	c.serve()
}

// clients are the connections, in a list through themselves.
type clients struct {
	mu    sync.Mutex
	first *client
	stage stage
}

// stage is how far the proxy has got in ending.
type stage int

const (
	serving  stage = iota
	draining       // the next response says that the connection ends
	noIdle         // and no connection waits for a request
	cut            // none goes on
)

// client is one of them, of HTTP/1.1 until it turns out to be of HTTP/2. One goroutine serves it at
// a time.
type client struct {
	prev, next *client // of clients, under its lock
	of         *Server
	conn       net.Conn
	sc         *http1.ServerConn
	handle     func(message.Exchange)
}

// reach applies s to the client. It may come at any time of the connection's life.
func (c *client) reach(s stage) {
	if s >= draining {
		c.sc.Drain()
	}
	if s >= noIdle {
		c.sc.EndIdle()
	}
	if s >= cut {
		_ = c.conn.Close()
	}
}

func (l *clients) add(c *client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.next = l.first
	if c.next != nil {
		c.next.prev = c
	}
	l.first = c
	c.reach(l.stage)
}

func (l *clients) remove(c *client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.next != nil {
		c.next.prev = c.prev
	}
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		l.first = c.next
	}
	c.prev, c.next = nil, nil
}

// reach brings all clients to s, and those that are yet to come.
func (l *clients) reach(s stage) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stage = max(l.stage, s)
	for c := l.first; c != nil; c = c.next {
		c.reach(l.stage)
	}
}

// serve answers requests until the connection ends, or rests on another goroutine.
func (c *client) serve() {
	rests := false
	defer func() {
		if !rests {
			c.of.clients.remove(c)
		}
	}()
	err := c.requests()
	switch {
	case errors.Is(err, http1.ErrIdle):
		rests = true
		c.of.Go(c.conn, c.rest)
	case errors.Is(err, http1.ErrHTTP2):
		c.http2()
	default:
		_ = c.sc.Close()
	}
}

// rest waits for the next request on a stack of its own.
func (c *client) rest() {
	c.sc.Rest()
	c.serve()
}

func (c *client) requests() error {
	for {
		ex, err := c.sc.Next()
		if err != nil {
			var parse *http1.ParseError
			if errors.As(err, &parse) {
				c.of.Refused(parse)
			}
			return err
		}
		c.handle(ex)
	}
}

func (c *client) http2() {
	cfg := c.of.HTTP2
	_, cfg.Received = c.sc.HandOver()
	cfg.Stuck = func() {
		c.of.Log.Warn("requests of a connection wait: its client takes no answers", "reason", string(mesh.ReasonOverloaded), "remote", c.conn.RemoteAddr().String())
	}
	err := http2.ServeConn(c.of.drain, c.conn, cfg, c.handle)
	var broken *http2.ConnError
	if errors.As(err, &broken) && !broken.Remote {
		c.of.Log.Warn("a connection was closed: its client broke the protocol", "reason", string(mesh.ReasonMalformed),
			"remote", c.conn.RemoteAddr().String(), "error", err)
	}
}
