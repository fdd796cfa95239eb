package proxy

import (
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/limit"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/route"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Live is what a client proxy measured of a service, or has in progress for it: what
// outlives changes of configuration. It is safe for concurrent use.
type Live struct {
	// retries and across limit retries, and those that change the cluster.
	retries, across balance.Budget
	latency         balance.Latency
	// requests in flight, connections of TCP, and requests that wait for a connection
	// (mesh.Limits).
	requests, connections, pending limit.Gauge
	asked                          atomic.Int64
}

// Asked is how many requests were begun to the service.
func (l *Live) Asked() int64 { return l.asked.Load() }

// retryRules say what is tried again although it may have been executed
// (mesh.RetryPolicy.On).
type retryRules struct {
	reset, timeout bool
	statuses       [10]uint64 // a bit for each status below 640
	grpc           uint32     // a bit for each status of gRPC
}

// grpcConditions are the statuses of gRPC that a policy may name. They are told by an answer that
// is a head and nothing more; one in trailers comes too late.
var grpcConditions = map[string]int{"cancelled": 1, "deadline-exceeded": message.GRPCDeadlineExceeded, "resource-exhausted": message.GRPCResourceExhausted,
	"internal": message.GRPCInternal, "unavailable": message.GRPCUnavailable}

// hasGRPC reports whether an answer bears a status of gRPC that is tried again.
func (r *retryRules) hasGRPC(answer *message.Head) bool {
	if r.grpc == 0 {
		return false
	}
	code, err := strconv.ParseUint(string(answer.Get("grpc-status")), 10, 5)
	return err == nil && r.grpc&(1<<code) != 0
}

func (r *retryRules) add(first, last int) {
	for s := first; s <= last; s++ {
		r.statuses[s>>6] |= 1 << (s & 63)
	}
}

func (r *retryRules) has(status int) bool {
	return status > 0 && status < 600 && r.statuses[status>>6]&(1<<(status&63)) != 0
}

// newRetryRules reads the conditions. What this version does not know is an error: a service
// that is not understood is refused whole, and the last good one stays in force.
func newRetryRules(on []string) (retryRules, error) {
	var r retryRules
	if len(on) == 0 {
		on = []string{"reset", "timeout", "gateway-error"}
	}
	for _, word := range on {
		switch word {
		case "reset":
			r.reset = true
		case "timeout":
			r.timeout = true
		case "gateway-error":
			r.add(502, 504)
		case "5xx":
			r.add(500, 599)
		default:
			if code, ok := grpcConditions[word]; ok {
				r.grpc |= 1 << code
				continue
			}
			status, err := strconv.Atoi(word)
			if err != nil || status < 100 || status > 599 {
				return r, fmt.Errorf("retry on %q: it is not understood", word)
			}
			r.add(status, status)
		}
	}
	return r, nil
}

// NewService prepares a service for requests. prev, nil for none, lends what it measured and
// has in progress. The error names what cannot be understood; such a service is refused whole, and
// the last good one stays in force.
func NewService(s *ir.Service, view *balance.View, prev *Service) (*Service, error) {
	out := &Service{Service: s, View: view, Live: &Live{}, to: s.Name.String(),
		budget: balance.BudgetRate{Percent: s.Traffic.Retry.BudgetPercent, Burst: s.Traffic.Retry.BudgetBurst}}
	if prev != nil {
		out.Live = prev.Live
	}
	var err error
	if out.routes, err = route.NewTable(s.Routes); err != nil {
		return nil, err
	}
	if out.retry, err = newRetryRules(s.Traffic.Retry.On); err != nil {
		return nil, fmt.Errorf("traffic policy of service %s: %w", s.Name, err)
	}
	if out.faults, err = newFaults(s.Traffic.Faults); err != nil {
		return nil, err
	}
	return out, nil
}

// undeclared reports whether nobody said what the port speaks.
func (s *Service) undeclared(port uint16) bool {
	for i := range s.Ports {
		if s.Ports[i].Port == port && s.Ports[i].Protocol == mesh.ProtocolAuto {
			return true
		}
	}
	return false
}

// idleOf is how long nothing may move on a stream: what a policy says, or stall. The default
// of a policy is that of idle connections; nobody means by it that a watch ends after a minute.
func (r *request) idleOf(t *ir.Traffic) time.Duration {
	if r.rec.Protocol == mesh.ProtocolUDP {
		return stall // a session ends at the client proxy's edge, which knows its idle time
	}
	if t.IdleTimeout > 0 && t.IdleTimeout != mesh.DefaultIdleTimeout {
		return t.IdleTimeout
	}
	return stall
}
