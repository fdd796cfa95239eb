package http2

import (
	"errors"
	"fmt"
	"io"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// Code is an error code of the protocol (RFC 9113 §7).
type Code uint32

// The codes.
const (
	NoError            Code = 0x0
	ProtocolError      Code = 0x1
	InternalError      Code = 0x2
	FlowControlError   Code = 0x3
	SettingsTimeout    Code = 0x4
	StreamClosed       Code = 0x5
	FrameSizeError     Code = 0x6
	RefusedStream      Code = 0x7
	Cancel             Code = 0x8
	CompressionError   Code = 0x9
	ConnectError       Code = 0xa
	EnhanceYourCalm    Code = 0xb
	InadequateSecurity Code = 0xc
	HTTP11Required     Code = 0xd
)

// String is the name the RFC gives the code.
func (c Code) String() string {
	names := [...]string{"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT",
		"STREAM_CLOSED", "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR",
		"ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"}
	if int(c) < len(names) {
		return names[c]
	}
	return fmt.Sprintf("code %#x", uint32(c))
}

// ConnError says why a connection ended.
type ConnError struct {
	Code   Code
	Remote bool   // the peer said so (GOAWAY), or the transport broke
	Reason string // what was found wrong, in words; from the peer: its debug data, bounded
	Err    error  // of the transport, if it broke
	// Abuse says, of an ENHANCE_YOUR_CALM of ours, that the peer had made us work in vain more than it had made use of us.
	Abuse bool
}

// Error implements error.
func (e *ConnError) Error() string {
	who := "local"
	if e.Remote {
		who = "remote"
	}
	switch {
	case e.Err != nil && e.Reason != "":
		return fmt.Sprintf("http2 connection: %s: %v", e.Reason, e.Err)
	case e.Err != nil:
		return fmt.Sprintf("http2 connection: %v", e.Err)
	case e.Reason != "":
		return fmt.Sprintf("http2 connection: %s %v: %s", who, e.Code, e.Reason)
	}
	return fmt.Sprintf("http2 connection: %s %v", who, e.Code)
}

// broken reports whether the transport broke, so that nothing more can be sent.
func (e *ConnError) broken() bool { return e.Remote && e.Err != nil }

// Unwrap returns the transport's error.
func (e *ConnError) Unwrap() error { return e.Err }

// StreamError says why a stream broke. For one that the peer or the transport broke,
// io.ErrUnexpectedEOF holds; message.ErrNotExecuted and message.ErrStale hold where
// they are true.
type StreamError struct {
	ID          uint32
	Code        Code
	Remote      bool   // the peer or the transport broke it
	NotExecuted bool   // no application has seen it
	Stale       bool   // the connection ended before a byte of the response
	Reason      string // in words
	Err         error  // the connection's error, if it ended with the connection
}

// Error implements error.
func (e *StreamError) Error() string {
	who, not := "local", ""
	if e.Remote {
		who = "remote"
	}
	if e.NotExecuted {
		not = ", not executed"
	}
	if e.Err != nil {
		return fmt.Sprintf("http2 stream %d%s: %v", e.ID, not, e.Err)
	}
	if e.Reason != "" {
		return fmt.Sprintf("http2 stream %d: %s %v%s: %s", e.ID, who, e.Code, not, e.Reason)
	}
	return fmt.Sprintf("http2 stream %d: %s %v%s", e.ID, who, e.Code, not)
}

// Unwrap returns the connection's error.
func (e *StreamError) Unwrap() error { return e.Err }

// Is makes the sentinels of package message and io.ErrUnexpectedEOF hold.
func (e *StreamError) Is(target error) bool {
	switch target {
	case message.ErrNotExecuted:
		return e.NotExecuted
	case message.ErrStale:
		return e.Stale
	case io.ErrUnexpectedEOF:
		return e.Remote
	}
	return false
}

// The errors of calls made out of order or after the end.
var (
	// ErrClosed is the end of a connection that was asked for on this side.
	ErrClosed = errors.New("closed on this side")
	// ErrEnded is returned by a write after the end of what this side had to send.
	ErrEnded = errors.New("http2: write after the end of the stream")
	// ErrOrder is returned by a call made before the one it needs.
	ErrOrder = errors.New("http2: head not sent yet, or sent twice")
	// ErrLength is returned when the body differs from the head's Length; the stream is reset.
	ErrLength = errors.New("http2: the body differs from the announced length")
	// ErrNoConnectProtocol is returned for an upgrade whose server takes none (RFC 8441 §3).
	ErrNoConnectProtocol = fmt.Errorf("http2: the server does not accept extended CONNECT: %w", message.ErrNotExecuted)
)

// connErr is a fault of the peer that ends the connection (RFC 9113 §5.4.1).
func connErr(code Code, reason string) *ConnError { return &ConnError{Code: code, Reason: reason} }
