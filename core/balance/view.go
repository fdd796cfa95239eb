package balance

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// View is the endpoints of one service as a proxy of one cluster chooses among
// them. The lists are immutable, the endpoints' measurements are not. It is safe for
// concurrent use.
type View struct {
	Service mesh.ServiceName
	groups  []*group // nearest first
}

// group is one cluster's part of a service, with what is known of the cluster.
type group struct {
	cluster   *ir.Cluster
	source    ir.Group
	local     bool
	endpoints []*Endpoint
	state     *groupState
}

// Place tells a view where its proxy is.
type Place struct {
	Cluster mesh.ClusterName
}

// NewView builds the view of eps. clusters resolves names; a group of an unknown
// cluster is left out. Endpoints and clusters that prev (nil for none) knew keep what was
// measured.
func NewView(prev *View, eps *ir.Endpoints, clusters func(mesh.ClusterName) *ir.Cluster, at Place) *View {
	v := &View{Service: eps.Service}
	for _, src := range eps.Groups {
		c := clusters(src.Cluster)
		if c == nil {
			continue
		}
		old := prev.group(src.Cluster)
		g := &group{cluster: c, source: src, local: src.Cluster == at.Cluster, state: &groupState{}}
		if old != nil {
			g.state = old.state
		}
		for _, e := range src.Endpoints {
			g.add(old, Key{Cluster: src.Cluster, Tag: e.Tag}, e)
		}
		for i, moved := range src.Slots {
			g.add(old, Key{Cluster: src.Cluster, Slot: uint32(i), Moved: moved}, ir.Endpoint{})
		}
		v.groups = append(v.groups, g)
	}
	slices.SortStableFunc(v.groups, func(a, b *group) int {
		return cmp.Or(-compareBool(a.local, b.local), cmp.Compare(distance(a.cluster), distance(b.cluster)),
			cmp.Compare(a.cluster.Name, b.cluster.Name))
	})
	return v
}

