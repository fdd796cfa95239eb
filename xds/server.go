package xds

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/isthmus-mesh/isthmus/core/skew"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// ServerConfig is what a server works with. Source and Identify are required.
type ServerConfig struct {
	Source Source
	// Identify says who is at the other end of a stream, from the context of its
	// connection (credentials/tls: peer.FromContext). An error refuses the stream.
	Identify func(ctx context.Context) (mesh.Identity, error)
	// Order lists types so that each stands before those that refer to it. Additions of one
	// publish are sent in this order, its removals in the reverse order once the additions were
	// answered. Types that are not named are sent without regard to others.
	Order []string
	Now   func() time.Time // nil is time.Now
	Log   *slog.Logger     // nil discards
	// Delivered takes what clients refused, coalesced over 100 ms. It is called by Run.
	Delivered func(Delivery)
	// MaxStreams are served at once, more are refused with RESOURCE_EXHAUSTED; 0 is 10,000.
	MaxStreams int
	// MaxFirst streams may be on their way to a first complete configuration at once, others
	// wait for their turn; 0 is 128. One that takes longer than a second no longer counts.
	MaxFirst int
	// CatchUp is how long a stream whose node knows more than this server waits for the
	// server to catch up; 0 is 10 s.
	CatchUp time.Duration
	// Joined tells whether a cluster is still one of the mesh's; nil is always. What a node
	// knows of one that has left is nothing that a server could catch up with. It must not
	// block.
	Joined func(mesh.ClusterName) bool
	// Build is what this process is built as.
	Build skew.Build
	// Linger is how long a name is still watched after its last subscriber has gone; 0 is
	// 30 s.
	Linger time.Duration
}

// Server serves resources to streams. Its methods are safe for concurrent use.
//
// One mutex guards all of it. What happens under it is arithmetic on cursors, some
// hundred nanoseconds a stream and change, and one encoding for all. Each stream sends from
// its own goroutine, so that a slow one delays nobody.
type Server struct {
	cfg  ServerConfig
	rank map[string]int

	mu         sync.Mutex
	groups     map[groupKey]*group
	streams    map[*stream]struct{}
	vector     mesh.Vector
	vectorText string
	seq        uint64 // counts publishes
	nonce      uint64
	frames     map[frameKey]*frame
	scratch    []item
	affected   []*stream
	waves      waves
	manyNames  int // from which on a subscription may be broad
	counters   Counters
	closed     bool
	// refusedNodes are not served for their version, by ID.
	refusedNodes map[string]RefusedNode

	// Deadlines in order; Run acts on them.
	lingers   []linger
	waiting   []*stream // for the server to catch up
	first     []*stream // on their way to a first configuration
	queued    []*stream // for their turn
	reports   map[reportKey]*report
	reportAt  time.Time // zero if there is nothing to report
	deadlines chan struct{}
}

// Constants of pace.
const (
	firstMax    = time.Second
	reportEvery = 100 * time.Millisecond
)

// manyNames is Server.manyNames.
const manyNames = 64

// NewServer returns a server without resources. Nothing is sent before the first
// Publish.
func NewServer(cfg ServerConfig) *Server {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.MaxStreams == 0 {
		cfg.MaxStreams = 10_000
	}
	if cfg.MaxFirst == 0 {
		cfg.MaxFirst = 128
	}
	if cfg.CatchUp == 0 {
		cfg.CatchUp = 10 * time.Second
	}
	if cfg.Linger == 0 {
		cfg.Linger = 30 * time.Second
	}
	s := &Server{cfg: cfg, rank: map[string]int{}, groups: map[groupKey]*group{}, streams: map[*stream]struct{}{}, counters: Counters{Resources: map[string]uint64{}},
		refusedNodes: map[string]RefusedNode{}, vector: mesh.Vector{}, frames: map[frameKey]*frame{}, reports: map[reportKey]*report{}, deadlines: make(chan struct{}, 1), manyNames: manyNames}
	for i, t := range cfg.Order {
		s.rank[t] = i
	}
	return s
}

