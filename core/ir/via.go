package ir

import (
	"net/netip"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Via is a way to a cluster through the gateways of another, which pass on what they cannot read.
type Via struct {
	Cluster      mesh.ClusterName
	Jurisdiction mesh.Jurisdiction
	TrustDomain  mesh.TrustDomain
	Gateways     []netip.AddrPort
	// RTT is that of the whole way, in coarse steps.
	RTT time.Duration
}

// Anywhere is a jurisdiction for all, of Endpoints.Transit.
const Anywhere mesh.Jurisdiction = "*"

// For is the cluster as requests to its part of a service see it: one that is reached through another cluster, by its gateways and
// round trip, if the law of the service lets them pass there, and else without that way; what has addresses in place of slots
// is behind no gateway. c may be nil, and is not changed.
func (c *Cluster) For(e *Endpoints, part *Group) *Cluster {
	if c == nil || c.Via == nil {
		return c
	}
	out := *c
	if c.Reach.Usable() || !e.Passes(part, c.Via.Jurisdiction) {
		out.Via = nil
		return &out
	}
	out.Reach, out.RTT, out.Gateways = mesh.Alive, c.Via.RTT, c.Via.Gateways
	if c.StaleSinceMillis != 0 {
		out.Reach = mesh.StaleServing
	}
	return &out
}

// Passes reports whether requests to a part of the service may be passed on in a jurisdiction, by its law, and can be. What is not
// said is not allowed.
func (e *Endpoints) Passes(part *Group, j mesh.Jurisdiction) bool {
	return len(part.Slots) > 0 && e.Allows(j)
}

// Allows is the law's half of Passes.
func (e *Endpoints) Allows(j mesh.Jurisdiction) bool {
	return slices.Contains(e.Transit, Anywhere) || j != "" && j != Anywhere && slices.Contains(e.Transit, j)
}

// Barred says in words that a way there is none for the service by its law, for people; "" where that is not so.
func (c *Cluster) Barred(e *Endpoints) string {
	if c == nil || c.Via == nil || c.Reach.Usable() || e.Allows(c.Via.Jurisdiction) {
		return ""
	}
	return ", and the law of the service lets nothing pass by " + string(c.Via.Cluster) + " (" + string(c.Via.Jurisdiction) + ")"
}

// Way says in words how the cluster is reached: the state, and by whose gateways.
func (c *Cluster) Way() string {
	if c.Via == nil {
		return c.Reach.String()
	}
	return c.Reach.String() + " by " + string(c.Via.Cluster)
}
