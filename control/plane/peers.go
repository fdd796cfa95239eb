package plane

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/control/detour"
	"github.com/isthmus-mesh/isthmus/control/peer"
	"github.com/isthmus-mesh/isthmus/control/probe"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/liveness"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/internal/failpoint"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// PointWithdraw is before what a peer's gateways said of leaving is stated.
const PointWithdraw failpoint.Point = "plane.withdraw"

// peers runs a follower and a prober for each other cluster that this one has joined.
type peers struct {
	plane *Plane
	wake  chan struct{}

	stating sync.Mutex // whoever states does it in the order in which it was found out

	mu sync.Mutex
	// want are the clusters as the own objects describe them.
	want map[mesh.ClusterName]mesh.Cluster
	on   map[mesh.ClusterName]*link
	// told is the reach last stated of each.
	told map[mesh.ClusterName]mesh.Reach
	// held are the clusters of which the world may hold facts, with the trust domain that stated them.
	held map[mesh.ClusterName]mesh.TrustDomain
}

// link is what runs for one peer.
type link struct {
	cluster  mesh.Cluster
	follower *peer.Follower
	prober   *probe.Prober
	stop     context.CancelFunc
	done     chan struct{}
}

func newPeers(p *Plane) *peers {
	return &peers{plane: p, wake: make(chan struct{}, 1), want: map[mesh.ClusterName]mesh.Cluster{}, on: map[mesh.ClusterName]*link{},
		told: map[mesh.ClusterName]mesh.Reach{}, held: map[mesh.ClusterName]mesh.TrustDomain{}}
}

// update notices changes of the own Cluster objects.
func (ps *peers) update(edits []world.Edit) {
	changed := false
	ps.mu.Lock()
	for _, e := range edits {
		n := mesh.ClusterName(e.Key.Name)
		if e.Key.Kind != mesh.KindCluster {
			continue
		}
		changed = true
		if n == ps.plane.cfg.Cluster { // its primaries may have changed
			continue
		}
		if e.Fact == nil {
			delete(ps.want, n)
		} else {
			ps.want[n] = *e.Fact.Value.(*mesh.Cluster)
		}
	}
	ps.mu.Unlock()
	if changed {
		select {
		case ps.wake <- struct{}{}:
		default:
		}
	}
}

// joined is the cluster that the own objects describe with a trust domain; it is this one for the other replicas.
func (ps *peers) joined(td mesh.TrustDomain) (mesh.ClusterName, bool) {
	if td == ps.plane.cfg.TrustDomain() && ps.plane.cfg.shared() {
		return ps.plane.cfg.Cluster, true
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	w, ok := ps.want[td.Cluster()]
	return w.Name, ok && w.TrustDomain == td
}

// known lists what the world holds of a peer's statements.
func (p *Plane) known(n mesh.ClusterName) []mesh.Key {
	var out []mesh.Key
	for f := range p.loop.World().All() {
		if f.Origin == n && replica.Travels(f.Kind) {
			out = append(out, f.Key)
		}
	}
	return out
}

// observe makes our stamps follow a peer's; one of the far future was refused before.
func (p *Plane) observe(s mesh.Stamp) {
	p.hlcMu.Lock()
	defer p.hlcMu.Unlock()
	p.hlc.Observe(p.clock.Now(), s)
}

// run starts and stops links until ctx ends.
func (ps *peers) run(ctx context.Context) error {
	read := ps.plane.read
	for {
		for _, l := range ps.stale() {
			l.stop()
			<-l.done
		}
		if err := ps.forget(ctx); err != nil {
			return err
		}
		ps.startMissing(ctx)
		ps.uplink()
		select {
		case <-ps.wake:
		case <-read:
			read = nil
			ps.dropCaches()
		case <-ctx.Done():
			ps.mu.Lock()
			links := slices.Collect(maps.Values(ps.on))
			ps.mu.Unlock() // a prober's last word needs it
			for _, l := range links {
				<-l.done
			}
			return ctx.Err()
		}
	}
}

// stale takes out the links that the own objects do not describe any more.
func (ps *peers) stale() (ended []*link) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for n, l := range ps.on {
		if w, ok := ps.want[n]; !ok || ir.DigestOf(w) != ir.DigestOf(l.cluster) {
			ended = append(ended, l)
			delete(ps.on, n)
		}
	}
	return ended
}

