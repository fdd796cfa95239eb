package load

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/wire"
	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/outage"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/xds"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Config is what a Driver works with. All fields but Sees, Costs, IgnoreLearnt, Told and LeftOut are required.
type Config struct {
	Cluster     mesh.ClusterName
	TrustDomain mesh.TrustDomain
	// Identify is who calls.
	Identify func(context.Context) (mesh.Identity, error)
	// Paths are the ways from here to peers.
	Paths func() []split.Path
	// Sees is told how a peer sees the others, which stands in its report.
	Sees func(mesh.ClusterName, []split.Path)
	// Beliefs is what this cluster believes of trust domains whose root is being replaced; Believes is told what a peer does. nil
	// is nothing, and nobody.
	Beliefs  func() []split.Belief
	Believes func(mesh.ClusterName, []split.Belief)
	// Unserved are the listeners of Gateways that this cluster's ingress gateways do not serve, sorted; nil is none.
	Unserved func() []string
	// May reports whether a peer may know of a service here.
	May func(mesh.ClusterName, mesh.ServiceName) bool
	// Costs is what a GiB costs from one cluster to another, in US dollars; nil is nothing.
	Costs func(from, to mesh.ClusterName) float64
	// Drained are the clusters that are taken out of use, or come back, with the part of its share that each gets; nil is none.
	Drained func(time.Time) map[mesh.ClusterName]float64
	// Services are where every service of this cluster can be reached, as its proxies would be told; nil is none.
	Services func() []*ir.Endpoints
	// Region is where a cluster is, "" where that is not known; nil is not.
	Region func(mesh.ClusterName) mesh.Region
	// IgnoreLearnt believes no capacity that proxies learnt.
	IgnoreLearnt bool
	// Jurisdiction is the law under which a cluster stands, "" where that is not known: by it a way through a third cluster
	// serves, or not. nil is none does.
	Jurisdiction func(mesh.ClusterName) mesh.Jurisdiction
	// Told takes each change, those that only say again what is among them; it must not wait. nil is nobody.
	Told func(Change)
	// LeftOut takes what a proxy of this cluster leaves out by itself; it must not wait. nil is nobody.
	LeftOut func(node string, r outage.Report)
	// Edit changes the world; it may wait for room until the context ends.
	Edit  func(context.Context, []world.Edit) error
	Clock clock.Clock
	Log   *slog.Logger
}

// Driver runs a Balancer: what is measured comes in, splits go into the world as facts. It is safe for concurrent use.
type Driver struct {
	wirepb.UnimplementedLoadServer
	cfg      Config
	balancer *Balancer

	knowing sync.Mutex // who hands on does it in the order in which it was learnt
	mu      sync.Mutex
	// learnt are the newest resources of services that proxies here use, until the next tick; nil is gone.
	learnt map[resource]*xds.Resource
	// ingress is what peers say of their ingress gateways.
	ingress map[mesh.ClusterName]*unserved
	// early is full where a proxy has said something before its time.
	early chan struct{}
}

type resource struct{ typ, name string }

// learntMax bounds what waits for a tick: one entry a service and type.
const learntMax = 1 << 16

// earlyMost is how many ticks may come early in a row, and gather how long one waits for more proxies to say the same.
const (
	earlyMost = 4
	gather    = split.NewsAfter / 2
)

// NewDriver returns a driver; nothing runs before Run.
func NewDriver(cfg Config) *Driver {
	b := New(cfg.Cluster)
	b.costs, b.unlearning, b.jurisdiction = cfg.Costs, cfg.IgnoreLearnt, cfg.Jurisdiction
	return &Driver{cfg: cfg, balancer: b, learnt: map[resource]*xds.Resource{}, early: make(chan struct{}, 1), ingress: map[mesh.ClusterName]*unserved{}}
}

// Expel drops what a cluster that left the mesh reported.
func (l *Driver) Expel(n mesh.ClusterName) {
	l.balancer.Expel(n)
	l.serves(n, nil)
}

