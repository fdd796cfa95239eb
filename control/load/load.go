// Package load spreads each service's requests over clusters by what they can serve: the control plane's half of
// balancing. Its one idea is that every cluster has the same reports and solves the same problem, so that each can
// apply its own part of the answer without asking anybody (core/split).
//
// Proxies measure (Sampled), peers report (Heard), the loop knows where services are (Know), and each Tick turns that
// into the splits that changed and into what peers are told (Report). It sends nothing and reads no clock. A service
// that only one cluster serves, or of which no load is known, has no split: the nearest come first then. Read Tick.
package load

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/core/failback"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// The clocks of the loop.
const (
	// Every is how often a Balancer wants to tick, and proxies to report.
	Every = 500 * time.Millisecond
	// sampleLasts is how long a proxy's last word on what it is counts: an idle one repeats it each third of that.
	// rateLasts is how long its rates do.
	sampleLasts = 15 * time.Second
	rateLasts   = 3 * time.Second
	// beatEvery is when a split that stays what it is is said again; proxies forget one after a minute.
	beatEvery = 20 * time.Second
	// idleAfter without a request here ends a split.
	idleAfter = time.Minute
)

const (
	// news is the change of a share, in ten thousandths, that proxies are told of.
	news = 200
	// returnNews is that while a cluster is on its way back: steps of a small part are small.
	returnNews = 10
	// nodesMax and samplesMax bound what proxies report.
	nodesMax, samplesMax = 20_000, 2_000
)

// Balancer is the loop's state in one control plane. It is safe for concurrent use.
type Balancer struct {
	self mesh.ClusterName
	// costs is what a GiB costs from one cluster to another, in US dollars; nil is nothing.
	costs func(from, to mesh.ClusterName) float64
	// unlearning believes no capacity that proxies learnt.
	unlearning bool
	// jurisdiction is that of a cluster; nil is none known.
	jurisdiction func(mesh.ClusterName) mesh.Jurisdiction

	mu       sync.Mutex
	services map[mesh.ServiceName]*service
	// stirred are those that the next Tick looks at.
	stirred map[mesh.ServiceName]*service
	nodes   map[string]*node
	peers   map[mesh.ClusterName]*peer
	last    time.Time
	// early says that a proxy did not wait for the time of its next report.
	early bool
	// drained is the part of its share that each cluster gets that is taken out of use, or comes back.
	drained map[mesh.ClusterName]float64
}

// service is what is known of one service.
type service struct {
	endpoints *ir.Endpoints
	strategy  mesh.Strategy
	wants     mesh.Distribution // what the strategy was told
	age       mesh.Staleness    // how old what is known of a cluster may be
	state     split.State
	// sent, received and calls are sums that fade: the bytes of calls from here.
	sent, received, calls float64
	// spend is what crossing costs all callers, in US dollars an hour.
	spend float64
	own   split.Report
	// tree is what is called where it runs here, and called when something here last was known to call it.
	tree   split.Tree
	called time.Time
	lanes  float64
	// source is who says what is borne here, and places are the ready endpoints.
	source mesh.CapacitySource
	places float64
	// bear is what clusters are thought to bear, as it was last posed where the service is spread.
	bear      []mesh.Capacity
	forbidden []mesh.ClusterName
	asked     time.Time    // when it was last asked for here
	shares    []mesh.Share // as they were told
	beat      uint64
	beatAt    time.Time
	// gates hold back what was lost and returned.
	gates failback.Gates
}

// node is a proxy's last report.
type node struct {
	samples []split.Sample
	at      time.Time
	// voices is what it says of clusters that it uses, or leaves out: at most voicesMax.
	voices map[place]failback.Voice
	swept  time.Time // when it was last looked what of them counts
	// trips are clusters that it leaves out now.
	trips []place
}

// peer is a cluster's last report.
type peer struct {
	paths    map[mesh.ClusterName]split.Path
	services map[mesh.ServiceName]*split.ServiceReport
	at       time.Time
}

func newPeer(paths []split.Path, now time.Time) *peer {
	p := &peer{paths: make(map[mesh.ClusterName]split.Path, len(paths)), services: map[mesh.ServiceName]*split.ServiceReport{}, at: now}
	for _, path := range paths {
		p.paths[path.Cluster] = path
	}
	return p
}

