package balance

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// View is the endpoints of one service as a proxy of one cluster chooses among
// them. The lists and tables are immutable, the endpoints' measurements are not. It is safe for
// concurrent use.
type View struct {
	Service mesh.ServiceName
	// Algorithm is the one in force.
	Algorithm mesh.Algorithm
	groups    []*group // in the order in which they are tried: nearest first
	size      int
	// names finds the endpoints of sessions; nil where nothing has sessions.
	names map[uint64]*Endpoint
	// plan is how the strategy spreads requests by itself; nil where it does not.
	plan *plan
	// split is how requests are spread over the groups; nil is the nearest first.
	split atomic.Pointer[spread]
}

// group is one cluster's part of a service, or what of it is in one zone, with what is known of the cluster.
type group struct {
	cluster *ir.Cluster
	source  ir.Group
	local   bool
	// zone is that of all its endpoints, where the strategy tells zones apart; else "".
	zone mesh.Zone
	// all are the endpoints, and pool those that this proxy draws from.
	all, pool *pool
	table     *table // of ConsistentHash
	state     *groupState
	// leaving are the drains of the endpoints, each once, where all of them have some; nil where one has none.
	leaving []mesh.Ramps
	salt    uint64
	// staleFrom is when what is known of the cluster is too old, in Unix nanoseconds, 0 for never; excludes says that
	// it gets nothing from then on.
	staleFrom int64
	excludes  bool
}

// Config is what a view is made of.
type Config struct {
	// Prev is the view before, nil for none: endpoints and clusters that it knew keep what was
	// measured.
	Prev      *View
	Endpoints *ir.Endpoints
	// Clusters resolves names; a group of an unknown cluster is left out.
	Clusters func(mesh.ClusterName) *ir.Cluster
	// Cluster is the proxy's own, and Proxy its ID, by which it draws from endpoints of its own
	// where there are many.
	Cluster mesh.ClusterName
	Proxy   string
	// Zone is the proxy's own, "" if unknown.
	Zone mesh.Zone
	// Strategy and Distribution say how clusters are chosen; the zero value is the nearest first.
	Strategy     mesh.Strategy
	Distribution mesh.Distribution
	// Staleness says how old what is known of other clusters may be.
	Staleness mesh.Staleness
	// Balancing and Outlier say how an endpoint is chosen and when it is taken out; zero fields are the
	// defaults.
	Balancing mesh.Balancing
	Outlier   mesh.Outlier
	// Ejected, if set, is told when something was taken out, and must not wait: whoever is told makes
	// the probes that View.Due asks for. Until Endpoint.Probed says that one was answered, no request
	// is risked there while it may go elsewhere. Nil: requests find out by themselves.
	Ejected func()
	// Sessions says that requests are expected to name an endpoint, which is then found at once.
	Sessions bool
	// Now is Unix nanoseconds: endpoints that Prev did not have begin then.
	Now int64
}

// NewView builds a view.
func NewView(c Config) *View {
	v := &View{Service: c.Endpoints.Service, Algorithm: c.Balancing.Algorithm}
	if v.Algorithm == "" {
		v.Algorithm = mesh.AlgorithmPeakEWMA
	}
	outlier := withDefaults(c.Outlier)
	total := 0
	for _, src := range c.Endpoints.Groups {
		if cluster := c.Clusters(src.Cluster).For(c.Endpoints, &src); cluster != nil {
			total += len(src.Endpoints) + len(src.Slots)
			v.groups = append(v.groups, c.parts(src, cluster)...)
		}
	}
	for _, g := range v.groups {
		if !g.local {
			g.staleFrom, g.excludes = c.Staleness.From(g.cluster.StaleSinceMillis), c.Staleness.When == mesh.WhenStaleExclude
		}
		weights := g.fill(&c, v.Service)
		v.arrange(g, &c, weights, total)
	}
	for _, g := range v.groups {
		g.state.frame.Store(&frame{c.Balancing, outlier, v.endpointsOf(g), c.Ejected})
	}
	v.size = total
	if c.Sessions {
		v.names = make(map[uint64]*Endpoint, total)
		for _, g := range v.groups {
			for _, e := range g.all.endpoints {
				v.names[e.name] = e
			}
		}
	}
	v.plan = newPlan(&c, v.groups)
	v.arrangeGroups(&c)
	if c.Prev != nil {
		if s := c.Prev.split.Load(); s != nil {
			v.SetSplit(s.shares, s.at)
		}
	}
	return v
}

// endpointsOf are all of the cluster's that a group is a part of.
func (v *View) endpointsOf(g *group) []*Endpoint {
	all := g.all.endpoints
	for _, other := range v.groups {
		if other != g && other.cluster == g.cluster {
			all = slices.Concat(all, other.all.endpoints)
		}
	}
	return all
}