// Publish takes changed resources and how much the state they come from knows. All of
// them are one change: a stream is sent additions before what refers to them. Updates of
// names that nobody watches are ignored. Publish is called by one goroutine; it
// does not wait for streams. What is published without end is sent in waves, the first at once (see push).
func (s *Server) Publish(v mesh.Vector, updates []Update) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	clear(s.frames)
	if !s.vector.Covers(v) {
		s.vector.Merge(v)
		s.vectorText = s.vector.String()
	}
	for _, u := range updates {
		if g := s.groups[groupKey{u.Scope, u.Type}]; g != nil {
			s.apply(g, u)
		}
	}
	s.waiting = slices.DeleteFunc(s.waiting, func(st *stream) bool {
		covered := s.covers(st.node.Vector)
		if covered {
			s.admit(st)
		}
		return covered
	})
	s.push()
}

// covers reports whether the server knows at least as much as a node, of the clusters
// that are still joined.
func (s *Server) covers(v mesh.Vector) bool {
	if s.vector.Covers(v) {
		return true
	}
	if s.cfg.Joined == nil {
		return false
	}
	joined := v.Clone()
	for c := range v {
		if !s.cfg.Joined(c) {
			delete(joined, c)
		}
	}
	return s.vector.Covers(joined)
}

// apply takes one update into the index and marks whom it concerns.
func (s *Server) apply(g *group, u Update) {
	if u.Name == Wildcard {
		if g.watched && !g.complete {
			g.complete = true
			for _, b := range g.wilds {
				for _, id := range slices.Clone(b.ids) { // resumed names that do not exist
					b.touch(g.byID(id), s.seq)
				}
				s.affect(b)
			}
		}
		return
	}
	e := g.entries[u.Name]
	if e == nil {
		if !g.watched || u.Resource == nil {
			return
		}
		e = g.add(u.Name)
	}
	if !e.watched && !g.watched {
		return
	}
	if !s.change(g, e, u.Resource) {
		return
	}
	g.named(e, func(b *sub) {
		b.touch(e, s.seq)
		s.affect(b)
	})
	for _, b := range g.wilds {
		b.touch(e, s.seq)
		s.affect(b)
	}
	if e.cur == nil {
		g.release(e)
	}
}

// change sets the value of an entry and reports whether anything is new.
func (s *Server) change(g *group, e *entry, r *Resource) bool {
	changed := false
	if !e.known {
		e.known, changed = true, true
		g.named(e, func(b *sub) {
			b.unanswered--
			b.st.awaits = true
		})
	}
	if r == nil {
		changed = changed || e.cur != nil
		e.cur = nil
		return changed
	}
	p := newPiece(r)
	if e.cur != nil && e.cur.sum == p.sum {
		return changed
	}
	if p.size+s.headerSize(g.typ) > MaxMessage || len(r.Name) > maxName || len(r.Version) > maxName {
		s.counters.TooLarge++
		s.cfg.Log.Error("a resource does not fit a message and is not sent", "type", g.typ, "name", e.name, "bytes", len(r.Body))
		return changed
	}
	e.cur = p
	return true
}

func (s *Server) affect(b *sub) {
	if !b.st.affected {
		b.st.affected = true
		s.affected = append(s.affected, b.st)
	}
}

// group returns the group of a key, made if there is none.
func (s *Server) group(k groupKey) *group {
	g := s.groups[k]
	if g == nil {
		rank, ok := s.rank[k.typ]
		if !ok {
			rank = unordered
		}
		g = &group{groupKey: k, rank: rank, members: map[uint32]*sub{}, sums: newSums(), entries: map[string]*entry{}}
		s.groups[k] = g
	}
	return g
}

// admit lets a stream have its configuration, now or in its turn.
func (s *Server) admit(st *stream) {
	if len(s.first) >= s.cfg.MaxFirst {
		st.state = stateQueued
		s.queued = append(s.queued, st)
		return
	}
	st.state = stateFirst
	st.deadline = s.cfg.Now().Add(firstMax)
	s.first = append(s.first, st)
	s.wake()
	st.pump()
}

// configured ends a stream's first configuration and gives its place to the next.
func (s *Server) configured(st *stream) {
	if i := slices.Index(s.first, st); i >= 0 {
		s.first = slices.Delete(s.first, i, i+1)
	}
	if st.state == stateFirst {
		st.state = stateServing
	}
	for len(s.queued) > 0 && len(s.first) < s.cfg.MaxFirst {
		next := s.queued[0]
		s.queued = s.queued[1:]
		s.admit(next)
	}
}