// New returns a Balancer of a cluster that knows nothing.
func New(self mesh.ClusterName) *Balancer {
	return &Balancer{self: self, services: map[mesh.ServiceName]*service{}, stirred: map[mesh.ServiceName]*service{}, nodes: map[string]*node{}, peers: map[mesh.ClusterName]*peer{}}
}

// Know takes where a service can be reached from this cluster.
func (b *Balancer) Know(e *ir.Endpoints) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.service(e.Service)
	s.endpoints, s.forbidden = e, nil
	for _, g := range e.Groups {
		if g.Forbidden != "" {
			s.forbidden = append(s.forbidden, g.Cluster)
		}
	}
}

// Route takes how requests to a service are to be spread, and how old what is known of a cluster may be for that.
func (b *Balancer) Route(n mesh.ServiceName, s mesh.Strategy, d mesh.Distribution, old mesh.Staleness) {
	b.mu.Lock()
	defer b.mu.Unlock()
	of := b.service(n)
	of.strategy, of.wants, of.age = s, d, old
}

// Forget drops a service that is no longer there.
func (b *Balancer) Forget(n mesh.ServiceName) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.services[n]; s != nil {
		s.endpoints = nil // Tick takes the split back
		b.stir(n, s)
	}
}

// service is the one of a name, made if there is none, of which something is news.
func (b *Balancer) service(n mesh.ServiceName) *service {
	s := b.services[n]
	if s == nil {
		s = &service{strategy: mesh.StrategyAuto, own: split.Report{Cluster: b.self, Wait: -1}}
		b.services[n] = s
	}
	b.stir(n, s)
	return s
}

