package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/dataplane/quarantine"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
	"github.com/isthmus-mesh/isthmus/xds"
)

// store holds what the control plane said and makes States of it. It implements
// xds.Handler.
type store struct {
	cfg    *Config
	source *trust.Source
	log    *slog.Logger
	now    func() time.Time
	// want asks for resources on first use.
	want func(typ ir.Type, names ...string)
	// dirty is told that a snapshot is due, and ejected that an endpoint was taken out.
	dirty, ejected func()
	// served is told what the workload serves.
	served func([]ir.Inbound)

	state atomic.Pointer[proxy.State]

	mu sync.Mutex
	// raw is every resource as it came, for the snapshot, by type and name.
	raw map[ir.Type]map[string]xds.Resource
	// told says which names have been answered, whether they exist or not.
	told map[ir.Type]map[string]bool
	// refused says why names that were told of cannot be used, where no good version is in
	// force.
	refused map[ir.Type]map[string]error
	// complete says which whole types have arrived.
	complete map[ir.Type]bool
	asked    map[mesh.ServiceName]bool

	names     map[mesh.ServiceName]*ir.Name
	services  map[mesh.ServiceName]*ir.Service
	endpoints map[mesh.ServiceName]*ir.Endpoints
	clusters  map[mesh.ClusterName]*ir.Cluster
	access    map[mesh.ServiceName]*proxy.Access
	slots     map[mesh.ServiceName]*ir.Slots
	splits    map[mesh.ServiceName]*spread
	bundles   map[mesh.TrustDomain]*mesh.Bundle
	gateways  *gateways
	self      *ir.Proxy
	vector    mesh.Vector
	// clustersSeen grows with every change of clusters; built is what was made of what.
	clustersSeen uint64
	built        map[mesh.ServiceName]built
	ledger       *quarantine.Ledger
	// restored says that the state came from a snapshot: it was complete when it was written.
	restored bool

	changed chan struct{} // closed when state changes
}

func newStore(cfg *Config, source *trust.Source, now func() time.Time, log *slog.Logger) *store {
	s := &store{cfg: cfg, source: source, log: log, now: now, want: func(ir.Type, ...string) {}, dirty: func() {}, served: func([]ir.Inbound) {},
		raw: map[ir.Type]map[string]xds.Resource{}, told: map[ir.Type]map[string]bool{}, complete: map[ir.Type]bool{},
		asked: map[mesh.ServiceName]bool{}, names: map[mesh.ServiceName]*ir.Name{}, services: map[mesh.ServiceName]*ir.Service{},
		endpoints: map[mesh.ServiceName]*ir.Endpoints{}, clusters: map[mesh.ClusterName]*ir.Cluster{},
		access: map[mesh.ServiceName]*proxy.Access{}, slots: map[mesh.ServiceName]*ir.Slots{}, splits: map[mesh.ServiceName]*spread{},
		refused: map[ir.Type]map[string]error{}, built: map[mesh.ServiceName]built{},
		bundles: map[mesh.TrustDomain]*mesh.Bundle{}, vector: mesh.Vector{}, gateways: newGateways(cfg, log), changed: make(chan struct{})}
	s.state.Store(&proxy.State{})
	return s
}

// Apply takes a batch. A resource that cannot be used is rejected alone, and the last
// good one of its name stays in force.
func (s *store) Apply(b xds.Batch) map[string]error {
	s.mu.Lock()
	defer s.mu.Unlock()
	rejected := map[string]error{}
	t := ir.Type(b.Type)
	if s.raw[t] == nil {
		s.raw[t], s.told[t], s.refused[t] = map[string]xds.Resource{}, map[string]bool{}, map[string]error{}
	}
	s.note(t, b.Resources)
	for _, r := range b.Resources {
		if err := s.take(t, &r); err != nil {
			rejected[r.Name] = err
			if _, good := s.raw[t][r.Name]; !good {
				s.refused[t][r.Name] = err
			}
			s.log.Warn("a resource was rejected; the last good one stays in force", "type", b.Type, "name", r.Name, "error", err)
			continue
		}
		s.raw[t][r.Name], s.told[t][r.Name] = r, true
		delete(s.refused[t], r.Name)
	}
	for _, name := range b.Removed {
		delete(s.raw[t], name)
		delete(s.refused[t], name)
		s.told[t][name] = true
		s.remove(t, name)
	}
	if b.Complete {
		s.complete[t] = true
	}
	s.vector.Merge(b.Vector)
	if t == ir.TypeSplit { // of views that stand; it comes twice a second
		return rejected
	}
	s.prefetch()
	s.build()
	s.dirty()
	return rejected
}

