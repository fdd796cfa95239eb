package xds

import (
	"cmp"
	"context"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// Wildcard asks for every resource of a type.
const Wildcard = "*"

// Bounds of one stream.
const (
	maxTypes = 32
	maxNames = 1 << 17
)

type state int

const (
	stateNew     state = iota // no request yet
	stateBehind               // the node knows more than this server
	stateQueued               // waiting for its turn to be configured
	stateFirst                // on its way to a first configuration
	stateServing              // following
)

// stream is one client's stream. All but what is noted is guarded by the server's mutex.
type stream struct {
	s         *Server
	node      Node
	connected time.Time
	told      time.Time // when it was sent something last
	state     state
	deadline  time.Time // of stateBehind and stateFirst
	subs      []*sub    // by rank, unordered ones last
	types     int       // that the node said it would ask for first
	names     int
	affected  bool
	held      bool // what is due waits for the next wave
	awaits    bool // the source has spoken of what it asked for; until it is affected
	closed    bool

	// out holds at most one response a type: it never blocks who sends to it.
	out  chan *frame
	beat chan struct{} // a sign of life is due; holds one
	wake func(bool)    // tells the carrier that there is something in either, or that done is closed; true: to be sent by the caller
	once sync.Once
	done chan struct{} // closed with err set
	err  error
}

// Conversation is a client's stream, apart from what carries it: see package carrier.
type Conversation struct{ st *stream }

// requests are read into these: the names of a first one take room that a stream does not need again.
var requests = sync.Pool{New: func() any { return new(request) }}

// Converse opens a stream of the method Method. wake is called when there is something for Next; here says that the calling
// goroutine may send it.
func (s *Server) Converse(ctx context.Context, wake func(here bool)) (*Conversation, error) {
	id, err := s.cfg.Identify(ctx)
	if err != nil {
		return nil, status.Errorf(codes.Unauthenticated, "identify the peer: %v", err)
	}
	now := s.cfg.Now()
	st := &stream{s: s, node: Node{Identity: id}, connected: now, told: now, out: make(chan *frame, maxTypes),
		beat: make(chan struct{}, 1), done: make(chan struct{}), wake: wake}
	if err := s.open(st); err != nil {
		return nil, err
	}
	return &Conversation{st: st}, nil
}

// Take takes a message of the client. The error is the status that the stream ends with.
func (c *Conversation) Take(message []byte) (err error) {
	defer c.st.s.recovered(&err)
	r := requests.Get().(*request)
	defer requests.Put(r)
	defer r.reset() // what it holds is the stream's, or nobody's
	if err := r.parse(message); err != nil {
		return status.Errorf(codes.Internal, "a request is not understood: %v", err)
	}
	return c.st.s.request(c.st, r)
}

// Next is the next message to send, nil if there is none now. ended says that there will be none,
// with the status err.
func (c *Conversation) Next() (message mem.BufferSlice, ended bool, err error) {
	select {
	case <-c.st.done:
		return nil, true, c.st.err
	default:
	}
	select {
	case <-c.st.beat:
		return signOfLife, false, nil
	case f := <-c.st.out:
		return f.buffers, false, nil
	default:
		return nil, false, nil
	}
}

// Close forgets the stream.
func (c *Conversation) Close() { c.st.s.close(c.st) }

// signOfLife is an empty message.
var signOfLife = mem.BufferSlice{mem.SliceBuffer(nil)}

// recovered turns a panic into the end of one stream.
func (s *Server) recovered(err *error) {
	p := recover()
	if p == nil {
		return
	}
	s.cfg.Log.Error("a stream failed by a fault of ours", "panic", p, "stack", string(debug.Stack()))
	*err = status.Error(codes.Internal, "internal error")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counters.Panics++
}

// fail ends the stream; the first error counts.
func (st *stream) fail(err error) {
	st.once.Do(func() {
		st.err = err
		close(st.done)
	})
	st.wake(false)
}

func (s *Server) open(st *stream) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return status.Error(codes.Unavailable, "the control plane is shutting down")
	}
	if len(s.streams) >= s.cfg.MaxStreams {
		return status.Errorf(codes.ResourceExhausted, "%d streams are served already", len(s.streams))
	}
	s.streams[st] = struct{}{}
	s.counters.Streams++
	return nil
}

// close forgets a stream.
func (s *Server) close(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st.closed = true
	delete(s.streams, st)
	is := func(o *stream) bool { return o == st }
	s.waiting = slices.DeleteFunc(s.waiting, is)
	s.queued = slices.DeleteFunc(s.queued, is)
	for _, b := range st.subs {
		b.g.leave(b)
		b.leave()
		s.dropWild(b)
		s.forgetGroup(b.g)
	}
	s.configured(st)
}