func (ps *peers) startMissing(ctx context.Context) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for n, w := range ps.want {
		if ps.on[n] == nil && (len(w.ControlPlanes) > 0 || ps.plane.reach(w) != nil) && len(w.Gateways) > 0 && w.TrustDomain != "" {
			ps.on[n] = ps.start(ctx, w)
			ps.held[n] = w.TrustDomain
		}
	}
}

// uplink tells a relay's uplink of the clusters.
func (ps *peers) uplink() {
	ps.mu.Lock()
	want := maps.Clone(ps.want)
	ps.mu.Unlock()
	ps.plane.configureUplink(want)
}

// left takes out the clusters that are no longer joined, or are another one under the name.
func (ps *peers) left() (out []mesh.ClusterName) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for n, td := range ps.held {
		if w, ok := ps.want[n]; !ok || w.TrustDomain != td {
			out = append(out, n)
			delete(ps.held, n)
			delete(ps.told, n)
		}
	}
	slices.Sort(out)
	return out
}

// forget takes what a cluster that left has stated out of the world, in one revision, with its cache, and
// ends the streams by which it was told of us. That its object was deleted is a person's word; silence
// never comes here.
func (ps *peers) forget(ctx context.Context) error {
	p := ps.plane
	for _, n := range ps.left() {
		if p.federation != nil {
			p.federation.Expel(n)
		}
		p.load.Expel(n)
		edits := []world.Edit{world.Remove(mesh.Key{Kind: mesh.KindReach, Origin: p.cfg.Cluster, Name: string(n)})}
		for _, k := range p.known(n) {
			edits = append(edits, world.Remove(k))
		}
		if err := p.loop.EditAndWait(ctx, edits, nil); err != nil {
			return err
		}
		ps.dropCache(n)
		p.log.Warn("a cluster left the mesh: what it stated is forgotten", "peer", n, "facts", len(edits)-1)
	}
	return nil
}

func (ps *peers) dropCache(n mesh.ClusterName) {
	if err := os.Remove(ps.plane.cfg.path("peers", string(n))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		ps.plane.log.Warn("the cache of a cluster that left could not be removed", "peer", n, "error", err)
	}
}

// dropCaches removes the caches of clusters that left while this control plane was down.
func (ps *peers) dropCaches() {
	entries, err := os.ReadDir(ps.plane.cfg.path("peers"))
	if err != nil {
		ps.plane.log.Warn("the caches of peers cannot be listed", "error", err)
		return
	}
	for _, e := range entries {
		n := mesh.ClusterName(strings.TrimSuffix(e.Name(), ".new"))
		ps.mu.Lock()
		_, wanted := ps.want[n]
		ps.mu.Unlock()
		if !wanted {
			ps.dropCache(mesh.ClusterName(e.Name()))
		}
	}
}

// start runs one link. The caller holds mu.
func (ps *peers) start(ctx context.Context, w mesh.Cluster) *link {
	p := ps.plane
	ctx, stop := context.WithCancel(ctx)
	l := &link{cluster: w, stop: stop, done: make(chan struct{})}
	l.prober = probe.New(probe.Config{Peer: w, Source: p.source, Local: p.cfg.Local, Clock: p.clock, Log: p.log,
		Gateway: mesh.Identity{TrustDomain: w.TrustDomain, Namespace: peer.SystemNamespace, ServiceAccount: "gateway"},
		Name:    "gateway." + string(w.TrustDomain),
		Known:   ps.told[w.Name].Leaving,
		Leaving: func(n mesh.ClusterName, gone []netip.AddrPort) {
			p.events.Leaving(n, gone)
			if err := p.cfg.Failpoints.Hit(ctx, PointWithdraw); err == nil {
				ps.state(ctx, n, func(r mesh.Reach) mesh.Reach { r.Leaving = gone; return r })
			}
		},
		Changed: func(n mesh.ClusterName, s liveness.State) {
			p.events.Path(n, s)
			for _, a := range w.ControlPlanes {
				p.patience.Path(a, s.RTT)
			}
			ps.state(ctx, n, func(r mesh.Reach) mesh.Reach {
				next := s.Fact(n, r.RTT)
				next.Leaving, next.Via, next.ViaRTT = r.Leaving, r.Via, r.ViaRTT
				return next
			})
			p.detours.Stir()
		}})
	l.follower = peer.NewFollower(peer.FollowerConfig{Self: p.cfg.Cluster, Peer: w, Source: p.source, Local: p.cfg.Local, Reach: p.reach(w),
		Cache: p.cfg.path("peers", string(w.Name)), Edit: p.loop.EditAndWait, Known: p.known, Observe: p.observe, Clock: p.clock, Log: p.log, Failpoints: p.cfg.Failpoints, Build: p.cfg.Build, Patience: &p.patience,
		Changed:  func(_ mesh.ClusterName, s replica.Status) { l.prober.Lease(!s.Stale, l.follower.StaleSince()) },
		Reported: func(n mesh.ClusterName, b []byte) { p.load.Heard(n, b, p.siblings.Through(n) != "") }})
	var parts sync.WaitGroup
	parts.Go(func() { ps.ended(w.Name, "following", ctx, l.follower.Run(ctx)) })
	parts.Go(func() { ps.ended(w.Name, "probing", ctx, l.prober.Run(ctx)) })
	go func() {
		parts.Wait()
		close(l.done)
	}()
	return l
}