// put takes one resource in. The caller holds mu.
func (s *store) put(name string, v any) error {
	switch v := v.(type) {
	case *ir.Name:
		s.names[v.Service] = v
	case *ir.Service:
		if _, err := proxy.NewService(v, nil, nil); err != nil {
			return err
		}
		if _, err := proxy.NewInbound(&ir.Inbound{Service: v.Name}, nil, &v.Traffic, nil); err != nil {
			return err
		}
		s.services[v.Name] = v
	case *ir.Endpoints:
		s.endpoints[v.Service] = v
	case *ir.Cluster:
		s.clusters[v.Name] = v
		s.clustersSeen++
	case *ir.Access:
		s.access[v.Service] = proxy.NewAccess(v, s.cfg.Cluster)
	case *ir.Slots:
		s.slots[v.Table.Service] = v
	case *ir.Gateway:
		return s.gateways.put(name, v)
	case *mesh.Split:
		s.spread(v.Service, &spread{shares: v.Shares, at: s.now().UnixNano()})
	case *ir.Proxy:
		if v.ID != s.cfg.ID {
			return fmt.Errorf("it is of proxy %s", v.ID)
		}
		s.self = v
		for _, in := range v.Inbound {
			s.want(ir.TypeAccess, in.Service.String())
			s.want(ir.TypeService, in.Service.String()) // its limits are kept here
		}
	case *mesh.Bundle:
		if string(v.TrustDomain) != name {
			return fmt.Errorf("it is of trust domain %s", v.TrustDomain)
		}
		return s.believe(v)
	}
	return nil
}

// believe puts a bundle in force: one before the one in force is a rollback and refused.
func (s *store) believe(b *mesh.Bundle) error {
	known := s.source.Current().Bundles
	if known == nil {
		known = new(trust.Bundles)
	}
	next, err := known.With(*b)
	if err != nil {
		return err
	}
	s.bundles[b.TrustDomain] = b
	return s.source.Update(nil, next)
}

// remove takes one resource out. The caller holds mu.
func (s *store) remove(t ir.Type, name string) {
	n, _ := mesh.ParseServiceName(name)
	switch t {
	case ir.TypeName:
		delete(s.names, n)
	case ir.TypeService:
		delete(s.services, n)
	case ir.TypeEndpoints:
		delete(s.endpoints, n)
	case ir.TypeCluster:
		delete(s.clusters, mesh.ClusterName(name))
		s.clustersSeen++
	case ir.TypeAccess:
		delete(s.access, n)
	case ir.TypeSlots:
		delete(s.slots, n)
	case ir.TypeGateway:
		s.gateways.remove(name)
	case ir.TypeSplit:
		s.spread(n, nil)
	case ir.TypeProxy:
		s.self = nil
	case ir.TypeBundle:
		td := mesh.TrustDomain(name)
		delete(s.bundles, td)
		if known := s.source.Current().Bundles; known != nil {
			if err := s.source.Update(nil, known.Without(td)); err != nil {
				s.log.Error("a trust domain could not be dropped", "trustDomain", name, "error", err)
			}
		}
	}
}

// prefetch asks for the services that fit the allowance, in order of name, and for what
// routes refer to. The caller holds mu.
func (s *store) prefetch() {
	if s.cfg.Mode == ModeGateway {
		return
	}
	left := s.cfg.Prefetch - len(s.asked)
	if left > 0 && len(s.asked) < len(s.names) {
		for _, n := range slices.SortedFunc(maps.Keys(s.names), mesh.ServiceName.Compare) {
			if left > 0 && s.ask(n) {
				left--
			}
		}
	}
	for n, svc := range s.services {
		if !s.asked[n] {
			continue // it is served here, and not called
		}
		for _, n := range svc.Refers() {
			s.ask(n)
		}
	}
	for _, svc := range s.gateways.tables.Services() {
		for _, n := range svc.Refers() {
			s.ask(n)
		}
	}
}

