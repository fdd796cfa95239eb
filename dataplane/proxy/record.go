package proxy

import (
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Record is what is known of a request when it has ended: the source of access log,
// metrics and spans. It and its byte slices are used again for another request: the function
// that it is given to must not keep them.
type Record struct {
	Start    time.Time
	Duration time.Duration
	// Inbound is the server proxy's side.
	Inbound bool
	// Method, Host and Path as they were asked for; a connection's are CONNECT, its
	// authority and nothing.
	Method, Host, Path []byte
	// RequestID is x-request-id.
	RequestID []byte
	// TraceID is zero when the request is part of no trace. SpanID is this hop's own span, and
	// ParentID the one it came from, zero where the trace begins here. There is a span only
	// when Sampled (W3C Trace Context).
	TraceID          [16]byte
	SpanID, ParentID [8]byte
	Sampled          bool
	Service          mesh.ServiceName
	Port             uint16
	// Protocol of the service's port; empty if there is none.
	Protocol mesh.Protocol
	// Mirror says that it is a copy, whose answer nobody heard.
	Mirror bool
	// Tunnel says that bytes were carried: CONNECT, a connection, or an upgrade.
	Tunnel bool
	// Route names the object and rule that chose, Backend what it chose.
	Route   string
	Backend mesh.ServiceName
	// Cluster and Endpoint are of the last try.
	Cluster  mesh.ClusterName
	Endpoint string
	// Caller is the authenticated identity, on the server's side.
	Caller mesh.Identity
	// Status is 0 when the client left before an answer.
	Status int
	Reason mesh.Reason
	// Detail is for people and never for the client's program: beside the reason, it says what
	// was attempted on what.
	Detail string
	// Fallback says what answered in the service's place (fallback.Field); Reason and Detail are then why the service could not.
	Fallback string
	// Policy decided on access, on the server's side.
	Policy                      string
	Tries                       int
	RequestBytes, ResponseBytes int64
}

// again says on what terms a request that failed may be tried elsewhere (docs/reasons.md).
type again uint8

const (
	// never: it may have been executed and is not idempotent, or trying cannot help.
	never again = iota
	// freely: no application has seen it, or its connection was broken and it may be repeated.
	freely
	// paid: it costs a token of the retry budget.
	paid
)

// refusal is why a request goes no further: it becomes a response once, outermost.
type refusal struct {
	status int
	reason mesh.Reason
	detail string
	// notExecuted tells a client proxy that any method may be tried elsewhere.
	notExecuted bool
	again       again
	// retryAfter, if not 0, is when to ask again.
	retryAfter time.Duration
	// asked says that the policy names this very outcome, whatever the method.
	asked bool
	// connection says that a connection that had served broke: where no other endpoint is left the same may
	// serve by another.
	connection bool
	// silent says that nobody was heard: what else is behind the same gateways may be no better.
	silent bool
	// grpc is the status of gRPC to answer a request of gRPC with; 0 is derived.
	grpc int
}

func refuse(r mesh.Reason, detail string) *refusal {
	return &refusal{status: r.Status(), reason: r, detail: detail}
}

// notExecuted is refuse for what no application has seen.
func notExecuted(r mesh.Reason, detail string) *refusal {
	return &refusal{status: r.Status(), reason: r, detail: detail, notExecuted: true, again: freely}
}
