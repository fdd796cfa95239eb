// Package intake lets requests into the application of one service at its server proxy. Its one idea
// is that a request visits: core/admission says whether it may, by what it is worth, how long it has and
// what visits took before, and a visit lasts from there to the head of the answer, when the work is done.
//
// It answers nobody, keeps nobody waiting and reads no clock: the pipeline does (dataplane/proxy). What is
// carried as bytes is no visit. Read Gate first.
package intake

import (
	"encoding/binary"
	"hash/maphash"
	"slices"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/core/admission"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/route"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/telemetry/exposition"
)

// FieldBrownout tells the application that requests are being turned away, and the most critical of those just
// now (mesh.Criticality): what it can do without for the answer, it is to leave out.
const FieldBrownout = "isthmus-brownout"

// Gate is the way into one application. It is safe for concurrent use and allocates nothing; nil lets everything in
// and knows of nothing.
type Gate struct {
	limiter admission.Limiter
	seed    maphash.Seed
	began   atomic.Pointer[time.Time] // of the first visit; what the limiter's time counts from
	// verdicts are those so far, by criticality, the least critical first.
	verdicts [len(mesh.Criticalities)][verdicts]atomic.Int64
}

// verdicts is how many an admission.Verdict has.
const verdicts = int(admission.Below) + 1

// New is the gate that a policy wants, nil for none. prev, nil for none, is the one so far: it has learnt.
func New(policy mesh.Admission, prev *Gate) *Gate {
	if policy.Mode != mesh.AdmissionAdaptive {
		return nil
	}
	g := prev
	if g == nil {
		g = &Gate{seed: maphash.MakeSeed()}
	}
	g.limiter.SetMaxWait(policy.MaxWait)
	return g
}

// SetLanes says how many requests the application serves at once, as its workload declares; 0 is to be learnt.
func (g *Gate) SetLanes(n int) {
	if g != nil {
		g.limiter.SetLanes(n)
	}
}

// Visit is what was let in. The zero value is none; it is one request's and is reused.
type Visit struct {
	gate   *Gate
	ticket admission.Ticket
}

// Ask is a request that would visit.
type Ask struct {
	Head *message.Head
	Now  time.Time
	// Deadline is when nobody wants the answer any more; zero is never.
	Deadline time.Time
	// Trace and ID are what requests of one cause have in common, of which either may be empty.
	Trace [16]byte
	ID    []byte
}

// Enter begins a visit, or says why not.
func (g *Gate) Enter(v *Visit, a *Ask) admission.Verdict {
	ask := admission.Ask{Now: g.since(a.Now), Criticality: criticality(a.Head), Key: g.key(a)}
	if !a.Deadline.IsZero() {
		ask.Left = max(1, int64(a.Deadline.Sub(a.Now)))
	}
	ticket, verdict := g.limiter.Enter(&ask)
	g.verdicts[slices.Index(mesh.Criticalities[:], ask.Criticality)][verdict].Add(1)
	if verdict == admission.Admitted {
		v.gate, v.ticket = g, ticket
	}
	return verdict
}

// Leave ends a visit, if there is one. answered is whether the application answered.
func (v *Visit) Leave(now time.Time, answered bool) {
	if v.gate != nil {
		v.leave(now, answered)
	}
}

func (v *Visit) leave(now time.Time, answered bool) {
	v.gate.limiter.Done(v.ticket, v.gate.since(now), answered)
	*v = Visit{}
}

// Refused is how many visitors were turned away so far, as there was too much to do.
func (g *Gate) Refused() (n int64) {
	if g == nil {
		return 0
	}
	for c := range g.verdicts {
		n += g.verdicts[c][admission.Full].Load() + g.verdicts[c][admission.Below].Load()
	}
	return n
}

// Tell writes FieldBrownout into a visitor's head while anything is turned away.
func (g *Gate) Tell(h *message.Head) {
	if g == nil {
		return
	}
	if c := g.limiter.Refuses(); c != "" {
		h.Add(FieldBrownout, string(c))
	}
}