// Returning are the splits in which a cluster is on its way back.
func (l *Driver) Returning() []*mesh.Split { return l.balancer.Returning() }

// Capacities are what clusters bear, as Balancer.Capacities has it.
func (l *Driver) Capacities() []*mesh.Split { return l.balancer.Capacities() }

// Learn takes what is published of services. It never waits.
func (l *Driver) Learn(updates []xds.Update) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, u := range updates {
		if t := ir.Type(u.Type); u.Name != "*" && (t == ir.TypeEndpoints || t == ir.TypeService) && len(l.learnt) < learntMax {
			l.learnt[resource{u.Type, u.Name}] = u.Resource
		}
	}
}

// know hands on what was learnt, and what is being drained now.
func (l *Driver) know() {
	l.knowing.Lock()
	defer l.knowing.Unlock()
	if l.cfg.Drained != nil {
		l.balancer.Drain(l.cfg.Drained(l.cfg.Clock.Now()))
	}
	l.mu.Lock()
	learnt := l.learnt
	l.learnt = map[resource]*xds.Resource{}
	l.mu.Unlock()
	for k, r := range learnt {
		n, err := mesh.ParseServiceName(k.name)
		if err != nil {
			continue
		}
		if r == nil {
			l.balancer.Forget(n)
			continue
		}
		v, err := wire.Decode(ir.Type(r.Type), r.Body)
		if err != nil {
			l.cfg.Log.Error("a resource of this control plane's own cannot be read", "resource", k.name, "error", err)
			continue
		}
		switch v := v.(type) {
		case *ir.Endpoints:
			l.balancer.Know(v)
		case *ir.Service:
			l.balancer.Route(n, v.Traffic.Strategy, v.Traffic.Distribution, v.Traffic.Staleness)
		}
	}
}

// Report takes what a proxy of this cluster measured (the service Load).
func (l *Driver) Report(ctx context.Context, r *wirepb.LoadRequest) (*wirepb.LoadResponse, error) {
	id, err := l.cfg.Identify(ctx)
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	node, err := mesh.ParseServiceName(r.Node)
	if err != nil || node.Namespace != id.Namespace || id.TrustDomain != l.cfg.TrustDomain {
		return nil, status.Errorf(codes.PermissionDenied, "proxy %q reports load with the identity %s: want NAMESPACE/WORKLOAD in its namespace, of cluster %s", r.Node, id, l.cfg.Cluster)
	}
	samples, err := wire.ToSamples(r.Samples)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if !l.balancer.Sampled(r.Node, id.Namespace, samples, l.cfg.Clock.Now()) {
		return nil, status.Errorf(codes.ResourceExhausted, "cluster %s takes the reports of no more proxies or services", l.cfg.Cluster)
	}
	if l.balancer.takeEarly() {
		select {
		case l.early <- struct{}{}:
		default: // it is known
		}
	}
	left := wire.ToOutages(r.Outages, r.MoreOutages)
	l.balancer.LeftOut(r.Node, left)
	if l.cfg.LeftOut != nil {
		l.cfg.LeftOut(r.Node, left)
	}
	return &wirepb.LoadResponse{Period: int64(Every)}, nil
}

// Heard takes a peer's report. Where another replica told it on, only how the peer sees the others counts: that replica
// follows the peer and spreads load, and what is asked for at this one is a part of what the peer was told of.
func (l *Driver) Heard(n mesh.ClusterName, b []byte, toldOn bool) {
	r, err := wire.DecodeReport(b)
	if err != nil {
		l.cfg.Log.Warn("a peer's load report cannot be read; the last one counts", "peer", n, "error", err)
		return
	}
	if !toldOn {
		l.balancer.Heard(n, r, l.cfg.Clock.Now())
	}
	if l.cfg.Sees != nil {
		l.cfg.Sees(n, r.Paths)
	}
	if l.cfg.Believes != nil {
		l.cfg.Believes(n, r.Beliefs)
	}
	l.serves(n, r.Unserved)
}

