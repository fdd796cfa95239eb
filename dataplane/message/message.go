// Package message is HTTP as the proxy thinks of it: heads, bodies and the two ends
// of a request, independent of the version that carried them (RFC 9110). Its one
// idea is a narrow waist: the engines http1 and http2 parse into and serialise from
// these values, and the request pipeline knows nothing else.
//
// It parses nothing, writes to no socket and keeps no connection. Read Head first,
// then Exchange (the side that answers) and Stream (the side that asks).
package message

import (
	"errors"
	"io"
	"strconv"
	"time"
)

// Field is one header or trailer field line (RFC 9110 §5). Name is in lower case.
type Field struct {
	Name, Value []byte
}

// Head is the control data and the fields of one request or response (RFC 9110 §6.2).
// An engine that fills a Head has validated it: names are tokens in lower case,
// values hold no control characters, framing fields (content-length,
// transfer-encoding), connection and the fields it nominates are gone from Fields
// and expressed by Length and Upgrade instead. A Head is therefore safe to serialise in any
// version, and bytes of a message are never forwarded as they came.
//
// The byte slices belong to the Head and stay valid until Reset. A Head is used by
// one goroutine at a time. The zero Head is ready for use.
type Head struct {
	// Request: Method, Scheme ("http" or "https", empty if the message did not say),
	// Authority (host[:port]), Path (with query; "*" for OPTIONS *; empty for CONNECT).
	Method, Scheme, Authority, Path []byte
	// Response: Status, 100 to 599. Zero in a request.
	Status int
	// Fields in order of arrival.
	Fields []Field
	// Length is the length of the body in bytes, or LengthUnknown.
	Length int64
	// Upgrade is the single protocol asked for or switched to ("websocket"), in lower
	// case: HTTP/1.1 Upgrade (RFC 9110 §7.8) and :protocol (RFC 8441).
	Upgrade []byte
	// Expect100 says that the client waits for 100 (Continue) before it sends the body
	// (RFC 9110 §10.1.1).
	Expect100 bool
	// Minor is the minor version of an HTTP/1 message; 1 otherwise.
	Minor uint8
	// HTTP2 says that the message came as HTTP/2. It does not say what it leaves as.
	HTTP2 bool

	arena []byte
}

// LengthUnknown marks a body whose end is told by the framing.
const LengthUnknown = -1

// arenaKeep is the largest arena a Head keeps between uses, in bytes.
const arenaKeep = 16 << 10

// Reset empties h for another message and keeps its storage.
func (h *Head) Reset() {
	fields, arena := h.Fields, h.arena
	if cap(arena) > arenaKeep {
		arena = nil
	}
	clear(fields)
	*h = Head{Fields: fields[:0], arena: arena[:0], Minor: 1}
}

// Keep copies b into the storage of h and returns the copy.
func (h *Head) Keep(b []byte) []byte {
	n := len(h.arena)
	h.arena = append(h.arena, b...)
	return h.arena[n:len(h.arena):len(h.arena)]
}

// KeepString is Keep for a string.
func (h *Head) KeepString(s string) []byte {
	n := len(h.arena)
	h.arena = append(h.arena, s...)
	return h.arena[n:len(h.arena):len(h.arena)]
}

// Add appends a field, copying both parts. The name must be in lower case.
func (h *Head) Add(name, value string) {
	h.Fields = append(h.Fields, Field{h.KeepString(name), h.KeepString(value)})
}

// Set replaces every field of the name by one.
func (h *Head) Set(name, value string) {
	h.Del(name)
	h.Add(name, value)
}

// Del removes every field of the name, in lower case.
func (h *Head) Del(name string) {
	kept := h.Fields[:0]
	for _, f := range h.Fields {
		if string(f.Name) != name {
			kept = append(kept, f)
		}
	}
	clear(h.Fields[len(kept):])
	h.Fields = kept
}

// Get returns the first value of the name, in lower case, or nil.
func (h *Head) Get(name string) []byte {
	for i := range h.Fields {
		if string(h.Fields[i].Name) == name {
			return h.Fields[i].Value
		}
	}
	return nil
}

// Only is a field's one value, nil if there is none; false if it is there twice.
func (h *Head) Only(name string) (value []byte, once bool) {
	for i := range h.Fields {
		if string(h.Fields[i].Name) != name {
			continue
		}
		if value != nil {
			return nil, false
		}
		value = h.Fields[i].Value
	}
	return value, true
}

// Has reports whether a field of the name, in lower case, is there.
func (h *Head) Has(name string) bool {
	for i := range h.Fields {
		if string(h.Fields[i].Name) == name {
			return true
		}
	}
	return false
}

