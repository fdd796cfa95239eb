package drain

import (
	"fmt"
	"slices"

	"github.com/isthmus-mesh/isthmus/control/load"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Plan is who would take over, and what stands against it.
type Plan struct {
	Target string `json:"target"`
	// Receivers are the clusters that would serve more, by service.
	Receivers []Receiver `json:"receivers,omitempty"`
	// Problems refuse a drain that is not forced.
	Problems []string `json:"problems,omitempty"`
	// Warnings are what is not known.
	Warnings []string `json:"warnings,omitempty"`
}

// Receiver is a cluster's part of a service. Rates are in requests a second.
type Receiver struct {
	Service string  `json:"service"`
	Cluster string  `json:"cluster"`
	Now     float64 `json:"requestsPerSecondNow"`
	Then    float64 `json:"requestsPerSecondThen"`
	// UtilisationNow and UtilisationThen are negative where they are not known.
	UtilisationNow  float64 `json:"utilisationNow"`
	UtilisationThen float64 `json:"utilisationThen"`
	// Source is who says what it can serve (mesh.CapacitySource).
	Source string `json:"capacitySource"`
}

// known checks that a target exists, as this cluster knows it.
func (k *Keeper) known(t mesh.DrainTarget) error {
	w := k.cfg.World()
	f, ok := w.Get(mesh.Key{Kind: mesh.KindCluster, Origin: k.cfg.Cluster, Name: string(t.Cluster)})
	if !ok {
		return fmt.Errorf("%w: cluster %s has not joined; see isthmus get clusters", ErrUnknown, t.Cluster)
	}
	c := f.Value.(*mesh.Cluster)
	switch {
	case t.Gateway > uint32(len(c.Gateways)):
		return fmt.Errorf("%w: cluster %s has %d gateways, counted from 0", ErrUnknown, t.Cluster, len(c.Gateways))
	case t.Zone != "" && t.Cluster == k.cfg.Cluster && !slices.Contains(c.Zones, t.Zone) && !k.hasZone(w, t.Zone):
		return fmt.Errorf("%w: nothing of cluster %s is in zone %s", ErrUnknown, t.Cluster, t.Zone)
	case t.Workload != "" && t.Cluster == k.cfg.Cluster:
		if _, ok := w.Get(mesh.Key{Kind: mesh.KindWorkload, Origin: t.Cluster, Namespace: t.Namespace, Name: t.Workload}); !ok {
			return fmt.Errorf("%w: cluster %s has no workload %s in namespace %s; see isthmus get workloads -A", ErrUnknown, t.Cluster, t.Workload, t.Namespace)
		}
	}
	return nil
}

func (k *Keeper) hasZone(w *world.World, z mesh.Zone) bool {
	for f := range w.All() {
		if v, ok := f.Value.(*mesh.Workload); ok && f.Origin == k.cfg.Cluster && v.Zone == z {
			return true
		}
	}
	return false
}

// loss is what the target is to the control loop.
func (k *Keeper) loss(t mesh.DrainTarget) load.Loss {
	l := load.Loss{Cluster: t.Cluster}
	switch {
	case t.Zone != "":
		l.Endpoint = func(_ mesh.ServiceName, e *ir.Endpoint) bool { return e.Zone == t.Zone }
	case t.Workload != "":
		tag := ""
		if f, ok := k.cfg.World().Get(mesh.Key{Kind: mesh.KindWorkload, Origin: t.Cluster, Namespace: t.Namespace, Name: t.Workload}); ok {
			tag = ir.EndpointTag(t.Cluster, t.Namespace, t.Workload, f.Value.(*mesh.Workload).Proxy)
		}
		l.Endpoint = func(s mesh.ServiceName, e *ir.Endpoint) bool { return s.Namespace == t.Namespace && e.Tag == tag }
	}
	return l
}

// Plan says who would take over, and changes nothing.
func (k *Keeper) Plan(t mesh.DrainTarget) (*Plan, error) {
	if err := k.known(t); err != nil {
		return nil, err
	}
	p := &Plan{Target: t.String()}
	if t.Gateway > 0 {
		k.planGateway(t, p)
		return p, nil
	}
	if t != (mesh.DrainTarget{Cluster: t.Cluster}) && t.Cluster != k.cfg.Cluster {
		p.Warnings = append(p.Warnings, fmt.Sprintf("what cluster %s would have left is not known in cluster %s; ask there", t.Cluster, k.cfg.Cluster))
		return p, nil
	}
	if k.cfg.Unheard != nil {
		for _, c := range k.cfg.Unheard() {
			p.Problems = append(p.Problems, fmt.Sprintf("the control plane of cluster %s is not heard, so that it is not known what is drained there: wait until isthmus status shows it in sync", c))
		}
	}
	quiet, loss := 0, k.loss(t)
	loss.All = true // proxies that are not back yet since a restart have asked for nothing
	for _, f := range k.cfg.Forecast(loss) {
		quiet += p.add(&f, t)
	}
	if quiet > 0 {
		p.Warnings = append(p.Warnings, fmt.Sprintf("of %d services that neither declare lanes nor report a load, and have met no limit, or were not asked for lately it is known that somebody else can serve them, not how much", quiet))
	}
	return p, nil
}

// planGateway refuses to close the only way in.
func (k *Keeper) planGateway(t mesh.DrainTarget, p *Plan) {
	f, _ := k.cfg.World().Get(mesh.Key{Kind: mesh.KindCluster, Origin: k.cfg.Cluster, Name: string(t.Cluster)})
	left := 0
	for i := range f.Value.(*mesh.Cluster).Gateways {
		other := mesh.DrainTarget{Cluster: t.Cluster, Gateway: uint32(i) + 1}
		if d := k.inForce(other); other != t && (d == nil || d.value.Goal != mesh.GoalDrained) {
			left++
		}
	}
	if left == 0 {
		p.Problems = append(p.Problems, fmt.Sprintf("it is the only gateway of cluster %s in use: drain the cluster", t.Cluster))
	}
}

// add takes in what becomes of a service, and returns 1 for one of which no more is known than that somebody is left.
func (p *Plan) add(f *load.Forecast, t mesh.DrainTarget) (quiet int) {
	if !f.Left {
		p.Problems = append(p.Problems, fmt.Sprintf("nobody else may or can serve %s", f.Service))
		return 0
	}
	known := false
	for _, c := range f.Clusters {
		known = known || c.Then > 0 && c.RhoThen >= 0
		gone := c.Cluster == t.Cluster && t == mesh.DrainTarget{Cluster: t.Cluster}
		if gone || c.Then <= c.Now*1.01+0.1 && (c.Cluster != t.Cluster || c.RhoNow < 0 || c.RhoThen <= c.RhoNow*1.01) {
			continue // it takes nothing over
		}
		p.Receivers = append(p.Receivers, Receiver{Service: f.Service.String(), Cluster: string(c.Cluster), Now: c.Now, Then: c.Then,
			UtilisationNow: c.RhoNow, UtilisationThen: c.RhoThen, Source: c.Source.String()})
		if c.RhoThen <= Full {
			continue
		}
		say := &p.Problems
		if c.Source == mesh.CapacityAssumed {
			say = &p.Warnings
		}
		*say = append(*say, fmt.Sprintf("%s in %s would be at %.0f%% of what it can serve%s, from %.0f%%: more than %.0f%%",
			f.Service, c.Cluster, 100*c.RhoThen, by(c.Source), 100*max(c.RhoNow, 0), 100*Full))
	}
	if !known {
		return 1
	}
	return 0
}

// by is who says what a cluster can serve, where that is not its owner.
func by(s mesh.CapacitySource) string {
	switch s {
	case mesh.CapacityReported:
		return ", as its applications report"
	case mesh.CapacityLearnt:
		return ", as was learnt when it was asked for more"
	case mesh.CapacityAssumed:
		return ", if its endpoints are as good as others"
	}
	return ""
}
