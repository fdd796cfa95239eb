// Package fallback is what a client proxy answers in the place of a service that cannot: an answer that a policy states,
// what another service says, or what the service itself said before. Its one idea is that a plan is looked at only when a
// request has failed for good, so that it costs nothing while all is well.
//
// It sends nothing, tries nothing again and asks no service: dataplane/proxy does, at the end of its pipeline. It revalidates
// nothing and gives nothing from its cache while the service answers: it is no cache to save requests. Read Plan first, then
// Cache.
package fallback

import (
	"slices"
	"sync/atomic"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/condition"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/telemetry/exposition"
)

// Field on an answer says that it is not the service's own of now, and what gave it: "static", "cache", or "service" and its
// name.
const Field = "isthmus-fallback"

// Plan is what is done for one service. It is immutable but for its counts; nil does nothing.
type Plan struct {
	of     *ir.Fallback
	on     condition.Set
	counts *counts
}

// Outcome is what became of a failure that a plan is for.
type Outcome uint8

// The outcomes.
const (
	// Answered: the client got an answer of the fallback.
	Answered Outcome = iota
	// Without: there was none to give: nothing kept, a body that is gone, a service that may not be asked.
	Without
	// Failed: the other service failed as well.
	Failed
	outcomes
)

// words name the outcomes in metrics.
var words = [outcomes]string{"answered", "without", "failed"}

type counts [outcomes]atomic.Int64

// New makes the plan of a policy, nil for none. prev, nil for none, lends what it counted.
func New(f *ir.Fallback, prev *Plan) *Plan {
	if f.Kind() == "" {
		return nil
	}
	p := &Plan{of: f, on: condition.Fallback(f.Fallback.On), counts: &counts{}}
	if prev != nil && prev.of.Kind() == f.Kind() {
		p.counts = prev.counts
	}
	return p
}

// Kind is mesh.Fallback.Kind.
func (p *Plan) Kind() string { return p.of.Kind() }

// For reports whether the plan is for a request that failed so. Connections and upgrades have no answers to give; a client of
// gRPC could read none but another service's.
func (p *Plan) For(h *message.Head, status int, reason mesh.Reason) bool {
	if h.IsConnect() || len(h.Upgrade) > 0 || !p.on.Failed(status, reason) {
		return false
	}
	switch {
	case p.of.Fallback.Cache != nil:
		return cached(h)
	case p.of.Fallback.Static != nil && message.IsGRPC(h.Get("content-type")):
		return false
	}
	return p.of.Fallback.AnyMethod || safe(h)
}

// safe reports whether a method is one that changes nothing (RFC 9110 §9.2.1).
func safe(h *message.Head) bool {
	switch string(h.Method) {
	case "GET", "HEAD", "OPTIONS":
		return true
	}
	return false
}

// Other is the service that is asked instead, nil if the plan is another or it may not be asked.
func (p *Plan) Other() *mesh.FallbackService {
	if p.of.Missing != "" {
		return nil
	}
	return p.of.Fallback.Service
}

// Able reports whether the plan has an answer to a request; streams says that its body cannot be sent again.
func (p *Plan) Able(c *Cache, a *Ask, streams bool) bool {
	switch f := &p.of.Fallback; {
	case f.Static != nil:
		return true
	case f.Cache != nil:
		return c.Has(a, f.Cache.MaxStale)
	}
	return p.Other() != nil && !streams
}

// Answer writes the head of the plan's own answer, and returns its body; false if it has none.
func (p *Plan) Answer(c *Cache, a *Ask, h *message.Head) (body []byte, ok bool) {
	f := &p.of.Fallback
	if f.Cache != nil {
		return c.Find(a, f.Cache.MaxStale, h)
	}
	s := f.Static
	if s == nil {
		return nil, false
	}
	h.Reset()
	h.Status, h.Length = s.Status, int64(len(s.Body))
	if s.ContentType != "" {
		h.Add("content-type", s.ContentType)
	}
	for _, v := range s.Headers {
		h.Add(v.Name, v.Value)
	}
	return []byte(s.Body), true
}

// Keeps reports whether the plan answers with what the service said before.
func (p *Plan) Keeps() bool { return p != nil && p.of.Fallback.Cache != nil }

// Answered is how many failures the plan has answered; of nil it is none.
func (p *Plan) Answered() int64 {
	if p == nil {
		return 0
	}
	return p.counts[Answered].Load()
}

// Count counts what became of a failure.
func (p *Plan) Count(o Outcome) { p.counts[o].Add(1) }

// Expose says what became of failures, by service.
func Expose(w *exposition.Writer, plans map[mesh.ServiceName]*Plan) {
	var names []mesh.ServiceName
	for n, p := range plans {
		if p != nil {
			names = append(names, n)
		}
	}
	if len(names) == 0 {
		return
	}
	slices.SortFunc(names, mesh.ServiceName.Compare)
	w.Family("isthmus_fallbacks_total", exposition.Counter, "Failures that a fallback is for: answered by it, without an answer of it, or failed as well (docs/guides/degradation.md).")
	for _, n := range names {
		for o, word := range words {
			w.Value(float64(plans[n].counts[o].Load()), exposition.Label{Name: "destination_service", Value: n.Name}, exposition.Label{Name: "destination_namespace", Value: n.Namespace},
				exposition.Label{Name: "fallback", Value: plans[n].of.Kind()}, exposition.Label{Name: "outcome", Value: word})
		}
	}
}