// request takes one message of a client.
func (s *Server) request(st *stream, r *request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counters.Requests++
	if st.closed {
		return nil
	}
	first := st.state == stateNew
	if first {
		if r.node == nil || r.node.ID == "" {
			return status.Error(codes.InvalidArgument, "the first request names no node")
		}
		id := st.node.Identity
		st.node = *r.node
		st.node.Identity = id
		st.types = r.types
		if why := s.unserved(&st.node); why != "" {
			s.refuse(st.node, why)
			return status.Error(codes.FailedPrecondition, why)
		}
		delete(s.refusedNodes, st.node.ID)
	}
	if r.typ == "" {
		return status.Error(codes.InvalidArgument, "a request names no type")
	}
	b, err := st.sub(r)
	if err != nil {
		return err
	}
	if r.answers != 0 {
		b.answer(r)
	}
	if len(r.unsubscribe)+len(r.subscribe)+len(r.initial) > 0 {
		st.held = false // who asks does not wait
		if err := s.resubscribe(b, r); err != nil {
			return err
		}
	}
	if first {
		s.begin(st)
	}
	st.pump()
	if st.state == stateFirst && len(st.subs) >= st.types && st.settled() {
		s.configured(st)
	}
	return nil
}

// begin decides whether a new stream can be served.
func (s *Server) begin(st *stream) {
	if s.covers(st.node.Vector) {
		s.admit(st)
		return
	}
	st.state = stateBehind
	st.deadline = s.cfg.Now().Add(s.cfg.CatchUp)
	s.waiting = append(s.waiting, st)
	s.wake()
}

// sub returns the stream's subscription to the request's type. The first request of a
// type that names nothing asks for everything ("Basic Protocol Overview" of xDS).
func (st *stream) sub(r *request) (*sub, error) {
	for _, b := range st.subs {
		if b.g.typ == r.typ {
			return b, nil
		}
	}
	if len(st.subs) >= maxTypes {
		return nil, status.Errorf(codes.ResourceExhausted, "a stream follows at most %d types", maxTypes)
	}
	scope, err := st.s.cfg.Source.Scope(st.node, r.typ)
	if err != nil {
		return nil, status.Errorf(codes.PermissionDenied, "read %s: %v", r.typ, err)
	}
	b := &sub{st: st, g: st.s.group(groupKey{scope, r.typ}), oldest: none, fresh: true}
	b.g.join(b)
	st.subs = append(st.subs, b)
	slices.SortStableFunc(st.subs, func(x, y *sub) int { return cmp.Compare(uint(x.g.rank), uint(y.g.rank)) })
	if len(r.subscribe)+len(r.unsubscribe) == 0 {
		r.subscribe = append(r.subscribe, Wildcard)
	}
	return b, nil
}

// resubscribe changes what is asked for: what is left first, then what is new.
func (s *Server) resubscribe(b *sub, r *request) error {
	for _, name := range r.unsubscribe {
		s.unsubscribe(b, name)
	}
	if len(b.marks) == 0 && len(r.initial) > 64 && slices.Contains(r.subscribe, Wildcard) {
		b.resume(r.initial)
	}
	b.g.broaden(b, len(r.subscribe), s.manyNames)
	b.marks = slices.Grow(b.marks, len(r.subscribe))
	var e *entry
	for _, name := range r.subscribe {
		if b.st.names >= maxNames {
			return status.Errorf(codes.ResourceExhausted, "a stream asks for at most %d names", maxNames)
		}
		if name == Wildcard {
			s.subscribeAll(b, r.initial)
		} else {
			e = b.g.after(e, name)
			s.subscribe(b, e, r.initial)
		}
	}
	b.share()
	return nil
}

// resume makes the marks of a large set at once, in order.
func (b *sub) resume(initial map[string]string) {
	for name := range initial {
		e := b.g.entry(name)
		e.refs++
		b.ids = append(b.ids, e.id)
	}
	slices.Sort(b.ids)
	b.marks, b.own = make([]mark, len(b.ids)), true
}

func (s *Server) subscribeAll(b *sub, initial map[string]string) {
	g := b.g
	if b.wild {
		initial = nil // only of the first request, as it is at most one message
	} else {
		b.wild = true
		b.st.names++
		g.addWild(b)
		if !g.watched {
			g.watched = true
			s.cfg.Source.Watch(g.scope, g.typ, Wildcard)
		}
	}
	b.owes = true
	b.marks = slices.Grow(b.marks, max(len(g.list)-len(b.marks), 0))
	for name, version := range initial {
		b.set(b.mark(g.entry(name)), sumOf(name, version))
	}
	for _, e := range g.list {
		if !e.dropped {
			b.touch(e, s.seq)
		}
	}
}

