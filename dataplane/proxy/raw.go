package proxy

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// A TCP connection is to the pipeline a CONNECT whose answer nobody sees: RawExchange is
// such a connection as it came in, RawStream as it goes out.

// RawExchange presents an accepted connection as an exchange that asks for a tunnel to
// authority ("service.namespace:port", for the record). The caller closes the connection.
func RawExchange(c net.Conn, authority string) message.Exchange {
	e := &rawExchange{conn: c}
	e.head.Reset()
	e.head.Method, e.head.Authority = []byte("CONNECT"), []byte(authority)
	return e
}

type rawExchange struct {
	conn     net.Conn
	head     message.Head
	accepted bool
}

func (e *rawExchange) Request() *message.Head     { return &e.head }
func (e *rawExchange) Trailers() []message.Field  { return nil }
func (e *rawExchange) SetDeadline(t time.Time)    { _ = e.conn.SetDeadline(t) }
func (e *rawExchange) Abort(error)                { reset(e.conn) }
func (e *rawExchange) Read(p []byte) (int, error) { return e.conn.Read(p) }

// Respond accepts with 2xx; any other answer can only be shown as a reset.
func (e *rawExchange) Respond(h *message.Head, end bool) error {
	if h.Status/100 != 2 {
		reset(e.conn)
		return nil
	}
	e.accepted = true
	if end {
		return e.Finish(nil)
	}
	return nil
}

func (e *rawExchange) Write(p []byte) (int, error) {
	if !e.accepted {
		return len(p), nil // the text of a refusal, which has nobody to read it
	}
	return e.conn.Write(p)
}

func (e *rawExchange) Finish([]message.Field) error {
	if !e.accepted {
		return nil
	}
	return closeWrite(e.conn)
}

// RawStream presents a connection that was made as a stream whose tunnel was granted. Close
// resets the connection unless both directions have ended.
func RawStream(c net.Conn) message.Stream { return &rawStream{conn: c} }

type rawStream struct {
	conn          net.Conn
	wrote, readTo atomic.Bool // either direction has ended
}

func (s *rawStream) Send(*message.Head, bool) error { return nil }
func (s *rawStream) Write(p []byte) (int, error)    { return s.conn.Write(p) }
func (s *rawStream) Trailers() []message.Field      { return nil }
func (s *rawStream) SetDeadline(t time.Time)        { _ = s.conn.SetDeadline(t) }

func (s *rawStream) CloseWrite([]message.Field) error {
	s.wrote.Store(true)
	return closeWrite(s.conn)
}

func (s *rawStream) Read(p []byte) (int, error) {
	n, err := s.conn.Read(p)
	if err == io.EOF {
		s.readTo.Store(true)
	}
	return n, err
}

func (s *rawStream) Close() {
	if s.wrote.Load() && s.readTo.Load() {
		_ = s.conn.Close()
		return
	}
	reset(s.conn) // what was cut off must not look whole
}

func (s *rawStream) Receive(h *message.Head) (bool, error) {
	h.Reset()
	h.Status, h.Length = 200, message.LengthUnknown
	return false, nil
}

func closeWrite(c net.Conn) error {
	if w, ok := c.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return errors.Join(io.ErrClosedPipe, c.Close())
}

// reset closes a connection so that the other side sees it as broken.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}