// wake tells Run that there may be an earlier deadline.
func (s *Server) wake() {
	select {
	case s.deadlines <- struct{}{}:
	default:
	}
}

// Run acts on deadlines until ctx ends: it ends watches that lingered, streams that
// waited too long, reports what was refused, and gives signs of life. Then it closes all streams with
// UNAVAILABLE, refuses new ones, and returns the error of ctx.
func (s *Server) Run(ctx context.Context) error {
	var pulse sync.WaitGroup
	defer pulse.Wait()
	pulse.Go(func() { s.pulse(ctx) })
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		next, deliveries := s.expire()
		for _, d := range deliveries {
			s.cfg.Delivered(d)
		}
		timer.Reset(next)
		select {
		case <-ctx.Done():
			s.shut()
			return ctx.Err()
		case <-s.deadlines:
		case <-timer.C:
		}
	}
}

func (s *Server) shut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for st := range s.streams {
		st.fail(status.Error(codes.Unavailable, "the control plane is shutting down"))
	}
}

// expire acts on deadlines that have passed and returns how long it is to the next.
func (s *Server) expire() (time.Duration, []Delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, next := s.cfg.Now(), time.Hour
	for len(s.lingers) > 0 {
		if wait := s.lingers[0].end.Sub(now); wait > 0 {
			next = min(next, wait)
			break
		}
		s.unwatch(s.lingers[0])
		s.lingers = s.lingers[1:]
	}
	for len(s.waiting) > 0 {
		st := s.waiting[0]
		if wait := st.deadline.Sub(now); wait > 0 {
			next = min(next, wait)
			break
		}
		s.waiting = s.waiting[1:]
		st.fail(status.Errorf(codes.Unavailable, "this replica knows %q, the node %q: try another", s.vectorText, st.node.Vector))
	}
	for len(s.first) > 0 {
		st := s.first[0]
		if wait := st.deadline.Sub(now); wait > 0 {
			next = min(next, wait)
			break
		}
		s.configured(st)
	}
	next = min(next, s.release(now))
	var deliveries []Delivery
	if !s.reportAt.IsZero() {
		if wait := s.reportAt.Sub(now); wait > 0 {
			next = min(next, wait)
		} else {
			deliveries = s.takeReports()
		}
	}
	return next, deliveries
}

// linger ends the watch of a name, or with a nil entry of all of a group, after a
// while. What lost its last subscriber again and again is queued once.
func (s *Server) linger(g *group, e *entry) {
	l := linger{g: g, e: e, idle: g.idle, end: s.cfg.Now().Add(s.cfg.Linger)}
	queued := &g.lingers
	if e != nil {
		l.idle, queued = e.idle, &e.lingers
	}
	if *queued {
		return
	}
	*queued = true
	s.lingers = append(s.lingers, l)
	s.wake()
}

// unwatch ends a watch, unless somebody subscribed meanwhile; if they left again, it
// lingers anew.
func (s *Server) unwatch(l linger) {
	g, e := l.g, l.e
	switch {
	case e == nil:
		g.lingers = false
		if len(g.wilds) > 0 || !g.watched {
			return
		}
		if g.idle != l.idle {
			s.linger(g, nil)
			return
		}
		g.watched, g.complete = false, false
		s.cfg.Source.Unwatch(g.scope, g.typ, Wildcard)
		for _, e := range slices.Clone(g.list) {
			g.release(e)
		}
	default:
		e.lingers = false
		if e.live > 0 || !e.watched {
			return
		}
		if e.idle != l.idle {
			s.linger(g, e)
			return
		}
		e.watched, e.known = false, false
		s.cfg.Source.Unwatch(g.scope, g.typ, e.name)
		g.release(e)
	}
	s.forgetGroup(g)
}

// forgetGroup drops a group of which nothing is left.
func (s *Server) forgetGroup(g *group) {
	if len(g.entries) == 0 && !g.watched && len(g.members) == 0 {
		delete(s.groups, g.groupKey)
	}
}