// fill lists the endpoints of a group, those that the view before knew with what was measured, and
// returns their weights.
func (g *group) fill(c *Config, service mesh.ServiceName) []uint32 {
	old := c.Prev.group(g.source.Cluster)
	known := map[Key]*Endpoint{}
	if old != nil {
		g.state = old.state
		for _, e := range c.Prev.endpointsOf(old) {
			known[e.Key] = e
		}
	} else if g.state.changes.Load() == 0 {
		g.state.changes.Store(1)
		g.state.turn.Store(mix(hashString(hashSeed, c.Proxy))) // proxies do not go round in step
	}
	n := len(g.source.Endpoints) + len(g.source.Slots)
	weights := make([]uint32, 0, n)
	g.all = &pool{endpoints: make([]*Endpoint, 0, n)}
	add := func(k Key, e ir.Endpoint) { // of known ones, what was measured stays
		weights = append(weights, max(e.Weight, 1))
		if o := known[k]; o != nil && o.Proxy == e.Proxy && o.Zone == e.Zone {
			g.all.endpoints = append(g.all.endpoints, o)
			return
		}
		o := newEndpoint(service, k, e, g.state)
		if old != nil {
			o.since.Store(c.Now)
		}
		g.all.endpoints = append(g.all.endpoints, o)
	}
	for _, e := range g.source.Endpoints {
		add(Key{Cluster: g.source.Cluster, Tag: e.Tag}, e)
	}
	for i, moved := range g.source.Slots {
		add(Key{Cluster: g.source.Cluster, Slot: uint32(i), Moved: moved}, ir.Endpoint{})
	}
	g.drain()
	return weights
}

// arrange makes what the algorithm needs. A table is over all endpoints, since all proxies must
// agree on it; other algorithms draw from the proxy's subset.
func (v *View) arrange(g *group, c *Config, weights []uint32, total int) {
	g.all = newPool(g.all.endpoints, weights, v.Algorithm == mesh.AlgorithmRoundRobin)
	if v.Algorithm == mesh.AlgorithmConsistentHash {
		if old := c.Prev.groupIn(g.source.Cluster, g.zone); old != nil && old.table != nil && c.Balancing.Table == old.state.frame.Load().balancing.Table &&
			slices.Equal(old.all.endpoints, g.all.endpoints) && slices.Equal(old.all.weights, g.all.weights) {
			g.table = old.table
		} else {
			g.table = newTable(c.Balancing.Table, g.all.endpoints, weights)
		}
	}
	n := len(g.all.endpoints)
	if total > subsetAbove {
		n = max(subsetLeast, (subsetAbove*n+total-1)/total)
	}
	if g.pool = g.all; n < len(g.all.endpoints) {
		es, ws := subset(c.Proxy, g.all.endpoints, weights, n)
		g.pool = newPool(es, ws, v.Algorithm == mesh.AlgorithmRoundRobin)
	}
}

// distance is the RTT; unknown is far.
func distance(c *ir.Cluster) time.Duration {
	if c.RTT <= 0 {
		return time.Hour
	}
	return c.RTT
}

// groupIn is the group of a cluster and zone.
func (v *View) groupIn(n mesh.ClusterName, z mesh.Zone) *group {
	if v == nil {
		return nil
	}
	for _, g := range v.groups {
		if g.cluster.Name == n && g.zone == z {
			return g
		}
	}
	return nil
}

// group is that of a cluster, or one of them: they have what is known of the cluster in common.
func (v *View) group(n mesh.ClusterName) *group {
	if v == nil {
		return nil
	}
	for _, g := range v.groups {
		if g.cluster.Name == n {
			return g
		}
	}
	return nil
}

// Ask bounds one choice.
type Ask struct {
	// Scope cluster keeps to the proxy's own cluster; so does the strategy Local.
	Scope    mesh.Scope
	Strategy mesh.Strategy
	// Tried endpoints are not chosen again while another is left.
	Tried []*Endpoint
	// Silent is a cluster that did not answer this request's dial in time: its other slots are behind the same
	// path, so it is passed over while another cluster is left; "" is none.
	Silent mesh.ClusterName
	// Spent is a cluster that refused all of this request's tries but the last, which therefore leaves it
	// while another cluster is left; "" is none.
	Spent mesh.ClusterName
	// Session is the endpoint that the request's session stays with; nil for none. It is taken
	// if it may be had at all.
	Session *Endpoint
	// Hash is that of the key of consistent hashing, if the request bears one.
	Hash   uint64
	Hashed bool
	// Rand is 64 random bits.
	Rand uint64
	// Now is Unix nanoseconds.
	Now int64
}

// Dropped says why a candidate was not chosen from, or is empty.
type Dropped string

// The reasons for which a cluster or an endpoint is dropped.
const (
	Kept             Dropped = ""
	DropForbidden    Dropped = "the law forbids it"
	DropScope        Dropped = "the name asks for the caller's own cluster only"
	DropLocal        Dropped = "the strategy Local keeps to the caller's own cluster"
	DropNotExported  Dropped = "the cluster does not export the service"
	DropStale        Dropped = "what is known of the cluster is older than a policy bears"
	DropUnreachable  Dropped = "the cluster cannot be reached"
	DropTripped      Dropped = "the cluster was tripped by failures in a row"
	DropEmpty        Dropped = "no endpoint is ready"
	DropEjected      Dropped = "ejected after failures"
	DropTried        Dropped = "this request has tried it"
	DropSilent       Dropped = "its gateways did not answer this request in time"
	DropSpent        Dropped = "it refused all other tries of this request"
	DropFarther      Dropped = "a nearer cluster serves"
	DropOtherZone    Dropped = "a nearer zone of the cluster serves"
	DropWeightless   Dropped = "it has no weight, and one that has serves"
	DropAllEndpoints Dropped = "every endpoint is ejected or was tried"
	DropSubset       Dropped = "another part of the proxies draws from it"
	DropHash         Dropped = "the request's key belongs to another"
	DropSession      Dropped = "the request's session stays with another"
	DropDraining     Dropped = "it is drained"
)