// ask subscribes to a service; false if that was done before. The caller holds mu.
func (s *store) ask(n mesh.ServiceName) bool {
	if s.asked[n] {
		return false
	}
	s.asked[n] = true
	s.want(ir.TypeEndpoints, n.String())
	s.want(ir.TypeService, n.String())
	s.want(ir.TypeSplit, n.String())
	return true
}

// answered reports whether a service and its endpoints have been spoken of.
func (s *store) answered(n mesh.ServiceName) bool {
	return s.spoken(ir.TypeService, n) && s.spoken(ir.TypeEndpoints, n)
}

func (s *store) spoken(t ir.Type, n mesh.ServiceName) bool {
	return s.told[t][n.String()] || s.refused[t][n.String()] != nil
}

// unusable says why a service that was spoken of cannot be used.
func (s *store) unusable(n mesh.ServiceName) error {
	return errors.Join(s.refused[ir.TypeService][n.String()], s.refused[ir.TypeEndpoints][n.String()])
}

// build makes the next State. The caller holds mu.
func (s *store) build() {
	old := s.state.Load()
	next := &proxy.State{Self: s.self, Names: maps.Clone(s.names), Clusters: maps.Clone(s.clusters), Slots: maps.Clone(s.slots),
		ByAddress: map[netip.Addr]mesh.ServiceName{}, Services: map[mesh.ServiceName]*proxy.Service{},
		Inbound: map[mesh.ServiceName]*proxy.Inbound{}, Vector: s.vector.Clone()}
	for n, v := range s.names { // an address is one service's: while two state it, the first by name has it
		if other, taken := next.ByAddress[v.Address]; v.Address.IsValid() && (!taken || n.Compare(other) < 0) {
			next.ByAddress[v.Address] = n
		}
	}
	for n, svc := range s.services {
		if built := s.service(n, svc, old); built != nil {
			next.Services[n] = built
		}
	}
	if s.cfg.Mode == ModeIngress {
		next.Ingress = s.gateways.tables
		maps.Copy(next.Services, s.gateways.services)
	}
	if s.self != nil {
		s.served(s.self.Inbound) // before requests know of it
		for _, in := range s.self.Inbound {
			next.Inbound[in.Service] = s.inbound(&in, old.Inbound[in.Service])
			next.Inbound[in.Service].Gate.SetLanes(int(s.self.Lanes))
		}
	}
	next.Ready = old.Ready || s.ready(next)
	s.state.Store(next)
	close(s.changed)
	s.changed = make(chan struct{})
}

// change is closed when the state changes. Take it before the state is read.
func (s *store) change() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// inbound builds one service that is served here. A policy that cannot be built has been
// refused by put; should it come all the same, access is not left to what it was before.
func (s *store) inbound(in *ir.Inbound, prev *proxy.Inbound) *proxy.Inbound {
	var traffic *ir.Traffic
	if svc := s.services[in.Service]; svc != nil {
		traffic = &svc.Traffic
	}
	if slices.ContainsFunc(in.Ports, s.cfg.owns) {
		if prev == nil {
			s.log.Error("a service's target is a port of this proxy itself, which nothing is carried to", "service", in.Service.String())
		}
		in = &ir.Inbound{Service: in.Service, Ports: slices.DeleteFunc(slices.Clone(in.Ports), s.cfg.owns)}
	}
	out, err := proxy.NewInbound(in, s.access[in.Service], traffic, prev)
	if err != nil {
		s.log.Error("the traffic policy of a service that was accepted cannot be built", "service", in.Service.String(), "error", err)
		out, _ = proxy.NewInbound(in, s.access[in.Service], nil, prev)
	}
	return out
}

// built is a service with what it was made of: the same again is not made again, which
// keeps a change's cost to what it changes.
type built struct {
	service   *ir.Service
	endpoints *ir.Endpoints
	clusters  uint64
	zone      mesh.Zone
	made      *proxy.Service
}

