package compile

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
)

func name(c *derive.Ctx, k In) *ir.Name {
	if s := own[mesh.Service](c, mesh.KindService, k.Service.Namespace, k.Service.Name); s != nil {
		n := &ir.Name{Service: k.Service, Ports: portsOf(s.Ports)}
		if len(s.Addresses) > 0 {
			n.Address = s.Addresses[0]
		}
		return n
	}
	for _, r := range remotes(c, k.Service) {
		return &ir.Name{Service: k.Service, Ports: portsOf(r.value.Ports), Address: given(c, k.Service)}
	}
	return nil
}

func portsOf(ports []mesh.ServicePort) []ir.Port {
	out := make([]ir.Port, len(ports))
	for i, p := range ports {
		out[i] = ir.Port{Name: p.Name, Port: p.Port, Protocol: p.Protocol}
	}
	return out
}

// remote is what a peer exports of a service.
type remote struct {
	origin mesh.ClusterName
	value  *mesh.RemoteService
}

// remotes lists the peers that export a service to this cluster, by name.
func remotes(c *derive.Ctx, s mesh.ServiceName) []remote {
	var out []remote
	for _, k := range world.Index.Get(c, world.Named(mesh.KindRemoteService, s.Namespace, s.Name)) {
		if f, ok := world.Facts.Get(c, k); ok && clusterNamed(c, k.Origin) != nil {
			out = append(out, remote{k.Origin, f.Value.(*mesh.RemoteService)})
		}
	}
	return out
}

// endpoints lists the groups of a service: this cluster's, then each exporting
// peer's. A peer that cannot be reached keeps its group; that it weighs 0 is said by its
// ir.Cluster.
func endpoints(c *derive.Ctx, k In) *ir.Endpoints {
	e := &ir.Endpoints{Service: k.Service}
	if own[mesh.Service](c, mesh.KindService, k.Service.Namespace, k.Service.Name) != nil {
		e.Groups = append(e.Groups, localGroup(c, k))
	}
	for _, r := range remotes(c, k.Service) {
		e.Groups = append(e.Groups, ir.Group{
			Cluster: r.origin, Exported: true, Identities: r.value.Identities, Slots: r.value.Moved, Lanes: r.value.Lanes,
			Endpoints: remoteEndpoints(r.value.Endpoints), Draining: r.value.Draining,
			Forbidden: forbidden(c, k.Service, r.origin, k.View.Cluster),
		})
	}
	if len(e.Groups) == 0 {
		return nil
	}
	e.Transit = transit(c, k.Service)
	slices.SortFunc(e.Groups, func(a, b ir.Group) int { return cmp.Compare(a.Cluster, b.Cluster) })
	return e
}

func localGroup(c *derive.Ctx, k In) ir.Group {
	g := ir.Group{Cluster: k.View.Cluster, Exported: exported.Get(c, k.Service),
		Forbidden: forbidden(c, k.Service, k.View.Cluster, k.View.Cluster)}
	for _, e := range serving.Get(c, k.Service) {
		g.Endpoints = append(g.Endpoints, ir.Endpoint{Tag: e.tag, Proxy: e.proxy, Zone: e.zone, Weight: e.weight, Lanes: e.lanes, Drains: workloadDrains(c, k.View.Cluster, k.Service.Namespace, e)})
		g.Lanes += e.lanes
	}
	g.Identities = identitiesOf.Get(c, k.Service)
	return g
}

func remoteEndpoints(in []mesh.RemoteEndpoint) []ir.Endpoint {
	var out []ir.Endpoint
	for _, e := range in {
		out = append(out, ir.Endpoint{Tag: e.Tag, Proxy: e.Proxy, Zone: e.Zone, Weight: max(e.Weight, 1), Lanes: e.Lanes, Drains: e.Drains})
	}
	return out
}

// exported reports whether this cluster exports a service.
var exported = derive.NewFunc("exported", derive.Same[bool], func(c *derive.Ctx, s mesh.ServiceName) bool {
	return own[mesh.ServiceExport](c, mesh.KindServiceExport, s.Namespace, s.Name) != nil
})

// local is one workload of this cluster that serves a service.
type local struct {
	workload string
	account  string
	tag      string
	proxy    netip.AddrPort
	zone     mesh.Zone
	weight   uint32
	lanes    uint32
}