// unlawful says whether a group may never be used for this request, whatever else
// fails.
func (g *group) unlawful(a *Ask) Dropped {
	switch {
	case g.source.Forbidden != "":
		return DropForbidden
	case !g.local && a.Scope == mesh.ScopeCluster:
		return DropScope
	case !g.local && a.Strategy == mesh.StrategyLocal:
		return DropLocal
	case !g.local && !g.source.Exported:
		return DropNotExported
	case g.excludes && g.stale(a.Now):
		return DropStale
	}
	return Kept
}

// stale reports whether what is known of the cluster is too old.
func (g *group) stale(now int64) bool { return g.staleFrom != 0 && now >= g.staleFrom }

// unwise says whether a group is passed over while another is left.
func (g *group) unwise(a *Ask) Dropped {
	switch {
	case !g.local && !g.cluster.Reach.Usable():
		return DropUnreachable
	case g.stale(a.Now):
		return DropStale
	case len(g.all.endpoints) == 0:
		return DropEmpty
	case !g.local && a.Silent != "" && g.cluster.Name == a.Silent:
		return DropSilent
	case a.Spent != "" && g.cluster.Name == a.Spent:
		return DropSpent
	case g.state.tripped(a.Now):
		return DropTripped
	case g.thins(a):
		return DropDraining
	}
	return Kept
}

func (e *Endpoint) unwise(a *Ask) Dropped {
	switch {
	case e.ejected(a.Now):
		return DropEjected
	case len(a.Tried) > 0 && slices.Contains(a.Tried, e):
		return DropTried
	case e.drained(a.Now):
		return DropDraining
	}
	return Kept
}

// ejected reports whether an endpoint is out, or tested by another request.
func (e *Endpoint) ejected(now int64) bool {
	return e.health.out.Load() != isIn && (e.held(now) || e.health.trial.Load())
}

// Size is how many endpoints, and slots of endpoints, there are.
func (v *View) Size() int { return v.size }

// Pick chooses an endpoint: that of the session if it may be had, else one of the cluster that the split or
// the strategy's own plan draws, or of the nearest lawful cluster with one that is neither ejected nor tried, by the algorithm;
// unless there it would wait, and elsewhere not (overflow). When nothing wise is
// left it tries what is merely lawful and not yet tried before it gives up: better a try than a
// refusal. The reason is empty when an endpoint was chosen. It allocates nothing.
func (v *View) Pick(a *Ask) (Pick, mesh.Reason) {
	if v.stays(a) {
		return a.Session.begin(a), mesh.ReasonNone
	}
	if e := v.spread(a); e != nil {
		return e.begin(a), mesh.ReasonNone
	}
	if e := v.planned(a); e != nil {
		return e.begin(a), mesh.ReasonNone
	}
	lawful, forbidden, stale := false, false, false
	for _, g := range v.groups {
		if d := g.unlawful(a); d != Kept {
			forbidden, stale = forbidden || d == DropForbidden, stale || d == DropStale
			continue
		}
		lawful = lawful || len(g.all.endpoints) > 0
		if g.unwise(a) != Kept {
			continue
		}
		if e := g.choose(a, false); e != nil {
			if other := v.overflow(a, g, e); other != nil {
				e = other
			}
			return e.begin(a), mesh.ReasonNone
		}
	}
	for _, g := range v.groups {
		if g.unlawful(a) != Kept {
			continue
		}
		if e := g.choose(a, true); e != nil {
			return e.begin(a), mesh.ReasonNone
		}
	}
	switch {
	case lawful:
		return Pick{}, mesh.ReasonUnreachable
	case stale:
		return Pick{}, mesh.ReasonStale
	case forbidden:
		return Pick{}, mesh.ReasonResidency
	}
	return Pick{}, mesh.ReasonNoEndpoint
}

// stays reports whether the session's endpoint may be had: the law stands above sessions.
func (v *View) stays(a *Ask) bool {
	if a.Session == nil {
		return false
	}
	g := v.group(a.Session.Cluster)
	return g != nil && g.unlawful(a) == Kept && g.unwise(a) == Kept && a.Session.unwise(a) == Kept && !g.spares(a, a.Session)
}

// Cluster is what the view knows of the endpoint's cluster, and the identities that may
// serve there.
func (v *View) Cluster(e *Endpoint) (*ir.Cluster, []mesh.Identity) {
	g := v.group(e.Cluster)
	if g == nil {
		return nil, nil
	}
	return g.cluster, g.source.Identities
}
