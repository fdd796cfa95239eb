package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// Error is why a stream could not be opened.
type Error struct {
	Target Target
	Why    mesh.Reason
	Err    error
}

func (e *Error) Error() string {
	return fmt.Sprintf("open %s at %s: %v", e.Target.SNI, e.Target.Addr, e.Err)
}

// Unwrap makes message.ErrNotExecuted hold: nothing is sent before there is a stream, so
// every error of Dialer.Open proves that no application has seen the request.
func (e *Error) Unwrap() []error { return []error{message.ErrNotExecuted, e.Err} }

// Reason is the reason for the client.
func (e *Error) Reason() mesh.Reason { return e.Why }

// ErrSilent is wrapped by the errors of streams whose connection was closed because its peer
// no longer answered. The requests may have been executed.
var ErrSilent = errors.New("the peer has been silent")

var (
	errStopping = errors.New("this proxy is stopping")
	errEnding   = errors.New("connections end as soon as they are made")
	errWait     = fmt.Errorf("no connection before the request's deadline: %w", os.ErrDeadlineExceeded)
	errPending  = errors.New("as many requests wait for a connection as the service's policy allows")
	errExpelled = errors.New("the peer is no longer trusted")
)

// reasonOf classifies why a connection could not be made or was refused. What a gateway
// says by alert is a hint for the class, never a proof.
func reasonOf(err error) mesh.Reason {
	var fault *trust.Error
	var record tls.RecordHeaderError
	alert := remoteAlert(err)
	switch {
	case errors.Is(err, errStopping):
		return mesh.ReasonDraining
	case errors.As(err, &fault):
		return fault.Reason()
	case alert == alertUnrecognizedName.Error(), alert == alertInternalError.Error():
		return mesh.ReasonUnreachable
	case alert != "", errors.As(err, &record), strings.HasPrefix(err.Error(), ownRefusal):
		return mesh.ReasonTLS
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		return mesh.ReasonConnectTimeout
	}
	return mesh.ReasonUnreachable
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// ownRefusal begins the text of what crypto/tls itself finds wrong with a handshake, such as
// that a client showed no certificate: it has no type for that.
const ownRefusal = "tls: "

// Alerts by which a gateway refuses (RFC 8446 §6, RFC 6066 §3).
const (
	alertInternalError    tls.AlertError = 80  // the endpoint cannot be reached
	alertUnrecognizedName tls.AlertError = 112 // unknown or not exported
)

// remoteAlert is the text of the TLS alert by which the peer ended the connection, or empty.
// crypto/tls has no exported type for it (tls.AlertError is QUIC's): it is a net.OpError
// whose operation is "remote error" around a value that prints as an AlertError does.
func remoteAlert(err error) string {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" && op.Err != nil {
		return op.Err.Error()
	}
	return ""
}
