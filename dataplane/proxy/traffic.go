package proxy

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/limit"
	"github.com/isthmus-mesh/isthmus/core/quantile"
	"github.com/isthmus-mesh/isthmus/dataplane/condition"
	"github.com/isthmus-mesh/isthmus/dataplane/fallback"
	"github.com/isthmus-mesh/isthmus/dataplane/mishap"
	"github.com/isthmus-mesh/isthmus/dataplane/route"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Live is what a client proxy measured of a service, or has in progress for it: what
// outlives changes of configuration. It is safe for concurrent use.
type Live struct {
	// retries and across limit retries, and those that change the cluster.
	retries, across balance.Budget
	latency         quantile.Latency
	// requests in flight, connections of TCP, and requests that wait for a connection
	// (mesh.Limits).
	requests, connections, pending limit.Gauge
	asked                          atomic.Int64
}

// Asked is how many requests were begun to the service.
func (l *Live) Asked() int64 { return l.asked.Load() }

// NewService prepares a service for requests. prev, nil for none, lends what it measured and
// has in progress. The error names what cannot be understood; such a service is refused whole, and
// the last good one stays in force.
func NewService(s *ir.Service, view *balance.View, prev *Service) (*Service, error) {
	out := &Service{Service: s, View: view, Live: &Live{}, to: s.Name.String(),
		budget: balance.BudgetRate{Percent: s.Traffic.Retry.BudgetPercent, Burst: s.Traffic.Retry.BudgetBurst}}
	var counted *fallback.Plan
	if prev != nil {
		out.Live, counted = prev.Live, prev.Fallback
	}
	out.Fallback = fallback.New(s.Traffic.Fallback, counted)
	var err error
	if out.routes, err = route.NewTable(s.Routes); err != nil {
		return nil, err
	}
	if out.retry, err = condition.Retry(s.Traffic.Retry.On); err != nil {
		return nil, fmt.Errorf("traffic policy of service %s: %w", s.Name, err)
	}
	if out.faults, err = mishap.New(s.Traffic.Faults); err != nil {
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
