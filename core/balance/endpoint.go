package balance

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Key names an endpoint among all of a service: by tag where its address is known, by
// slot and the generation at which the slot last moved where it is not.
type Key struct {
	Cluster mesh.ClusterName
	Tag     string
	Slot    uint32
	Moved   uint64
}

// Endpoint is one place to send a request to, with what was measured of it. The
// measurements are atomics: any number of goroutines pick and report at once. An endpoint
// outlives a change of configuration that keeps its Key.
type Endpoint struct {
	Key
	// Proxy is the server proxy where it is reached directly; invalid behind gateways.
	Proxy netip.AddrPort
	Zone  mesh.Zone

	// lanes are what the configuration says of its concurrency; 0 is unknown.
	lanes uint32
	// place seeds its places in tables: every proxy has the same. name is what sessions call it.
	place, name uint64
	group       *groupState

	inFlight atomic.Int64
	service  ewma
	reported load
	// penalty ≥ 1 as float bits, as of penalizedAt.
	penalty     atomic.Uint64
	penalizedAt atomic.Int64
	// since is when it was new or came back; 0 is long ago.
	since atomic.Int64
	// learnt is what a server proxy behind gateways said is its tag.
	learnt atomic.Pointer[learnt]
	health health
	// drains is nil while it is not taken out of use, nor back into it.
	drains atomic.Pointer[mesh.Ramps]
}

// Outcome is how a try ended, as far as it tells of the endpoint.
type Outcome uint8

// The outcomes of a try.
const (
	// Served: an answer came that speaks for the endpoint.
	Served Outcome = iota
	// NeverExecuted: refused, unreachable, TLS, refused stream: counts towards ejection.
	NeverExecuted
	// Failed: executed, or perhaps, and failed: 5xx, reset. Costs a penalty, and counts in the
	// success rate.
	Failed
	// TimedOut: no answer in time while the path is alive: a penalty in latency.
	TimedOut
	// Shed: the server proxy declined for load. Overload must never look like death.
	Shed
	// Abandoned: the caller left; tells nothing.
	Abandoned
)

// Pick is one choice, to be ended by Done exactly once.
type Pick struct {
	Endpoint *Endpoint
	start    int64
	trial    bool
}

// Opened says that the way to the endpoint is open: the service time runs from here, so
// that the making of a connection is not taken for the endpoint's own slowness.
func (p *Pick) Opened(now int64) { p.start = now }

// Done reports how the try ended. now is Unix nanoseconds of the clock that Pick was given.
func (p *Pick) Done(o Outcome, now int64) {
	e := p.Endpoint
	e.inFlight.Add(-1)
	e.group.ended.Count(o != Served, o != Shed && o != Abandoned)
	switch o {
	case Served:
		e.alive(now, true)
		e.service.peak(now-p.start, now)
		e.group.typical.mean(now-p.start, now, typicalShare)
		e.count(true, now)
	case Shed:
		e.alive(now, true)
	case Failed:
		e.alive(now, false)
		e.punish(now)
		e.count(false, now)
	case TimedOut:
		e.service.peak(now-p.start, now)
		e.punish(now)
		if out := e.health.out.Load(); p.trial && out != isIn && e.health.until.Load() <= now {
			e.eject(now, out, e.health.level(out)) // a trial must speak for it: the next would wait as long
		}
	case NeverExecuted:
		e.neverExecuted(now)
	}
	if p.trial {
		e.health.trial.Store(false)
	}
}

func (e *Endpoint) begin(a *Ask) Pick {
	e.inFlight.Add(1)
	p := Pick{Endpoint: e, start: a.Now}
	if e.health.out.Load() != isIn && e.health.trial.CompareAndSwap(false, true) {
		p.trial = true
	}
	return p
}

// Stats is what was measured of an endpoint, for people.
type Stats struct {
	InFlight int64
	// Reported is what other proxies have in flight, as its server proxy last said.
	Reported int64
	Service  time.Duration
	Penalty  float64
	// Warmth is the part of its share that it gets, from 0.1 to 1.
	Warmth float64
	// Failures never executed in a row.
	Failures int32
	// Ejected is why it is out, "" if it is not; EjectedFor how long yet: 0 is until it answers a probe,
	// and then one request.
	Ejected      string `json:",omitempty"`
	EjectedFor   time.Duration
	ScoreSeconds float64
}