// Sampled takes a proxy's report; it replaces the one before. A proxy can say only of services in its own
// namespace that it serves them. False says that there are too many proxies or samples: it does not count.
func (b *Balancer) Sampled(id string, namespace string, samples []split.Sample, now time.Time) bool {
	samples = slices.Clone(samples)
	for i := range samples {
		if s := &samples[i]; s.Service.Namespace != namespace {
			s.Served, s.Lanes, s.Time, s.Wait, s.Bears, s.Source = 0, 0, 0, -1, 0, mesh.CapacityUnknown
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(samples) > samplesMax || b.nodes[id] == nil && len(b.nodes) >= nodesMax {
		return false
	}
	if b.nodes[id] == nil {
		b.nodes[id] = &node{voices: map[place]failback.Voice{}}
	}
	n := b.nodes[id]
	if !n.at.IsZero() && now.Sub(n.at) < Every*3/4 {
		b.early = true
	}
	n.samples, n.at = samples, now
	b.saw(n)
	return true
}

// takeEarly reports whether a proxy did not wait, since the last call.
func (b *Balancer) takeEarly() (early bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	early, b.early = b.early, false
	return early
}

// Heard takes a peer's report; it replaces the one before.
func (b *Balancer) Heard(n mesh.ClusterName, r *split.ClusterReport, now time.Time) {
	p := newPeer(r.Paths, now)
	for i := range r.Services {
		p.services[r.Services[i].Service] = &r.Services[i]
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.peers[n] = p
}

// Report is what a peer is told: of the services that it may know of.
func (b *Balancer) Report(paths []split.Path, may func(mesh.ServiceName) bool) *split.ClusterReport {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := &split.ClusterReport{Paths: paths}
	var told []mesh.ServiceName
	for n, s := range b.services {
		if s.endpoints != nil && (s.lanes != 0 || s.places != 0 || s.own.Demand != 0) && may(n) {
			told = append(told, n)
		}
	}
	slices.SortFunc(told, mesh.ServiceName.Compare)
	for _, n := range told {
		s := b.services[n]
		v := split.ServiceReport{Service: n, Demand: s.own.Demand, Rate: s.own.Rate, Time: s.own.Service, Wait: s.own.Wait, Endpoints: s.places, Source: s.source,
			Forbidden: s.forbidden, Sent: s.perCall(s.sent), Received: s.perCall(s.received), Below: s.own.Below, Within: s.own.Within, Row: b.rowOf(s)}
		if s.source > mesh.CapacityDeclared {
			v.Bears = s.own.Capacity
		} else {
			v.Lanes = s.lanes
		}
		out.Services = append(out.Services, v)
	}
	return out
}

// Change is what a Tick decided for one service.
type Change struct {
	Service mesh.ServiceName
	// Split to follow from now on; nil is none any more.
	Split *mesh.Split
	// Outcome of the step; its Cause is empty where the split was taken back.
	Outcome split.Outcome
	// Moved says that the shares are news, and not only the beat.
	Moved bool
	// Returns is what became of clusters on their way back.
	Returns []failback.Move
}

// Drain takes which clusters are taken out of use, or come back, and what part of its share each gets: from 0 to 1.
func (b *Balancer) Drain(parts map[mesh.ClusterName]float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drained = parts
}

// Tick makes the splits anew. Paths lead from this cluster to others.
func (b *Balancer) Tick(paths []split.Path, now time.Time) []Change {
	b.mu.Lock()
	defer b.mu.Unlock()
	since := Every
	if !b.last.IsZero() {
		since = max(now.Sub(b.last), time.Millisecond)
	}
	b.last = now
	b.expire(now)
	measured := b.measure(now)
	for n := range measured {
		if s := b.services[n]; s != nil {
			b.stir(n, s)
		}
	}
	own := newPeer(paths, now)
	tripped := b.tripped(now)
	var out []Change
	for _, n := range slices.SortedFunc(maps.Keys(b.stirred), mesh.ServiceName.Compare) {
		s := b.stirred[n]
		s.follow(measured[n], since, now)
		b.reckon(s, now)
		if c, ok := b.step(n, s, own, tripped[n], since, now); ok {
			out = append(out, c)
		}
		if s.endpoints == nil {
			delete(b.services, n)
		}
		if s.endpoints == nil || s.rests(measured[n], now) {
			delete(b.stirred, n)
		}
	}
	return out
}

// Expel drops what a cluster that left the mesh reported. Of one that is silent the last report counts: silence says
// nothing of what it can serve (core/split).
func (b *Balancer) Expel(n mesh.ClusterName) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.peers, n)
	for _, s := range b.services {
		s.gates.Forget(n)
	}
}

// expire forgets proxies that are silent.
func (b *Balancer) expire(now time.Time) {
	for id, n := range b.nodes {
		if now.Sub(n.at) > sampleLasts {
			delete(b.nodes, id)
		}
	}
}

// spreads reports whether a service is spread by load: several clusters can serve it, and the strategy wants it.
func (s *service) spreads(now time.Time) bool {
	if s.endpoints == nil || s.asked.IsZero() || now.Sub(s.asked) > idleAfter {
		return false
	}
	switch s.strategy {
	case mesh.StrategyLocal, mesh.StrategyNearest, mesh.StrategyWeighted:
		return false
	}
	n := serving(s.endpoints)
	return n > 1 || n == 1 && s.gates.Several() // what is left goes on by a split, so that what comes back waits for one
}

// serving counts the clusters with a place to send to.
func serving(e *ir.Endpoints) (n int) {
	for _, g := range e.Groups {
		if len(g.Endpoints)+len(g.Slots) > 0 {
			n++
		}
	}
	return n
}

// step is one service's tick; tripped are clusters that proxies leave out for it.
func (b *Balancer) step(n mesh.ServiceName, s *service, own *peer, tripped map[mesh.ClusterName]bool, since time.Duration, now time.Time) (Change, bool) {
	var shares []mesh.Share
	var returns []failback.Move
	var o split.Outcome
	least := uint32(news)
	s.bear = nil
	switch {
	case s.spreads(now):
		in, at := b.pose(n, s, own, since, now)
		if s.bear = capacities(in); len(s.bear) == 0 && len(s.shares) == 0 {
			s.state = split.State{} // nothing is known yet, and so nobody comes back when it is
			break
		}
		if returns = s.gates.Look(in, at, tripped, now); in.Open != nil {
			least = returnNews
		}
		s.state, o = split.Step(s.state, in)
		shares = round(s.state.Clusters, s.state.Row(at))
	case s.priced(now):
		in, _ := b.pose(n, s, own, since, now)
		s.state, _ = split.Step(s.state, in)
		s.gates = failback.Gates{}
	default:
		s.state, s.gates = split.State{}, failback.Gates{}
	}
	s.spend = o.Spend * 3600
	moved := !near(s.shares, shares, least) || len(returns) > 0
	if !moved && (len(s.shares) == 0 || now.Sub(s.beatAt) < beatEvery) {
		return Change{}, false
	}
	if len(shares) == 0 {
		s.shares = nil
		return Change{Service: n, Moved: true, Returns: returns}, true
	}
	if moved {
		s.shares = shares
	}
	s.beat++
	s.beatAt = now
	return Change{Service: n, Split: &mesh.Split{Service: n, Shares: s.shares, Beat: s.beat, Spend: s.spend, Returning: s.returning(), Capacities: s.bear}, Outcome: o, Moved: moved, Returns: returns}, true
}

// tooOld reports whether what is known of the cluster at the end of a path is older than the service bears, as proxies have it, who leave it
// out by their own clocks.
func (s *service) tooOld(p split.Path, now time.Time) bool {
	from := s.age.From(p.StaleSinceMillis)
	return from != 0 && now.UnixNano() >= from
}

// pose states the problem of one service, and says which cluster in it this one is.
func (b *Balancer) pose(n mesh.ServiceName, s *service, own *peer, since time.Duration, now time.Time) (in *split.Input, self int) {
	of := map[mesh.ClusterName]bool{b.self: true}
	for _, g := range s.endpoints.Groups {
		of[g.Cluster] = true
	}
	for c, p := range b.peers {
		if p.services[n] != nil {
			of[c] = true
		}
	}
	clusters := slices.Sorted(maps.Keys(of))
	k := len(clusters)
	places := make([]float64, k)
	in = &split.Input{Since: since, Reports: make([]split.Report, k), RTT: make([]float64, k*k), Forbidden: make([]bool, k*k), Dead: make([]bool, k*k), Loss: make([]float64, k*k),
		Strategy: cmp.Or(s.strategy, mesh.StrategyAuto)}
	b.price(n, s, own, clusters, in)
	usual := b.usual(n, s)
	for i, c := range clusters {
		p, forbidden := b.peers[c], []mesh.ClusterName(nil)
		r := split.Report{Cluster: c, Age: -1, Wait: -1}
		switch {
		case c == b.self:
			self, p, forbidden, r = i, own, s.forbidden, s.own
			r.Age = 0
			r.Capacity, r.Service = known(s.lanes, s.own.Service, usual+r.Below.Deep[split.Hops-1])
			places[i], r.Source = s.places, s.source
		case p != nil && p.services[n] != nil:
			v := p.services[n]
			r.Age, r.Demand, r.Rate, r.Wait, forbidden = now.Sub(p.at), v.Demand, v.Rate, v.Wait, v.Forbidden
			r.Below, r.Within, r.Row = v.Below, v.Within, rowIn(clusters, c, v.Row)
			places[i], r.Source = v.Endpoints, v.Source
			lanes := v.Lanes
			if v.Bears > 0 && v.Time > 0 {
				lanes = v.Bears * v.Time
			}
			r.Capacity, r.Service = known(lanes, v.Time, usual+r.Below.Deep[split.Hops-1])
		}
		if part, ok := b.drained[c]; ok {
			r.Draining = 1 - part
		}
		in.Reports[i] = r
		for j, to := range clusters {
			at := i*k + j
			in.Forbidden[at] = slices.Contains(forbidden, to) || p == own && s.tooOld(own.paths[to], now)
			in.RTT[at] = math.NaN()
			if i == j {
				in.RTT[at] = 0
			}
			if p == nil {
				continue
			}
			if path, ok := p.paths[to]; ok && i != j {
				in.Dead[at], in.Loss[at] = path.Dead && !b.passes(s.endpoints, path), path.Loss
				if path.RTT > 0 {
					in.RTT[at] = path.RTT.Seconds()
				}
			}
		}
	}
	split.Assume(in, places)
	for i := range clusters { // one way is as long as the other, where only that was measured
		for j := range clusters {
			if math.IsNaN(in.RTT[i*k+j]) {
				in.RTT[i*k+j] = in.RTT[j*k+i]
			}
		}
	}
	return in, self
}
