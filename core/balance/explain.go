package balance

import (
	"fmt"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Candidate is one line of an explanation.
type Candidate struct {
	Cluster  mesh.ClusterName
	Endpoint string // empty for the line of a cluster
	Dropped  Dropped
	// Detail names the policy or the state behind it.
	Detail string
	// Algorithm is how the cluster's endpoints are drawn from; on a cluster's line only.
	Algorithm string `json:",omitempty"`
	Weight    uint32
	// Part of requests that the strategy gives the cluster, or the zone of it, while all is well; on their lines only.
	Part  float64 `json:",omitempty"`
	Stats Stats
}

// Explain lists every cluster and endpoint in the order in which Pick considers them,
// with the reason each was kept or dropped. Exactly the endpoints that Pick would draw from are
// kept, but that it goes beyond a subset that is crowded, and to another cluster when a request would wait.
func (v *View) Explain(a *Ask) []Candidate {
	var out []Candidate
	served, last := false, mesh.ClusterName("")
	session := v.stays(a)
	weighted, spread := false, v.plan != nil && a.Scope != mesh.ScopeCluster
	for _, g := range v.groups {
		c := Candidate{Cluster: g.cluster.Name, Detail: g.detail(a.Now), Part: v.part(g), Algorithm: v.algorithm(g, a)}
		if c.Dropped = g.unlawful(a); c.Dropped == Kept {
			c.Dropped = g.unwise(a)
		}
		if share := g.share(a.Now); share < 1 {
			if c.Detail += draining(share); c.Dropped == DropDraining && share > 0 {
				c.Dropped = Kept // for a part of the requests
			}
		}
		verdicts := g.verdicts(a)
		if session {
			for i, e := range g.all.endpoints {
				if verdicts[i] = DropSession; e == a.Session {
					verdicts[i] = Kept
				}
			}
		}
		if c.Dropped == Kept && !kept(verdicts) {
			if c.Dropped = DropAllEndpoints; session {
				c.Dropped = DropSession
			}
		}
		if c.Dropped == Kept && served && !(spread && v.part(g) > 0) {
			switch {
			case weighted:
				c.Dropped = DropWeightless
			case last == g.cluster.Name:
				c.Dropped = DropOtherZone
			default:
				c.Dropped = DropFarther
			}
		}
		out = append(out, c)
		for i, e := range g.all.endpoints {
			line := Candidate{Cluster: c.Cluster, Endpoint: e.Label(), Dropped: c.Dropped, Weight: 1, Stats: e.Stats(a.Now)}
			if g.all.weights != nil {
				line.Weight = g.all.weights[i]
			}
			if l := e.learnt.Load(); e.Tag == "" && l != nil {
				line.Detail = "tag " + l.tag
			}
			if r := e.drains.Load(); r != nil {
				line.Detail += strings.TrimPrefix(draining(r.At(a.Now)), ", ")
			}
			if c.Dropped == Kept || c.Dropped == DropAllEndpoints {
				line.Dropped = verdicts[i]
			}
			out = append(out, line)
		}
		if c.Dropped == Kept {
			served, last = true, g.cluster.Name
			weighted = weighted || spread && c.Part > 0
		}
	}
	return out
}

func kept(in []Dropped) bool {
	for _, d := range in {
		if d == Kept {
			return true
		}
	}
	return false
}

// verdicts says of each endpoint of the group whether a choice in it would draw from it.
func (g *group) verdicts(a *Ask) []Dropped {
	out := make([]Dropped, len(g.all.endpoints))
	if g.table != nil && a.Hashed {
		chosen := (&chooser{group: g, ask: a}).hashed()
		for i, e := range g.all.endpoints {
			if out[i] = e.unwise(a); out[i] == Kept {
				out[i] = DropHash
			}
			if e == chosen {
				out[i] = Kept
			}
		}
		return out
	}
	in := make(map[*Endpoint]bool, len(g.pool.endpoints))
	any := false
	c := chooser{group: g, ask: a}
	for _, e := range g.pool.endpoints {
		in[e] = true
		any = any || c.admits(e, g.pool)
	}
	among := g.pool
	if !any {
		among, c.panics = g.all, unasked
	}
	for i, e := range g.all.endpoints {
		switch {
		case c.admits(e, among) && (in[e] || !any):
		case in[e] || !any:
			out[i] = e.unwise(a)
		default:
			out[i] = DropSubset
		}
	}
	return out
}

// algorithm says how a request would be given to an endpoint of the group.
func (v *View) algorithm(g *group, a *Ask) string {
	f := g.state.frame.Load().balancing
	how := string(v.Algorithm)
	if g.table != nil {
		kind := f.Table
		if kind == "" {
			kind = mesh.HashMaglev
		}
		if how += " (" + string(kind) + ")"; !a.Hashed {
			how += ", without a key " + string(mesh.AlgorithmPeakEWMA)
		}
	}
	if f.Warmup > 0 {
		how += fmt.Sprintf(", warm-up %s", f.Warmup)
	}
	if n := len(g.pool.endpoints); n < len(g.all.endpoints) {
		how += fmt.Sprintf(", %d of %d endpoints", n, len(g.all.endpoints))
	}
	return how
}

func (g *group) detail(now int64) string {
	where := ""
	if g.zone != "" {
		where = ", zone " + string(g.zone)
	}
	switch {
	case g.source.Forbidden != "":
		return g.source.Forbidden
	case g.local:
		return "own cluster" + where
	}
	return fmt.Sprintf("%s, rtt %s%s%s", g.cluster.Way(), g.cluster.RTT, where, g.age(now))
}

// age says in words how old what is known of the cluster is, and when a policy has enough; "" is heard.
func (g *group) age(now int64) string {
	if g.cluster.StaleSinceMillis == 0 {
		return ""
	}
	heard := time.UnixMilli(g.cluster.StaleSinceMillis)
	out := fmt.Sprintf(", last heard %s ago", time.Unix(0, now).Sub(heard).Round(time.Second))
	if g.staleFrom == 0 {
		return out
	}
	what := "the last resort"
	if g.excludes {
		what = "excluded"
	}
	return fmt.Sprintf("%s, %s after %s", out, what, time.Unix(0, g.staleFrom).Sub(heard))
}
