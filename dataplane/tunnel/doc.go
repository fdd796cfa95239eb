// Package tunnel is the transport between proxies: few long-lived HTTP/2 connections
// over mTLS that carry many requests and TCP streams, directly inside a network and through
// east-west gateways that pass bytes they cannot read. Its one idea is that the handshake is
// paid once: a request, and even a new TCP connection of an application, costs a stream.
//
// It chooses no endpoint and no route, decides no access and knows no reserved field of the
// proxies (dataplane/proxy does); certificates and their verification are package trust's.
//
// Read Dialer (client side), Server (server side) and Gateway (between).
package tunnel

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// ALPN is what proxies speak on port 15008: requests and CONNECT streams.
const ALPN = "isthmus/1"

// GatewayName is the server name of a trust domain's gateways themselves, as opposed to
// what lies behind them: whoever pings a gateway asks for it.
func GatewayName(td mesh.TrustDomain) string { return "gateway." + string(td) }

// Target is one server proxy, reached directly or as a slot behind gateways. It is the
// key under which connections are shared.
type Target struct {
	// Addr is the server proxy, or one of the gateways.
	Addr netip.AddrPort
	SNI  mesh.SNI
	// Moved is the generation at which the slot last moved: a slot that moved is another
	// target.
	Moved uint64
	// Connect is set for tunnels of bytes, which have connections of their own, so that
	// bulk does not delay requests.
	Connect bool
}

// Error is why a stream could not be opened.
type Error struct {
	Target Target
	Why    mesh.Reason
	Err    error
}

func (e *Error) Error() string {
	return fmt.Sprintf("open %s at %s: %v", e.Target.SNI, e.Target.Addr, e.Err)
}

// Unwrap makes message.ErrNotExecuted hold: no stream, no request.
func (e *Error) Unwrap() []error { return []error{message.ErrNotExecuted, e.Err} }

// Reason is the reason for the client.
func (e *Error) Reason() mesh.Reason { return e.Why }

// reasonOf classifies why a connection could not be made. What a gateway says by alert is a
// hint for the class, never a proof.
func reasonOf(err error) mesh.Reason {
	var fault *trust.Error
	var alert tls.AlertError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &fault):
		return fault.Reason()
	case errors.As(err, &alert):
		if alert == alertUnrecognizedName || alert == alertInternalError {
			return mesh.ReasonUnreachable
		}
		return mesh.ReasonTLS
	case errors.As(err, &record):
		return mesh.ReasonTLS
	case errors.Is(err, os.ErrDeadlineExceeded), isTimeout(err):
		return mesh.ReasonConnectTimeout
	}
	return mesh.ReasonUnreachable
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// Alerts by which a gateway refuses (RFC 8446 §6, RFC 6066 §3).
const (
	alertUnrecognizedName = 112 // unknown or not exported
	alertInternalError    = 80  // the endpoint cannot be reached
)
