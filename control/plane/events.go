package plane

import (
	"slices"

	"github.com/isthmus-mesh/isthmus/control/events"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// newEvents is what remembers what was done without a person: the parts tell it, or it looks.
func (p *Plane) newEvents() *events.Recorder {
	return events.New(events.Config{Cluster: p.cfg.Cluster, Clock: p.clock,
		Serves: func(of mesh.ClusterName) int {
			return len(slices.DeleteFunc(p.known(of), func(k mesh.Key) bool { return k.Kind != mesh.KindRemoteService }))
		},
		Look: func() events.Seen {
			s := events.Seen{Drains: p.drains.List(), Bundle: p.Bundle()}
			if at := p.position.Load(); at != nil {
				s.Epoch = at.Epoch
			}
			for _, l := range p.Peers() {
				s.Links = append(s.Links, events.Link{Cluster: l.Cluster, Lease: l.Lease, Met: !l.Status.LastFresh.IsZero(), Down: l.State == mesh.Unreachable, Err: l.Err})
			}
			return s
		}})
}

// Events is what was done without a person, and why.
func (p *Plane) Events() *events.Recorder { return p.events }