// Stats reads the measurements as of now.
func (e *Endpoint) Stats(now int64) Stats {
	f := e.group.frame.Load()
	return Stats{InFlight: e.inFlight.Load(), Reported: e.reported.others.Load(), Service: e.service.read(), Penalty: e.penaltyAt(now),
		Warmth: e.warmth(now, f.balancing.Warmup), Failures: e.health.failures.Load(), Ejected: e.health.why(),
		EjectedFor: time.Duration(max(0, e.health.until.Load()-now)), ScoreSeconds: e.score(now, e.group.usual(now), 1) / 1e9}
}

// Service is the endpoint's usual service time, 0 if it has not answered yet.
func (e *Endpoint) Service() time.Duration { return e.service.read() }

// score is what a request sent there would wait, in nanoseconds: the lower the better.
// usual stands for the service time of an endpoint that was never measured: taken for faster than
// the others, a new one would be flocked to. weight is relative to the mean: what is in flight is
// held against it, while the draw has given it its share already.
func (e *Endpoint) score(now int64, usual, weight float64) float64 {
	return e.serviceTime(now, usual) * e.pressure(now, weight)
}

// serviceTime is what one request there takes, in nanoseconds: as its server proxy says, if it has said so
// lately, else as it was measured from here. A server proxy reckons by the number of requests, of which one that is
// taken for slow gets few: what was measured from here, the way included, is shorter only when that word is of the past, or
// nobody here has asked for a while.
func (e *Endpoint) serviceTime(now int64, usual float64) float64 {
	if at := e.reported.at.Load(); at != 0 && now-at < int64(reportFresh) {
		if s := float64(e.reported.service.Load()); s > 0 {
			if own := e.service.faded(now); own > 0 {
				s = min(s, own)
			}
			return max(s, float64(floor))
		}
	}
	if s := e.service.faded(now); s > 0 {
		return s
	}
	return usual
}

// lanesOf is how many requests the endpoint serves at once; 0 is unknown.
func (e *Endpoint) lanesOf() float64 {
	if n := e.reported.lanes.Load(); n > 0 {
		return float64(n)
	}
	return float64(e.lanes)
}

// pressure is score without service times.
func (e *Endpoint) pressure(now int64, weight float64) float64 {
	p := (e.load(now)/weight + 1) * e.penaltyAt(now)
	if e.held(now) { // drawn in panic: last among those drawn
		p *= penaltyMax
	}
	return p
}

// learnt is an endpoint's tag as its server proxy said it.
type learnt struct {
	tag  string
	name uint64
}

// Learn takes in what the server proxy says is its tag, and returns it as a string that lasts. It
// allocates only when there is something new.
func (e *Endpoint) Learn(service mesh.ServiceName, tag []byte) string {
	if e.Tag != "" || len(tag) == 0 || len(tag) > tagMax {
		return e.Tag
	}
	if l := e.learnt.Load(); l != nil && l.tag == string(tag) {
		return l.tag
	}
	l := &learnt{tag: string(tag)}
	l.name = nameOf(service, Key{Cluster: e.Cluster, Tag: l.tag})
	e.learnt.Store(l)
	return l.tag
}

// tagMax is the longest tag that is learnt, in bytes.
const tagMax = 64

// Label names the endpoint for people: by its tag, known or learnt, else by its slot.
func (e *Endpoint) Label() string {
	if e.Tag != "" {
		return e.Tag
	}
	return fmt.Sprintf("slot %d", e.Slot)
}

func newEndpoint(service mesh.ServiceName, k Key, e ir.Endpoint, g *groupState) *Endpoint {
	out := &Endpoint{Key: k, Proxy: e.Proxy, Zone: e.Zone, lanes: e.Lanes, group: g}
	out.name = nameOf(service, k)
	if k.Tag == "" {
		k.Moved = 0 // a slot keeps its places in tables, whoever it is given to
	}
	out.place = nameOf(service, k)
	return out
}

// nameOf is a hash of an endpoint's key that is the same in every process.
func nameOf(service mesh.ServiceName, k Key) uint64 {
	h := hashString(hashSeed, service.Namespace)
	h = hashString(hashByte(h, '/'), service.Name)
	h = hashString(hashByte(h, 0), string(k.Cluster))
	h = hashString(hashByte(h, 0), k.Tag)
	if k.Tag == "" {
		for _, n := range [...]uint64{uint64(k.Slot), k.Moved} {
			for shift := 0; shift < 64; shift += 8 {
				h = hashByte(h, byte(n>>shift))
			}
		}
	}
	return mix(h)
}
