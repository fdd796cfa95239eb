package agent

import (
	"context"

	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/dataplane/load"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// spread is a split as it was told, at Unix nanoseconds.
type spread struct {
	shares []mesh.Share
	at     int64
}

func (x *spread) apply(v *balance.View) { v.SetSplit(balance.SharesOf(x.shares), x.at) }

// spread puts a split in force, or takes it back where it is nil. The caller holds mu.
func (s *store) spread(n mesh.ServiceName, x *spread) {
	if x == nil {
		delete(s.splits, n)
		x = &spread{at: s.now().UnixNano()}
	} else {
		s.splits[n] = x
	}
	if svc := s.state.Load().Services[n]; svc != nil && svc.View != nil {
		x.apply(svc.View)
	}
}

// reportLoad tells the control plane what is asked for here and what the application can serve, until ctx ends.
func (a *Agent) reportLoad(ctx context.Context) error {
	if a.cfg.Mode == ModeGateway {
		return nil // it reads no request
	}
	r := load.Reporter{Node: a.cfg.ID, State: a.store.state.Load, Meter: a.proxy.Meter(), Said: a.proxy.Said(), Bytes: &a.seen.bytes, Conn: a.up.streaming.Load, Clock: a.clock, Log: a.log}
	return r.Run(ctx)
}
