package balance

import (
	"slices"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// chooser is one choice among the endpoints of a cluster. The common case looks at one or two of
// them: it draws, and draws again when it meets one that cannot be had; only after redraws of those
// are all looked at. It lives on the stack.
type chooser struct {
	*group
	ask  *Ask
	rand random
	// from is what is drawn from: the group's subset, or all.
	from *pool
	// desperate takes whatever was not tried yet.
	desperate bool
	// panics says whether so many are out that all are used: it is counted when one is met.
	panics answer
}

// answer is a question that costs something, asked at most once.
type answer uint8

const (
	unasked answer = iota
	yes
	no
)

// choose returns an endpoint, or nil if none can be had.
func (g *group) choose(a *Ask, desperate bool) *Endpoint {
	c := chooser{group: g, ask: a, from: g.pool, rand: random(a.Rand), desperate: desperate}
	algorithm := g.state.frame.Load().balancing.Algorithm
	if g.table != nil {
		if a.Hashed {
			return c.hashed()
		}
		algorithm = mesh.AlgorithmPeakEWMA
	}
	var e *Endpoint
	switch {
	case len(g.pool.endpoints) == 0:
		return nil
	case algorithm == mesh.AlgorithmRoundRobin:
		e = c.turn()
	case algorithm == mesh.AlgorithmRandom:
		e, _ = c.one(nil, 0)
	default:
		e = c.better(algorithm == mesh.AlgorithmLeastRequest)
		if e != nil && len(g.pool.endpoints) < len(g.all.endpoints) && e.crowded(a.Now) {
			e = c.beyond(e, algorithm == mesh.AlgorithmLeastRequest)
		}
	}
	if e == nil && len(g.pool.endpoints) < len(g.all.endpoints) {
		c.panics = unasked
		e, _ = c.scan(g.all, nil) // better outside of the subset than outside of the cluster
	}
	return e
}

// admits reports whether an endpoint may be had.
func (c *chooser) admits(e *Endpoint, among *pool) bool {
	if c.desperate {
		return !slices.Contains(c.ask.Tried, e)
	}
	switch e.unwise(c.ask) {
	case Kept:
		return !c.spares(c.ask, e)
	case DropEjected:
		if c.panics == unasked {
			c.panics = no
			if c.inPanic(c.ask, among) {
				c.panics = yes
			}
		}
		return c.panics == yes
	}
	return false
}

// inPanic reports whether more are out than may be: then all are used, as what seems to be their
// death is likelier ours, or load. A second try goes to one that is in, and when all are out there
// is no reason to believe in any while another cluster is left.
func (g *group) inPanic(a *Ask, among *pool) bool {
	if len(a.Tried) > 0 {
		return false
	}
	out, n := among.out(g.state), len(among.endpoints)
	return out < n && out*100 > g.state.frame.Load().outlier.MaxEjectedPercent*n
}

// one draws one endpoint by weight, warmth and, where usual is not 0, by speed, other than not, with its index in
// the pool; nil if there is none.
func (c *chooser) one(not *Endpoint, usual float64) (*Endpoint, int) {
	warmup := c.state.frame.Load().balancing.Warmup
	var slow *Endpoint
	slowAt := 0
	for range redraws {
		i := c.from.draw(c.rand.next())
		e := c.from.endpoints[i]
		if e == not || !c.admits(e, c.from) {
			continue
		}
		if f := e.warmth(c.ask.Now, warmup); f < 1 && c.rand.float() >= f {
			continue
		}
		if usual > 0 { // one that takes thrice as long is drawn a third as often
			if s := e.serviceTime(c.ask.Now, usual); s > usual && c.rand.float()*s >= usual {
				slow, slowAt = e, i
				continue
			}
		}
		return e, i
	}
	if slow != nil {
		return slow, slowAt
	}
	return c.scan(c.from, not)
}

// scan is one by looking at all of them.
func (c *chooser) scan(p *pool, not *Endpoint) (*Endpoint, int) {
	warmup := c.state.frame.Load().balancing.Warmup
	sum := 0.0
	for i, e := range p.endpoints {
		if e != not && c.admits(e, p) {
			sum += p.weight(i) * e.warmth(c.ask.Now, warmup)
		}
	}
	if sum == 0 {
		return nil, 0
	}
	left := c.rand.float() * sum
	last := -1
	for i, e := range p.endpoints {
		if e == not || !c.admits(e, p) {
			continue
		}
		last = i
		if left -= p.weight(i) * e.warmth(c.ask.Now, warmup); left < 0 {
			break
		}
	}
	if last < 0 { // it went while we looked
		return nil, 0
	}
	return p.endpoints[last], last
}

// better is the better of two, drawn by weight (Mitzenmacher, IEEE TPDS 12(10), 2001). Where they are alike it
// is the first, so that shares follow weights while nothing is busy.
func (c *chooser) better(least bool) *Endpoint {
	now, warmup := c.ask.Now, c.state.frame.Load().balancing.Warmup
	usual := 0.0
	if !least {
		usual = c.state.usual(now)
	}
	x, i := c.one(nil, usual)
	if x == nil || len(c.from.endpoints) == 1 {
		return x
	}
	y, j := c.one(x, usual)
	if y == nil {
		return x
	}
	wx, wy := c.from.weight(i)*x.warmth(now, warmup), c.from.weight(j)*y.warmth(now, warmup)
	if least {
		if y.pressure(now, wy) < x.pressure(now, wx) {
			return y
		}
		return x
	}
	if y.sooner(x, now, usual, wy, wx) {
		return y
	}
	return x
}

// sooner reports whether y is likelier to answer first than x. Of two that are about as quick it is who has less to do, in times
// of one request: they are told apart before their lanes are full. Of others it is when the lanes that are free, or the queue, let
// one be served. Nothing speaks against one that was never measured: it is taken for as quick as the other, so that it is soon.
func (y *Endpoint) sooner(x *Endpoint, now int64, usual, wy, wx float64) bool {
	sy, sx := y.serviceTime(now, usual), x.serviceTime(now, usual)
	switch {
	case y.service.value.Load() == 0:
		sy = min(sy, sx)
	case x.service.value.Load() == 0:
		sx = min(sx, sy)
	}
	py, px := y.pressure(now, wy), x.pressure(now, wx)
	ly, lx := y.lanesOf(), x.lanesOf()
	if ly <= 0 || lx <= 0 || sy < alike*sx && sx < alike*sy {
		return sy*py < sx*px
	}
	return sy*max(1, py/ly) < sx*max(1, px/lx)
}

// beyond looks outside of the subset for one that is less busy than e. A proxy that sends so much that its
// subset is crowded needs more connections, and has the use for them: a gateway whose requests are a
// service's whole load would else leave most endpoints idle.
func (c *chooser) beyond(e *Endpoint, least bool) *Endpoint {
	c.from, c.panics = c.all, unasked
	other := c.better(least)
	if other == nil {
		return e
	}
	usual := c.state.usual(c.ask.Now)
	if least && other.pressure(c.ask.Now, 1) < e.pressure(c.ask.Now, 1) || !least && other.score(c.ask.Now, usual, 1) < e.score(c.ask.Now, usual, 1) {
		return other
	}
	return e
}

// crowded reports whether an endpoint has half as many requests as it serves at once, as far as is known: less than
// that, whom else one might ask makes no difference.
func (e *Endpoint) crowded(now int64) bool {
	lanes := e.lanesOf()
	if lanes == 0 {
		lanes = lanesUnknown
	}
	return e.load(now) >= lanes/2
}

// turn is the next in the order of the round robin.
func (c *chooser) turn() *Endpoint {
	p := c.pool
	n, warmup := len(p.endpoints), c.state.frame.Load().balancing.Warmup
	if p.turns != nil {
		n = len(p.turns)
	}
	at := 0
	for range redraws {
		at = int(c.state.turn.Add(1) % uint64(n))
		if p.turns != nil {
			at = int(p.turns[at])
		}
		e := p.endpoints[at]
		if !c.admits(e, p) {
			continue
		}
		if f := e.warmth(c.ask.Now, warmup); f < 1 && c.rand.float() >= f {
			continue
		}
		return e
	}
	e, _ := c.scan(p, nil)
	return e
}

// hashed is the endpoint of the key, or the next in the order of the table.
func (c *chooser) hashed() *Endpoint {
	t, n := c.table, len(c.all.endpoints)
	at := t.start(c.ask.Hash)
	for range 2*n + redraws {
		if e := c.all.endpoints[t.entries[at]]; c.admits(e, c.all) {
			return e
		}
		if at++; at == len(t.entries) {
			at = 0
		}
	}
	home := int(t.entries[t.start(c.ask.Hash)])
	for i := range n {
		if e := c.all.endpoints[(home+i)%n]; c.admits(e, c.all) {
			return e
		}
	}
	return nil
}
