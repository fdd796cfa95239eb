// Package raw presents a connection of bytes as HTTP's two ends. Its one idea is that a TCP
// connection is to the request pipeline a CONNECT whose answer nobody sees, so that it needs no second
// pipeline.
//
// It accepts and dials nothing. Read Exchange first, then Stream.
package raw

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/socket"
)

// Exchange presents an accepted connection as an exchange that asks for a tunnel to
// authority ("service.namespace:port", for the record). The caller closes the connection.
func Exchange(c net.Conn, authority string) message.Exchange { return After(c, authority, Opening{}) }

// Opening is what is known of a connection before it is carried.
type Opening struct {
	// Ahead was read of it already, and comes first.
	Ahead []byte
	// Refusal, if not nil, is what a client of its protocol reads in place of a status.
	Refusal func(status int) []byte
}

// After is Exchange for a connection that was looked into.
func After(c net.Conn, authority string, o Opening) message.Exchange {
	e := &exchange{conn: c, sock: socket.New(c), ahead: o.Ahead, refusal: o.Refusal}
	e.head.Reset()
	e.head.Method, e.head.Authority = []byte("CONNECT"), []byte(authority)
	return e
}

type exchange struct {
	conn     net.Conn
	sock     net.Conn // conn, past the scheduler
	head     message.Head
	ahead    []byte // what of Opening.Ahead was not read yet
	refusal  func(int) []byte
	accepted bool
	readTo   atomic.Bool // the client's direction has ended
}

func (e *exchange) Request() *message.Head    { return &e.head }
func (e *exchange) Trailers() []message.Field { return nil }
func (e *exchange) SetDeadline(t time.Time)   { _ = e.conn.SetDeadline(t) }
func (e *exchange) Abort(error)               { reset(e.conn) }

func (e *exchange) Read(p []byte) (int, error) {
	if len(e.ahead) > 0 {
		n := copy(p, e.ahead)
		e.ahead = e.ahead[n:]
		return n, nil
	}
	n, err := e.sock.Read(p)
	if err == io.EOF {
		e.readTo.Store(true)
	}
	return n, err
}

// Respond accepts with 2xx; any other answer can only be shown as a reset, or in the words of the Opening.
func (e *exchange) Respond(h *message.Head, end bool) error {
	if h.Status/100 != 2 {
		if e.refusal != nil {
			if _, err := e.sock.Write(e.refusal(h.Status)); err == nil {
				return e.conn.Close()
			}
		}
		reset(e.conn)
		return nil
	}
	e.accepted = true
	if end {
		return e.Finish(nil)
	}
	return nil
}

func (e *exchange) Write(p []byte) (int, error) {
	if !e.accepted {
		return len(p), nil // the text of a refusal, which has nobody to read it
	}
	return e.sock.Write(p)
}

// Finish ends our direction. If it is the second to end, the connection is closed, which says the same by one
// call less, and wakes no poller for what nobody waits for.
func (e *exchange) Finish([]message.Field) error {
	if !e.accepted {
		return nil
	}
	if e.readTo.Load() {
		return e.conn.Close()
	}
	return closeWrite(e.conn)
}

// Raw hands the connection over once the tunnel was granted, as http1.Exchange.Raw does.
func (e *exchange) Raw() (conn net.Conn, ahead []byte) {
	if !e.accepted {
		return nil, nil
	}
	_ = e.conn.SetDeadline(time.Time{})
	ahead, e.ahead = e.ahead, nil
	return e.conn, ahead
}

// Stream presents a connection that was made as a stream whose tunnel was granted. Close
// resets the connection unless both directions have ended.
func Stream(c net.Conn) message.Stream { return &stream{conn: c, sock: socket.New(c)} }

type stream struct {
	conn, sock    net.Conn    // sock is conn, past the scheduler
	wrote, readTo atomic.Bool // either direction has ended
}

func (s *stream) Send(*message.Head, bool) error { return nil }
func (s *stream) Write(p []byte) (int, error)    { return s.sock.Write(p) }
func (s *stream) Trailers() []message.Field      { return nil }
func (s *stream) SetDeadline(t time.Time)        { _ = s.conn.SetDeadline(t) }

func (s *stream) CloseWrite([]message.Field) error {
	s.wrote.Store(true)
	if s.readTo.Load() {
		return s.conn.Close() // as Finish
	}
	return closeWrite(s.conn)
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.sock.Read(p)
	if err == io.EOF {
		s.readTo.Store(true)
	}
	return n, err
}

// Raw hands the connection over, as http1.Stream.Raw does. Close still closes it.
func (s *stream) Raw() (conn net.Conn, ahead []byte) {
	_ = s.conn.SetDeadline(time.Time{})
	return s.conn, nil
}

func (s *stream) Close() {
	if s.wrote.Load() && s.readTo.Load() {
		_ = s.conn.Close()
		return
	}
	reset(s.conn) // what was cut off must not look whole
}

func (s *stream) Receive(h *message.Head) (bool, error) {
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