// ReportTo is what a peer is told: of services that it is told of, or that it serves.
func (l *Driver) ReportTo(to mesh.ClusterName) []byte {
	r := l.balancer.Report(l.cfg.Paths(), func(s mesh.ServiceName) bool { return l.cfg.May(to, s) })
	if l.cfg.Beliefs != nil {
		r.Beliefs = l.cfg.Beliefs()
	}
	if l.cfg.Unserved != nil {
		r.Unserved = bounded(l.cfg.Unserved())
	}
	return encoded(r, replica.MaxReport)
}

// encoded is a report of so many bytes at most. Where not all services have room, those with the least to move are left
// out: of them nothing is known at the peer, which then serves its own.
func encoded(r *split.ClusterReport, most int) []byte {
	b := wire.EncodeReport(r)
	if len(b) <= most {
		return b
	}
	slices.SortStableFunc(r.Services, func(x, y split.ServiceReport) int { return cmp.Compare(y.Demand+y.Rate, x.Demand+x.Rate) })
	for len(b) > most && len(r.Services) > 0 {
		r.Services = r.Services[:len(r.Services)*most/len(b)*9/10]
		b = wire.EncodeReport(r)
	}
	return b
}

// Run ticks until ctx ends: each Every, and in between when a proxy had news that could not wait, at most as often again.
func (l *Driver) Run(ctx context.Context) error {
	timer := l.cfg.Clock.NewTimer(Every)
	defer timer.Stop()
	for spare := 0; ; {
		early := l.early
		if spare == 0 {
			early = nil
		}
		select {
		case <-timer.C():
			timer.Reset(Every)
			spare = min(spare+1, earlyMost)
		case <-early:
			spare--
			if err := clock.Wait(ctx, l.cfg.Clock, gather); err != nil { // what others have to say of the same
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := l.tick(ctx); err != nil {
			return err
		}
	}
}

func (l *Driver) tick(ctx context.Context) error {
	l.know()
	if err := l.follow(ctx, l.balancer.Tick(l.cfg.Paths(), l.cfg.Clock.Now())); err != nil {
		return err
	}
	return l.stateIngress(ctx)
}

// follow states splits, in one revision.
func (l *Driver) follow(ctx context.Context, changes []Change) error {
	if len(changes) == 0 {
		return nil
	}
	var edits []world.Edit
	for _, c := range changes {
		if l.cfg.Told != nil {
			l.cfg.Told(c)
		}
		key := mesh.Key{Kind: mesh.KindSplit, Origin: l.cfg.Cluster, Namespace: c.Service.Namespace, Name: c.Service.Name}
		if c.Split == nil {
			edits = append(edits, world.Remove(key))
			l.cfg.Log.Info("a service is no longer spread by load", "service", c.Service.String())
			continue
		}
		edits = append(edits, world.Put(&mesh.Fact{Key: key, Value: c.Split, Digest: ir.DigestOf(c.Split)}))
		if c.Moved {
			l.cfg.Log.Info("a service is spread over clusters", "service", c.Service.String(), "split", sharesOf(c.Split), "because", string(c.Outcome.Cause),
				"saves", fmt.Sprintf("%.0f%%", 100*c.Outcome.Gain), "dollarsPerHour", fmt.Sprintf("%.3g", c.Split.Spend))
		}
	}
	ctx, stop := context.WithTimeout(ctx, 5*time.Second) // the loop's queue is full: the next tick is as good
	defer stop()
	if err := l.cfg.Edit(ctx, edits); err != nil && ctx.Err() != context.DeadlineExceeded {
		return err
	}
	return nil
}

// sharesOf is a split for people.
func sharesOf(s *mesh.Split) string {
	var b strings.Builder
	for i, share := range s.Shares {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s %.1f%%", share.Cluster, float64(share.Parts)*100/mesh.AllParts)
	}
	return b.String()
}
