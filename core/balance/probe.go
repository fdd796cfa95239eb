package balance

import "sync/atomic"

// proof is whether what is out has answered a probe since: whoever makes probes says so (Probed).
// Without anybody who makes them (Config.Ejected) it is taken for given, and a request is the first
// to find out.
type proof struct{ atomic.Bool }

// clusterProbes is how many endpoints of a tripped cluster are probed at once: one of them may be
// ill by itself.
const clusterProbes = 3

// Due appends to dst the endpoints that a probe is due for, and returns the time, in Unix
// nanoseconds, at which another will be; 0 is none. What requests may not be sent to is not probed
// either, and what cannot be reached (ir.Cluster.Reach) not before it can. An endpoint is due
// until Probed is told: whoever probes remembers what is under way.
func (v *View) Due(now int64, dst []*Endpoint) (due []*Endpoint, next int64) {
	later := func(at int64) {
		if next == 0 || at < next {
			next = at
		}
	}
	for _, g := range v.groups {
		s := g.state
		if s.changes.Load() == 1 && s.trips.Load() == 0 || g.unlawful(&Ask{Now: now}) != Kept || !g.local && !g.cluster.Reach.Usable() {
			continue
		}
		before := len(dst)
		for _, e := range g.all.endpoints {
			switch until := e.health.until.Load(); {
			case e.health.out.Load() == isIn || e.health.proved.Load():
			case until > now:
				later(until)
			default:
				dst = append(dst, e)
			}
		}
		if s.trips.Load() == 0 || s.proved.Load() {
			continue
		}
		if until := s.trippedUntil.Load(); until > now {
			later(until)
			continue
		}
		n := len(g.all.endpoints)
		for i := 0; i < n && len(dst)-before < clusterProbes; i++ {
			e := g.all.endpoints[(int(s.trips.Load())+i)%n] // another one each time
			if e.health.out.Load() == isIn {
				dst = append(dst, e)
			}
		}
	}
	return dst, next
}

// Probed says whether the endpoint answered a probe. One that did may be tried by one request, and so may its
// cluster, if it was tripped: there is a way to it. One that did not stays out for longer, as after
// a request that failed.
func (e *Endpoint) Probed(answered bool, now int64) {
	g, h := e.group, &e.health
	if answered {
		if h.until.Load() <= now { // else it has failed again since
			h.proved.Store(true)
		}
		if g.trips.Load() > 0 {
			g.proved.Store(true)
			g.trippedUntil.Store(0)
		}
		return
	}
	if out := h.out.Load(); out != isIn && h.until.Load() <= now {
		e.eject(now, out, h.level(out))
	}
	if g.trips.Load() > 0 && !g.proved.Load() && g.trippedUntil.Load() <= now {
		g.trip(now)
	}
}

// level is that of the ejections for one cause.
func (h *health) level(out uint32) *atomic.Int32 {
	if out == outRate {
		return &h.rated
	}
	return &h.ejections
}

// held reports whether an endpoint is out, and not to be tried yet.
func (e *Endpoint) held(now int64) bool {
	return e.health.out.Load() != isIn && (e.health.until.Load() > now || e.group.frame.Load().ejected != nil && !e.health.proved.Load())
}

// tripped reports whether the cluster as a whole is out, and not to be tried yet.
func (g *groupState) tripped(now int64) bool {
	return g.trippedUntil.Load() > now || g.trips.Load() > 0 && g.frame.Load().ejected != nil && !g.proved.Load()
}

// trip takes the cluster out for as long as its level says.
func (g *groupState) trip(now int64) {
	g.proved.Store(false)
	level := g.trips.Add(1)
	if level == 1 {
		g.tripTimes.Add(1)
	}
	g.trippedUntil.Store(now + int64(backoff(ejectFirst, ejectMax, level)))
	g.tell()
}

// tell wakes who makes probes.
func (g *groupState) tell() {
	if f := g.frame.Load(); f.ejected != nil {
		f.ejected()
	}
}