func (s *Server) subscribe(b *sub, e *entry, initial map[string]string) {
	i := b.mark(e)
	if !b.marks[i].is(isNamed) {
		b.marks[i].mark(isNamed)
		b.named++
		b.st.names++
		e.subscribed(b)
		if !e.known && e.cur != nil {
			e.known = true // as part of everything
		}
		if !e.known {
			b.unanswered++
		}
		if !e.watched {
			e.watched = true
			s.cfg.Source.Watch(b.g.scope, b.g.typ, e.name)
		}
	} else {
		b.set(i, sumNone) // asked for again: sent again
	}
	if version, ok := initial[e.name]; ok {
		b.set(i, sumOf(e.name, version))
	}
	b.owes = true
	b.touch(e, s.seq)
}

func (s *Server) unsubscribe(b *sub, name string) {
	if name == Wildcard {
		s.dropWild(b)
		for i := len(b.marks) - 1; i >= 0; i-- {
			if !b.marks[i].is(isNamed) {
				b.forget(i, b.g.byID(b.ids[i]))
			}
		}
		return
	}
	e := b.g.entries[name]
	if e == nil {
		return
	}
	if i, ok := b.find(e.id); ok {
		b.dropName(e, i)
		if !b.wild {
			b.forget(i, e)
		}
	}
}

// dropName ends a subscription by name.
func (b *sub) dropName(e *entry, i int) {
	if !b.marks[i].is(isNamed) {
		return
	}
	b.marks[i].unmark(isNamed)
	b.named--
	b.st.names--
	e.unsubscribed(b)
	if !e.known {
		b.unanswered--
	}
	if e.live == 0 && e.watched {
		b.st.s.linger(b.g, e)
	}
}

func (s *Server) dropWild(b *sub) {
	if !b.wild {
		return
	}
	b.wild = false
	b.st.names--
	b.g.dropWild(b)
	if len(b.g.wilds) == 0 {
		s.linger(b.g, nil)
	}
}

// settled reports that the stream has all it asked for, and answered.
func (st *stream) settled() bool {
	for _, b := range st.subs {
		if b.owes || b.inflight != nil || !b.satisfied() {
			return false
		}
	}
	return true
}

// pump queues for sending whatever may be sent now. The rules, over the types of
// Config.Order:
//
//   - At most one response a type is unanswered.
//   - An addition waits while a type of lower rank has additions that are not sent yet: what
//     it refers to goes first. The client takes responses in order, so sent is enough.
//     A wildcard that is not complete counts as such.
//   - A removal waits until the additions of its publish, and of those before, have been
//     answered: until then something may refer to it. It also waits for such removals of
//     types of higher rank to be sent.
func (st *stream) pump() {
	if (st.state != stateFirst && st.state != stateServing) || st.closed || st.held || len(st.subs) < st.types {
		return
	}
	defer st.caught()
	behind := false
	removals := false
	for _, b := range st.subs {
		ordered := b.g.rank != unordered
		if b.heldBack() {
			behind = behind || ordered
			continue
		}
		if b.inflight == nil && !(ordered && behind) {
			before := uint64(0)
			if !ordered {
				before = none
			}
			b.send(true, before)
		}
		behind = behind || (ordered && b.ups.len() > 0)
		removals = removals || b.downs.len() > 0
	}
	if removals {
		st.remove()
	}
}

// remove sends removals of ordered types, referrers first.
func (st *stream) remove() {
	before := uint64(none)
	for _, b := range st.subs {
		if b.g.rank == unordered {
			continue
		}
		if b.heldBack() {
			return // nobody knows what it will refer to
		}
		before = min(before, b.ups.oldest())
		if b.inflight != nil {
			before = min(before, b.oldest)
		}
	}
	for _, b := range slices.Backward(st.subs) {
		if b.g.rank == unordered {
			continue
		}
		if b.inflight == nil && b.downs.first() < before {
			b.send(false, before)
		}
		before = min(before, b.downs.oldest())
	}
}

// caught turns a panic while a stream is served by another's goroutine into the end of
// that stream. The mutex is held.
func (st *stream) caught() {
	if p := recover(); p != nil {
		st.s.counters.Panics++
		st.s.cfg.Log.Error("a stream failed by a fault of ours", "panic", p, "stack", string(debug.Stack()))
		st.fail(status.Error(codes.Internal, "internal error"))
	}
}