// serving lists the ready workloads of a service in this cluster that have a proxy,
// by name.
var serving = derive.NewFunc("serving", slices.Equal[[]local], func(c *derive.Ctx, s mesh.ServiceName) []local {
	self := world.Self.Get(c, struct{}{})
	var out []local
	for _, w := range members(c, s) {
		if w.Unready || !w.Proxy.IsValid() {
			continue
		}
		out = append(out, local{workload: w.Name, account: w.ServiceAccount, tag: ir.EndpointTag(self, w.Namespace, w.Name, w.Proxy), proxy: w.Proxy, zone: w.Zone,
			weight: max(w.Weight, 1), lanes: w.Lanes})
	}
	return out
})

// members lists the workloads of a service: those its selector picks, and those its
// EndpointSlices name.
func members(c *derive.Ctx, s mesh.ServiceName) []*mesh.Workload {
	svc := own[mesh.Service](c, mesh.KindService, s.Namespace, s.Name)
	if svc == nil {
		return nil
	}
	var out []*mesh.Workload
	if first, ok := world.FirstPair(svc.Selector); ok {
		for _, k := range world.Index.Get(c, world.Labelled(mesh.KindWorkload, s.Namespace, first, svc.Selector[first])) {
			if f, ok := world.Facts.Get(c, k); ok && selects(svc.Selector, f.Value.(*mesh.Workload).Labels) {
				out = append(out, f.Value.(*mesh.Workload))
			}
		}
	}
	for _, k := range world.Index.Get(c, world.SlicesOf(s)) {
		f, ok := world.Facts.Get(c, k)
		if !ok {
			continue
		}
		for _, e := range f.Value.(*mesh.EndpointSlice).Endpoints {
			w := own[mesh.Workload](c, mesh.KindWorkload, s.Namespace, e.Workload)
			if w != nil && e.Ready && !slices.Contains(out, w) {
				out = append(out, w)
			}
		}
	}
	slices.SortFunc(out, func(a, b *mesh.Workload) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// identitiesOf lists the identities that may serve a service in this cluster, those
// of all its workloads, ready or not, so that a restart changes nothing.
var identitiesOf = derive.NewFunc("identities", slices.Equal[[]mesh.Identity], func(c *derive.Ctx, s mesh.ServiceName) []mesh.Identity {
	cl := ownCluster(c)
	if cl == nil {
		return nil
	}
	var out []mesh.Identity
	for _, w := range members(c, s) {
		id := mesh.Identity{TrustDomain: cl.TrustDomain, Namespace: w.Namespace, ServiceAccount: w.ServiceAccount}
		if !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	slices.SortFunc(out, mesh.Identity.Compare)
	return out
})

// ready is what the slot table of a service must cover. Where no peer is told of slots, it has none to keep.
func ready(c *derive.Ctx, s mesh.ServiceName) *[]netip.AddrPort {
	exp := own[mesh.ServiceExport](c, mesh.KindServiceExport, s.Namespace, s.Name)
	if exp == nil || own[mesh.Service](c, mesh.KindService, s.Namespace, s.Name) == nil || !slices.ContainsFunc(apart.Get(c, struct{}{}), exp.For) {
		return nil
	}
	out := []netip.AddrPort{}
	for _, e := range serving.Get(c, s) {
		out = append(out, e.proxy)
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return &out
}

// apart lists the clusters of other networks, which are told of slots and not of addresses, by name.
var apart = derive.NewFunc("apart", slices.Equal[[]mesh.ClusterName], func(c *derive.Ctx, _ struct{}) []mesh.ClusterName {
	self := ownCluster(c)
	if self == nil {
		return nil
	}
	var out []mesh.ClusterName
	for _, k := range world.Index.Get(c, world.Small(mesh.KindCluster)) {
		if cl := clusterNamed(c, mesh.ClusterName(k.Name)); k.Origin == world.Self.Get(c, struct{}{}) && cl != nil && cl.Network != self.Network {
			out = append(out, cl.Name)
		}
	}
	slices.Sort(out)
	return out
})

func slots(c *derive.Ctx, s mesh.ServiceName) *ir.Slots {
	t, cl := slotTable(c, s), ownCluster(c)
	if t == nil || cl == nil {
		return nil
	}
	return &ir.Slots{Table: *t, TrustDomain: cl.TrustDomain}
}

// slotTable is the table in force of an exported service.
func slotTable(c *derive.Ctx, s mesh.ServiceName) *mesh.SlotTable {
	if !exported.Get(c, s) || own[mesh.Service](c, mesh.KindService, s.Namespace, s.Name) == nil {
		return nil
	}
	return own[mesh.SlotTable](c, mesh.KindSlotTable, s.Namespace, s.Name)
}

// Export names what is told of a service to a peer.
type Export struct {
	Service mesh.ServiceName
	Peer    mesh.ClusterName
}

// String is "namespace/name to cluster".
func (k Export) String() string { return k.Service.String() + " to " + string(k.Peer) }

// export tells a peer of a service when the export's consumers and the law on residency
// let it know at all: slots across networks, addresses inside one.
func export(c *derive.Ctx, k Export) *mesh.RemoteService {
	svc := own[mesh.Service](c, mesh.KindService, k.Service.Namespace, k.Service.Name)
	exp := own[mesh.ServiceExport](c, mesh.KindServiceExport, k.Service.Namespace, k.Service.Name)
	peer, self := clusterNamed(c, k.Peer), ownCluster(c)
	if svc == nil || exp == nil || peer == nil || self == nil ||
		!exp.For(k.Peer) ||
		forbidden(c, k.Service, k.Peer, self.Name) != "" {
		return nil
	}
	r := &mesh.RemoteService{ServiceName: k.Service, Ports: svc.Ports, Identities: identitiesOf.Get(c, k.Service)}
	for _, e := range serving.Get(c, k.Service) {
		r.Lanes += e.lanes
		if peer.Network == self.Network {
			r.Endpoints = append(r.Endpoints, mesh.RemoteEndpoint{Tag: e.tag, Proxy: e.proxy, Zone: e.zone, Lanes: e.lanes, Weight: e.weight,
				Drains: workloadDrains(c, self.Name, k.Service.Namespace, e)})
		}
	}
	if peer.Network != self.Network {
		if t := slotTable(c, k.Service); t != nil {
			r.Slots, r.SlotGeneration, r.Moved = uint32(len(t.Slots)), t.Generation, t.Moved
			r.Draining = slotDrains(c, self.Name, k.Service, t)
		}
	}
	return r
}

func cluster(c *derive.Ctx, n mesh.ClusterName) *ir.Cluster {
	out := direct(c, n)
	if reach := own[mesh.Reach](c, mesh.KindReach, "", string(n)); out != nil && reach != nil && !reach.State.Usable() && reach.Via != n {
		out.Via = via(c, reach)
	}
	return out
}

// via is the way to a cluster through a third; nil if there is none to that one.
func via(c *derive.Ctx, r *mesh.Reach) *ir.Via {
	if r.Via == "" || r.Via == world.Self.Get(c, struct{}{}) {
		return nil
	}
	by := direct(c, r.Via)
	if by == nil || by.NoTransit || !by.Reach.Usable() || len(by.Gateways) == 0 {
		return nil
	}
	return &ir.Via{Cluster: by.Name, Jurisdiction: by.Jurisdiction, TrustDomain: by.TrustDomain, Gateways: by.Gateways, RTT: r.ViaRTT}
}

// direct is a cluster by its own gateways.
func direct(c *derive.Ctx, n mesh.ClusterName) *ir.Cluster {
	v := clusterNamed(c, n)
	if v == nil {
		return nil
	}
	out := &ir.Cluster{Name: v.Name, Region: v.Region, Jurisdiction: v.Jurisdiction, Network: v.Network,
		TrustDomain: v.TrustDomain, RTT: v.RTT, Gateways: v.Gateways, Ingresses: v.Ingresses, NoTransit: v.NoTransit, Drains: drains.Get(c, mesh.DrainTarget{Cluster: n})}
	if reach := own[mesh.Reach](c, mesh.KindReach, "", string(n)); reach != nil {
		out.Reach, out.StaleSinceMillis = reach.State, reach.StaleSinceMillis
		if reach.RTT > 0 {
			out.RTT = reach.RTT
		}
		// Those that leave are no way in any more, unless there is no other.
		stay := slices.DeleteFunc(slices.Clone(v.Gateways), func(a netip.AddrPort) bool { return slices.Contains(reach.Leaving, a) })
		if len(stay) > 0 {
			out.Gateways = stay
		}
	}
	if in := own[mesh.Ingress](c, mesh.KindIngress, "", string(n)); in != nil {
		out.Unserved = in.Unserved
	}
	out.Gateways = undrained(c, n, v.Gateways, out.Gateways)
	return out
}

// bundle is what the trust domain's own cluster says, else what this cluster was
// told when the peer joined. Nobody else's word counts.
func bundle(c *derive.Ctx, t mesh.TrustDomain) *mesh.Bundle {
	var best *mesh.Bundle
	self := world.Self.Get(c, struct{}{})
	for _, k := range world.Index.Get(c, world.Named(mesh.KindBundle, "", string(t))) {
		if k.Origin != t.Cluster() && k.Origin != self {
			continue
		}
		f, ok := world.Facts.Get(c, k)
		if !ok {
			continue
		}
		b := f.Value.(*mesh.Bundle)
		if b.TrustDomain == t && (best == nil || b.Generation > best.Generation || b.Generation == best.Generation && k.Origin == t.Cluster()) {
			best = b
		}
	}
	if best == nil { // not heard yet: what it was when it joined
		if cl := clusterNamed(c, t.Cluster()); cl != nil && cl.TrustDomain == t && len(cl.Roots) > 0 {
			best = &mesh.Bundle{TrustDomain: t, Roots: cl.Roots}
		}
	}
	return best
}

// ProxyKey names a proxy: its ID is "namespace/workload".
type ProxyKey struct {
	ID       string
	Identity mesh.Identity
	View     ir.View
}

// String is the proxy's ID.
func (k ProxyKey) String() string { return k.ID }

func proxy(c *derive.Ctx, k ProxyKey) *ir.Proxy {
	set := settings.Get(c, struct{}{})
	p := &ir.Proxy{ID: k.ID, Identity: k.Identity, Locality: mesh.Locality{Cluster: k.View.Cluster},
		OutboundAllowAny: set.OutboundAllowAny, Domain: set.Domain, Telemetry: telemetryOf.Get(c, k.Identity.Namespace)}
	if cl := clusterNamed(c, k.View.Cluster); cl != nil {
		p.Locality.Region = cl.Region
	}
	id, err := mesh.ParseServiceName(k.ID)
	if err != nil {
		return p
	}
	w := own[mesh.Workload](c, mesh.KindWorkload, id.Namespace, id.Name)
	if w == nil || w.Namespace != k.Identity.Namespace || w.ServiceAccount != k.Identity.ServiceAccount {
		return p // an identity serves only as a workload of its own account
	}
	p.Locality.Zone, p.Lanes = w.Zone, w.Lanes
	for _, s := range servicesOf(c, w) {
		in := ir.Inbound{Service: s.ServiceName}
		for _, port := range s.Ports {
			if t, ok := targetPort(port, w); ok {
				in.Ports = append(in.Ports, inboundPort(c, s.ServiceName, port, netip.AddrPortFrom(w.Address, t)))
			}
		}
		p.Inbound = append(p.Inbound, in)
	}
	return p
}

// servicesOf lists the services of this cluster whose selector picks w, by name.
func servicesOf(c *derive.Ctx, w *mesh.Workload) []*mesh.Service {
	var out []*mesh.Service
	for key, value := range w.Labels {
		for _, k := range world.Index.Get(c, world.Labelled(mesh.KindService, w.Namespace, key, value)) {
			if f, ok := world.Facts.Get(c, k); ok && k.Origin == world.Self.Get(c, struct{}{}) && selects(f.Value.(*mesh.Service).Selector, w.Labels) {
				out = append(out, f.Value.(*mesh.Service))
			}
		}
	}
	slices.SortFunc(out, func(a, b *mesh.Service) int { return a.ServiceName.Compare(b.ServiceName) })
	return out
}

func targetPort(p mesh.ServicePort, w *mesh.Workload) (uint16, bool) {
	if p.TargetName != "" {
		n, ok := w.Ports[p.TargetName]
		return n, ok
	}
	if p.TargetPort != 0 {
		return p.TargetPort, true
	}
	return p.Port, true
}