// CopyFrom makes h a deep copy of o.
func (h *Head) CopyFrom(o *Head) {
	h.Reset()
	h.Method, h.Scheme = h.Keep(o.Method), h.Keep(o.Scheme)
	h.Authority, h.Path = h.Keep(o.Authority), h.Keep(o.Path)
	h.Upgrade = h.Keep(o.Upgrade)
	h.Status, h.Length, h.Expect100, h.Minor, h.HTTP2 = o.Status, o.Length, o.Expect100, o.Minor, o.HTTP2
	for _, f := range o.Fields {
		h.Fields = append(h.Fields, Field{h.Keep(f.Name), h.Keep(f.Value)})
	}
}

// Size counts as SETTINGS_MAX_HEADER_LIST_SIZE does (RFC 9113 §6.5.2) without the overhead of an
// entry: names and values, in bytes.
func (h *Head) Size() int {
	n := len(h.Method) + len(h.Authority) + len(h.Path)
	for i := range h.Fields {
		n += len(h.Fields[i].Name) + len(h.Fields[i].Value)
	}
	return n
}

// IsConnect reports whether the request asks for a tunnel of bytes.
func (h *Head) IsConnect() bool { return string(h.Method) == "CONNECT" }

// Idempotent reports whether the method may be tried again after it may have been
// executed (RFC 9110 §9.2.2).
func (h *Head) Idempotent() bool {
	switch string(h.Method) {
	case "GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE":
		return true
	}
	return false
}

// Exchange is the server's side of one request. Read, Write and the rest are called
// by one goroutine, except that one goroutine may Read while another Responds and Writes.
// Exactly one of Finish and Abort ends it.
//
// After Respond with 2xx to CONNECT, or 101 to an upgrade, Read and Write carry the
// tunnel's bytes; CloseWrite-like half-close is Finish(nil), after which Read goes on
// until io.EOF.
type Exchange interface {
	// Request is the head; valid until Finish or Abort.
	Request() *Head
	// Read reads the body; io.EOF ends it, io.ErrUnexpectedEOF means the client broke
	// off. It sends the pending 100 (Continue), if any, when first called.
	io.Reader
	// Trailers of the request, after Read returned io.EOF.
	Trailers() []Field
	// Respond sends a head; any number of 1xx before one final. end says that
	// neither body nor trailers follow, and is Finish at once.
	Respond(h *Head, end bool) error
	// Write sends part of the body; it blocks while the client does not drain.
	io.Writer
	// Finish ends the response.
	Finish(trailers []Field) error
	// Abort breaks the response off so that the client sees it as broken.
	Abort(err error)
	// SetDeadline bounds every blocking call from now on; zero is none.
	SetDeadline(t time.Time)
}

// Stream is the client's side of one request. One goroutine may Send and Write
// while another Receives and Reads. Close is always called, once.
type Stream interface {
	// Send sends the request's head; end says that no body follows.
	Send(h *Head, end bool) error
	// Write sends part of the body; it blocks while the server does not drain.
	io.Writer
	// CloseWrite ends the body.
	CloseWrite(trailers []Field) error
	// Receive reads the next head into h, a 1xx or the final one; end says that
	// neither body nor trailers follow.
	Receive(h *Head) (end bool, err error)
	// Read reads the body; io.EOF ends it, io.ErrUnexpectedEOF means the server
	// broke off.
	io.Reader
	// Trailers of the response, after Read returned io.EOF.
	Trailers() []Field
	// SetDeadline bounds every blocking call from now on; zero is none. A call
	// that is cut short returns an error for which os.ErrDeadlineExceeded holds.
	SetDeadline(t time.Time)
	// Close gives the stream back. If either direction has not ended it is reset.
	Close()
}

// ErrNotExecuted is wrapped by errors that prove that no application has seen the
// request, so that any method may be tried again elsewhere: a refused stream
// (RFC 9113 §8.7), a GOAWAY below the stream, a connection that could not be made.
var ErrNotExecuted = errors.New("the request was not executed")

// ErrUnheard is wrapped by the error of a request whose time was up while not a byte came over its connection, of
// whatever, since it was sent: nobody seems to be there, and what is slow is no server that is asked for too much.
var ErrUnheard = errors.New("nothing came over the connection meanwhile")

// ErrStale is wrapped by the error of a request sent on a pooled connection that the
// server closed before it sent a byte of a response (RFC 9112 §9.3.1): an idempotent
// request may be tried again at once.
var ErrStale = errors.New("the pooled connection had been closed")

// Seconds is a wait as the field retry-after says it (RFC 9110 §10.2.3): whole seconds, rounded up.
func Seconds(wait time.Duration) string {
	return strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10)
}