func (ps *peers) ended(n mesh.ClusterName, what string, ctx context.Context, err error) {
	if ctx.Err() == nil {
		ps.plane.log.Error(what+" a peer ended", "peer", n, "error", err)
	}
}

// state states what can be reached, when that is news: what next makes of what was stated last, which is the last in the world
// too. Of a cluster that left nothing is stated.
func (ps *peers) state(ctx context.Context, n mesh.ClusterName, next func(mesh.Reach) mesh.Reach) {
	ps.stating.Lock()
	defer ps.stating.Unlock()
	ps.mu.Lock()
	if _, joined := ps.want[n]; !joined {
		ps.mu.Unlock()
		return
	}
	before, had := ps.told[n]
	if !had {
		before.Cluster = n
	}
	now := next(before)
	ps.told[n] = now
	ps.mu.Unlock()
	if had && now.State == before.State && now.RTT == before.RTT && now.StaleSinceMillis == before.StaleSinceMillis && slices.Equal(now.Leaving, before.Leaving) && now.Via == before.Via && now.ViaRTT == before.ViaRTT {
		return
	}
	f := &mesh.Fact{Key: mesh.Key{Kind: mesh.KindReach, Origin: ps.plane.cfg.Cluster, Name: string(n)}, Value: &now, Digest: ir.DigestOf(&now)}
	_ = ps.plane.loop.Edit(ctx, []world.Edit{world.Put(f)}, nil) // the error is that of ctx: the link is ending
}

// Peer is what is known of the link to one peer, for people.
type Peer struct {
	Cluster mesh.ClusterName
	State   mesh.Reachability
	// Lease is whether its control plane is heard.
	Lease liveness.Lease
	Since time.Time
	// StaleSinceMillis is mesh.Reach's.
	StaleSinceMillis int64
	RTT              time.Duration
	// Loss is the share of the last minute's questions to its gateways that were not answered in time.
	Loss   float64
	Status replica.Status
	// Err is why there is no session, nil while there is one.
	Err error
	// Applied counts what of its facts changed here since the link began.
	Applied int64
	// Received and Sent are octets over the connections that were made to the peer itself.
	Received, Sent int64
	// Through is the replica of this control plane that holds the link, "" for this one.
	Through string
	// Gateways are where the path leads.
	Gateways []netip.AddrPort
	// Via is the way by a third cluster that is in force while the path is down; its By is "" where there is none.
	Via detour.Way
}

// Peers lists the links, by name.
func (p *Plane) Peers() []Peer {
	p.peers.mu.Lock()
	defer p.peers.mu.Unlock()
	var out []Peer
	for n, l := range p.peers.on {
		s := l.prober.State()
		loss, _ := l.prober.Loss()
		in, sent := l.follower.Octets()
		out = append(out, Peer{Cluster: n, State: s.Reach(), StaleSinceMillis: s.Fact(n, 0).StaleSinceMillis, Lease: s.LeaseOf(), Since: s.Since, RTT: s.RTT, Loss: loss, Status: l.follower.Status(), Err: l.follower.Err(), Applied: l.follower.Applied(), Received: in, Sent: sent, Through: p.siblings.Through(n), Gateways: l.cluster.Gateways})
		if w, ok := p.detours.Way(n); ok && s.PathDown {
			out[len(out)-1].Via = w
		}
	}
	slices.SortFunc(out, func(a, b Peer) int {
		if a.Cluster < b.Cluster {
			return -1
		}
		return 1
	})
	return out
}