// distance is the RTT; unknown is far.
func distance(c *ir.Cluster) time.Duration {
	if c.RTT <= 0 {
		return time.Hour
	}
	return c.RTT
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

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

func (g *group) add(old *group, k Key, e ir.Endpoint) {
	if old != nil {
		for _, o := range old.endpoints {
			if o.Key == k && o.Proxy == e.Proxy && o.Weight == max(e.Weight, 1) && o.Zone == e.Zone {
				g.endpoints = append(g.endpoints, o)
				return
			}
		}
	}
	g.endpoints = append(g.endpoints, newEndpoint(k, e, g.state))
}

// Ask bounds one choice.
type Ask struct {
	// Scope cluster keeps to the proxy's own cluster; so does the strategy Local.
	Scope    mesh.Scope
	Strategy mesh.Strategy
	// Tried endpoints are not chosen again while another is left.
	Tried []*Endpoint
	// Rand are two independent draws in [0, 2³²), one in each half.
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
	DropNotExported  Dropped = "the cluster does not export the service"
	DropUnreachable  Dropped = "the cluster cannot be reached"
	DropTripped      Dropped = "the cluster was tripped by failures in a row"
	DropEmpty        Dropped = "no endpoint is ready"
	DropEjected      Dropped = "ejected after failures"
	DropTried        Dropped = "this request has tried it"
	DropFarther      Dropped = "a nearer cluster serves"
	DropAllEndpoints Dropped = "every endpoint is ejected or was tried"
)

// unlawful says whether a group may never be used for this request, whatever else
// fails.
func (g *group) unlawful(a *Ask) Dropped {
	switch {
	case g.source.Forbidden != "":
		return DropForbidden
	case !g.local && (a.Scope == mesh.ScopeCluster || a.Strategy == mesh.StrategyLocal):
		return DropScope
	case !g.local && !g.source.Exported:
		return DropNotExported
	}
	return Kept
}

// unwise says whether a group is passed over while another is left.
func (g *group) unwise(a *Ask) Dropped {
	switch {
	case !g.local && !g.cluster.Reach.Usable():
		return DropUnreachable
	case len(g.endpoints) == 0:
		return DropEmpty
	case g.state.trippedUntil.Load() > a.Now:
		return DropTripped
	}
	return Kept
}

func (e *Endpoint) unwise(a *Ask) Dropped {
	switch {
	case e.ejectedUntil.Load() > a.Now:
		return DropEjected
	case e.ejections.Load() > 0 && e.trial.Load():
		return DropEjected // one trial at a time
	case slices.Contains(a.Tried, e):
		return DropTried
	}
	return Kept
}

// Pick chooses an endpoint: the nearest lawful cluster with one that is neither ejected
// nor tried, and in it the better of two drawn at random (Mitzenmacher's power of two
// choices). When nothing wise is left it tries what is merely lawful and not yet tried
// before it gives up: better a try than a refusal. The reason is empty when an endpoint
// was chosen. It allocates nothing.
func (v *View) Pick(a *Ask) (Pick, mesh.Reason) {
	lawful, forbidden := false, false
	for _, g := range v.groups {
		if d := g.unlawful(a); d != Kept {
			forbidden = forbidden || d == DropForbidden
			continue
		}
		lawful = lawful || len(g.endpoints) > 0
		if g.unwise(a) != Kept {
			continue
		}
		if e := g.choose(a, false); e != nil {
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
	case forbidden:
		return Pick{}, mesh.ReasonResidency
	}
	return Pick{}, mesh.ReasonNoEndpoint
}

// choose draws two different eligible endpoints and returns the better.
func (g *group) choose(a *Ask, desperate bool) *Endpoint {
	n, known, typical := 0, 0, 0.0
	for _, e := range g.endpoints {
		if !e.eligible(a, desperate) {
			continue
		}
		n++
		if s := e.measured(a.Now); s > 0 {
			known++
			typical += s
		}
	}
	if n == 0 {
		return nil
	}
	if known > 0 {
		typical /= float64(known)
	} else {
		typical = float64(unmeasured)
	}
	i, j := draw(uint32(a.Rand), n), 0
	if n > 1 {
		j = draw(uint32(a.Rand>>32), n-1)
		if j >= i {
			j++
		}
	}
	var x, y *Endpoint
	k := 0
	for _, e := range g.endpoints {
		if !e.eligible(a, desperate) {
			continue
		}
		if k == i {
			x = e
		}
		if k == j {
			y = e
		}
		k++
	}
	switch { // measurements moved meanwhile
	case x == nil:
		return y
	case y == nil || y == x:
		return x
	case y.score(a.Now, typical) < x.score(a.Now, typical):
		return y
	}
	return x
}

func (e *Endpoint) eligible(a *Ask, desperate bool) bool {
	if desperate {
		return !slices.Contains(a.Tried, e)
	}
	return e.unwise(a) == Kept
}

// draw maps 32 random bits to [0, n).
func draw(r uint32, n int) int { return int(uint64(r) * uint64(n) >> 32) }

func (e *Endpoint) begin(a *Ask) Pick {
	e.inFlight.Add(1)
	p := Pick{Endpoint: e, start: a.Now}
	if e.ejections.Load() > 0 && e.trial.CompareAndSwap(false, true) {
		p.trial = true
	}
	return p
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

// Candidate is one line of an explanation.
type Candidate struct {
	Cluster  mesh.ClusterName
	Endpoint string // empty for the line of a cluster
	Dropped  Dropped
	// Detail names the policy or the state behind it.
	Detail string
	Stats  Stats
}

// Explain lists every cluster and endpoint in the order in which Pick considers them,
// with the reason each was kept or dropped. Exactly the endpoints that Pick would draw from are
// kept.
func (v *View) Explain(a *Ask) []Candidate {
	var out []Candidate
	served := false
	for _, g := range v.groups {
		c := Candidate{Cluster: g.cluster.Name, Detail: g.detail()}
		if c.Dropped = g.unlawful(a); c.Dropped == Kept {
			c.Dropped = g.unwise(a)
		}
		if c.Dropped == Kept && !slices.ContainsFunc(g.endpoints, func(e *Endpoint) bool { return e.unwise(a) == Kept }) {
			c.Dropped = DropAllEndpoints
		}
		if c.Dropped == Kept && served {
			c.Dropped = DropFarther
		}
		out = append(out, c)
		for _, e := range g.endpoints {
			line := Candidate{Cluster: c.Cluster, Endpoint: e.name(), Dropped: c.Dropped, Stats: e.Stats(a.Now)}
			if c.Dropped == Kept || c.Dropped == DropAllEndpoints {
				line.Dropped = e.unwise(a)
			}
			out = append(out, line)
		}
		served = served || c.Dropped == Kept
	}
	return out
}

func (g *group) detail() string {
	switch {
	case g.source.Forbidden != "":
		return g.source.Forbidden
	case g.local:
		return "own cluster"
	}
	return fmt.Sprintf("%s, rtt %s", g.cluster.Reach, g.cluster.RTT)
}

func (e *Endpoint) name() string {
	if e.Tag != "" {
		return e.Tag
	}
	return fmt.Sprintf("slot %d", e.Slot)
}