// service builds one service, or keeps the one in force while something that the new one
// refers to is still on its way.
func (s *store) service(n mesh.ServiceName, svc *ir.Service, old *proxy.State) *proxy.Service {
	prev, eps := old.Services[n], s.endpoints[n]
	zone := s.zone()
	if b, ok := s.built[n]; ok && b.service == svc && b.endpoints == eps && b.clusters == s.clustersSeen && b.zone == zone {
		return b.made
	}
	if !s.whole(n, svc, eps) {
		return prev
	}
	var before, view *balance.View
	if prev != nil {
		before = prev.View
	}
	if eps != nil {
		view = balance.NewView(balance.Config{Prev: before, Endpoints: eps, Clusters: func(c mesh.ClusterName) *ir.Cluster { return s.clusters[c] },
			Cluster: s.cfg.Cluster, Proxy: s.cfg.ID, Zone: zone, Strategy: svc.Traffic.Strategy, Distribution: svc.Traffic.Distribution, Staleness: svc.Traffic.Staleness, Balancing: svc.Traffic.Balancing, Outlier: svc.Traffic.Outlier, Sessions: hasSessions(svc), Ejected: s.ejected, Now: s.now().UnixNano()})
	}
	if split := s.splits[n]; split != nil && view != nil && before == nil {
		split.apply(view)
	}
	out, err := proxy.NewService(svc, view, prev)
	if err != nil {
		s.log.Error("a service that was accepted cannot be built", "service", n.String(), "error", err)
		return prev
	}
	s.built[n] = built{svc, eps, s.clustersSeen, zone, out}
	return out
}

// zone is the proxy's own: as its workload's object says, else as it was started.
func (s *store) zone() mesh.Zone {
	if s.self != nil && s.self.Locality.Zone != "" {
		return s.self.Locality.Zone
	}
	return s.cfg.Zone
}

// hasSessions reports whether a service keeps sessions with endpoints.
func hasSessions(svc *ir.Service) bool {
	return svc.Traffic.Affinity != nil || slices.ContainsFunc(svc.Routes, func(r ir.Route) bool { return r.Affinity != nil })
}

// whole reports whether everything that a service refers to has been spoken of.
func (s *store) whole(n mesh.ServiceName, svc *ir.Service, eps *ir.Endpoints) bool {
	if !s.answered(n) {
		return false
	}
	for _, b := range svc.Refers() {
		if !s.answered(b) {
			return false
		}
	}
	if eps != nil && !s.complete[ir.TypeCluster] {
		for _, g := range eps.Groups {
			if s.clusters[g.Cluster] == nil {
				return false
			}
		}
	}
	return true
}

// ready says whether the state is a complete configuration.
func (s *store) ready(next *proxy.State) bool {
	if s.self == nil || !s.complete[ir.TypeName] || !s.complete[ir.TypeCluster] || !s.complete[ir.TypeBundle] {
		return false
	}
	switch {
	case s.cfg.Mode == ModeGateway:
		return s.complete[ir.TypeSlots]
	case s.cfg.Mode == ModeIngress && !s.complete[ir.TypeGateway]:
		return false
	}
	if s.restored {
		return true // it was when it was written; what it lacks is asked for on first use
	}
	for n := range s.asked {
		if !s.answered(n) {
			return false
		}
	}
	for _, in := range next.Inbound {
		// Rules that were refused deny their own service and hold up no other.
		if in.Access == nil && s.refused[ir.TypeAccess][in.Service.String()] == nil {
			return false
		}
		if !s.spoken(ir.TypeService, in.Service) {
			return false // its limits are not known yet
		}
	}
	return true
}

// Demand waits until a service has been answered (proxy.Demand).
func (s *store) Demand(n mesh.ServiceName, deadline int64) (*proxy.State, error) {
	timer := time.NewTimer(time.Duration(deadline - s.now().UnixNano()))
	defer timer.Stop()
	for {
		s.mu.Lock()
		s.ask(n)
		state, changed := s.state.Load(), s.changed
		done := s.answered(n) && (state.Services[n] != nil || s.services[n] == nil)
		bad := s.unusable(n)
		s.mu.Unlock()
		switch {
		case done && bad != nil && state.Services[n] == nil:
			return nil, bad
		case done:
			return state, nil
		}
		select {
		case <-changed:
		case <-timer.C:
			return nil, os.ErrDeadlineExceeded
		}
	}
}