// since is a time as the limiter has it. It follows the monotonic clock: one that is set back would stop it from learning.
func (g *Gate) since(now time.Time) int64 {
	began := g.began.Load()
	if began == nil {
		began = g.begin(now)
	}
	return int64(now.Sub(*began)) + 1
}

func (g *Gate) begin(now time.Time) *time.Time {
	g.began.CompareAndSwap(nil, &now)
	return g.began.Load()
}

// criticality is what a request says, which client proxies let through only if it is one.
func criticality(h *message.Head) mesh.Criticality {
	if c, ok := mesh.ParseCriticality(h.Get(route.FieldCriticality)); ok {
		return c
	}
	return mesh.DefaultCriticality
}

// key is the same for what is done for one cause: a trace, or else a request and its retries. Who writes either cannot tell
// where it will stand.
func (g *Gate) key(a *Ask) uint64 {
	if binary.LittleEndian.Uint64(a.Trace[:8])|binary.LittleEndian.Uint64(a.Trace[8:]) != 0 {
		return maphash.Bytes(g.seed, a.Trace[:])
	}
	return maphash.Bytes(g.seed, a.ID)
}

// words name the verdicts in metrics.
var words = [verdicts]string{"admitted", "late", "full", "below"}

// State is what a gate knows and does, for people.
type State struct {
	Destination string
	admission.Stats
	// Refuses is the most critical of what is turned away just now, if only in part; empty is nothing.
	Refuses mesh.Criticality `json:",omitempty"`
	// Verdicts so far, by criticality.
	Verdicts map[mesh.Criticality]map[string]int64
}

// States are those of services that have a gate, by name.
func States(gates map[mesh.ServiceName]*Gate) []State {
	var out []State
	for _, n := range named(gates) {
		g := gates[n]
		s := State{Destination: n.String(), Stats: g.limiter.Stats(), Refuses: g.limiter.Refuses(), Verdicts: map[mesh.Criticality]map[string]int64{}}
		for c := range g.verdicts {
			of := map[string]int64{}
			for v, word := range words {
				of[word] = g.verdicts[c][v].Load()
			}
			s.Verdicts[mesh.Criticalities[c]] = of
		}
		out = append(out, s)
	}
	return out
}

// named are the names of services that have a gate, in order.
func named(gates map[mesh.ServiceName]*Gate) []mesh.ServiceName {
	var names []mesh.ServiceName
	for n, g := range gates {
		if g != nil {
			names = append(names, n)
		}
	}
	slices.SortFunc(names, mesh.ServiceName.Compare)
	return names
}

// Expose says what the gates of services have done and would do now.
func Expose(w *exposition.Writer, gates map[mesh.ServiceName]*Gate) {
	names := named(gates)
	if len(names) == 0 {
		return
	}
	of := func(n mesh.ServiceName, more ...exposition.Label) []exposition.Label {
		return append([]exposition.Label{{Name: "destination_service", Value: n.Name}, {Name: "destination_namespace", Value: n.Namespace}}, more...)
	}
	w.Family("isthmus_admission_requests_total", exposition.Counter, "Requests that wanted into the application: admitted, or refused as late, full or below (docs/guides/traffic-policy.md).")
	for _, n := range names {
		for c := range gates[n].verdicts {
			for v := range words {
				w.Value(float64(gates[n].verdicts[c][v].Load()), of(n, exposition.Label{Name: "criticality", Value: string(mesh.Criticalities[c])}, exposition.Label{Name: "verdict", Value: words[v]})...)
			}
		}
	}
	gauge := func(name, help string, value func(*admission.Stats) float64) {
		w.Family(name, exposition.Gauge, help)
		for _, n := range names {
			s := gates[n].limiter.Stats()
			w.Value(value(&s), of(n)...)
		}
	}
	gauge("isthmus_admission_in_flight", "Requests in the application that have not been answered.", func(s *admission.Stats) float64 { return float64(s.InFlight) })
	gauge("isthmus_admission_limit", "Requests of usual criticality that are let in at a time; 0 is as many as come.", func(s *admission.Stats) float64 { return float64(s.Limit) })
	gauge("isthmus_admission_wait_seconds", "What one more request would wait in the application.", func(s *admission.Stats) float64 { return s.Wait.Seconds() })
}
