package load

import (
	"math"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Loss is what is to be taken away: a cluster, or some of the endpoints of this one.
type Loss struct {
	Cluster mesh.ClusterName
	// Endpoint reports whether one of this cluster's goes; nil is the whole cluster.
	Endpoint func(mesh.ServiceName, *ir.Endpoint) bool
	// All asks also of services that no proxy here uses, or none has asked for since this control plane was started: of
	// them only who is left is known.
	All bool
}

// Forecast is what becomes of a service when something is taken away.
type Forecast struct {
	Service mesh.ServiceName
	// Served is what the place that goes serves now, in requests a second, as far as is known.
	Served float64
	// Left says that somebody can serve it then.
	Left     bool
	Clusters []ClusterForecast
}

// ClusterForecast is a cluster's part. Rates are in requests a second; a utilisation that is not known is negative.
type ClusterForecast struct {
	Cluster   mesh.ClusterName
	Now, Then float64
	// RhoNow and RhoThen are utilisations: of what it has now, and of what is left.
	RhoNow, RhoThen float64
	// Source is who says what it bears.
	Source mesh.CapacitySource
}

// Forecast says, of each service that would lose something, who would serve what. It knows of services what the control loop knows, and
// changes nothing. Of a service of which nobody says what it bears, or nobody has asked for, only who is left is known.
func (l *Driver) Forecast(loss Loss) []Forecast {
	l.know() // whoever has just started is asked too
	var all []*ir.Endpoints
	if loss.All && l.cfg.Services != nil {
		all = l.cfg.Services()
	}
	return l.balancer.Forecast(loss, all, l.cfg.Paths(), l.cfg.Clock.Now())
}

// Forecast is Driver.Forecast, by a clock that is given. Of all, those that the loop does not know are added.
func (b *Balancer) Forecast(loss Loss, all []*ir.Endpoints, paths []split.Path, now time.Time) []Forecast {
	b.mu.Lock()
	defer b.mu.Unlock()
	own := newPeer(without(paths, loss), now)
	var out []Forecast
	for n, s := range b.services {
		if f, ok := b.forecast(n, s, loss, own, now); ok {
			out = append(out, f)
		}
	}
	for _, e := range all {
		if s := b.services[e.Service]; s == nil || s.endpoints == nil {
			if _, goes, left := b.left(e, loss, own, now); goes {
				out = append(out, Forecast{Service: e.Service, Left: left})
			}
		}
	}
	slices.SortFunc(out, func(a, b Forecast) int { return a.Service.Compare(b.Service) })
	return out
}

// left is the part of its cluster's capacity that a service keeps, whether anything of it goes, and whether anybody can serve
// it then.
func (b *Balancer) left(e *ir.Endpoints, loss Loss, own *peer, now time.Time) (kept float64, goes, left bool) {
	for i := range e.Groups {
		g := &e.Groups[i]
		if g.Cluster == loss.Cluster {
			kept, goes = loss.of(e.Service, g, now)
			left = left || kept > 0
		} else if g.Forbidden == "" && g.Exported && len(g.Endpoints)+len(g.Slots) > 0 && (!own.paths[g.Cluster].Dead || b.passes(e, own.paths[g.Cluster])) {
			left = left || b.drained[g.Cluster] > 0 || !b.isDrained(g.Cluster)
		}
	}
	return kept, goes, left
}

func (b *Balancer) forecast(n mesh.ServiceName, s *service, loss Loss, own *peer, now time.Time) (Forecast, bool) {
	f := Forecast{Service: n}
	if s.endpoints == nil {
		return f, false
	}
	kept, goes, left := b.left(s.endpoints, loss, own, now)
	if f.Left = left; !goes {
		return f, false
	}
	in, _ := b.pose(n, s, own, Every, now)
	before := make([]float64, len(in.Reports))
	for i := range in.Reports {
		r := &in.Reports[i]
		before[i] = r.Capacity
		if r.Cluster == loss.Cluster {
			f.Served = r.Rate
			r.Capacity *= kept
			r.Draining = 0
		}
	}
	then := split.Foresee(split.State{}, in, split.Question{}).Load
	for i := range in.Reports {
		r := &in.Reports[i]
		if r.Age < 0 {
			continue
		}
		f.Clusters = append(f.Clusters, ClusterForecast{Cluster: r.Cluster, Now: r.Rate, Then: then[i],
			RhoNow: over(r.Rate, before[i]), RhoThen: over(then[i], r.Capacity), Source: r.Source})
	}
	return f, true
}

// isDrained reports whether a cluster is being drained.
func (b *Balancer) isDrained(n mesh.ClusterName) bool {
	_, ok := b.drained[n]
	return ok
}

// over is a utilisation; negative where the capacity is not known.
func over(rate, capacity float64) float64 {
	switch {
	case capacity > 0:
		return rate / capacity
	case rate < 1e-9:
		return 0
	}
	return -1
}

// of is the part of a group's capacity that is kept of what it has now, and whether anything goes.
func (l Loss) of(n mesh.ServiceName, g *ir.Group, now time.Time) (kept float64, goes bool) {
	if l.Endpoint == nil {
		return 0, len(g.Endpoints)+len(g.Slots) > 0
	}
	has, keeps := 0.0, 0.0
	for i := range g.Endpoints {
		e := &g.Endpoints[i]
		part := e.Drains.At(now.UnixNano()) * float64(max(e.Lanes, 1))
		has += part
		if l.Endpoint(n, e) {
			goes = true
		} else {
			keeps += part
		}
	}
	if has <= 0 {
		return 0, goes
	}
	return math.Min(1, keeps/has), goes
}

// ready counts this cluster's endpoints, and their lanes where all declare them; of those that are drained, the part that
// is left.
func (s *service) ready(now time.Time) (n, declared float64) {
	if s.endpoints == nil {
		return 0, 0
	}
	for _, g := range s.endpoints.Groups {
		if g.Cluster != s.own.Cluster {
			continue
		}
		known := true
		for _, e := range g.Endpoints {
			part := e.Drains.At(now.UnixNano())
			n += part
			declared += part * float64(e.Lanes)
			known = known && e.Lanes > 0
		}
		if !known {
			return n, 0
		}
	}
	return n, declared
}
