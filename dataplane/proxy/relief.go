package proxy

import (
	"strconv"

	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/dataplane/fallback"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// A request that has failed for good may have an answer all the same: what the policy of its service says (dataplane/fallback).
// Nothing of this is looked at before.

// plan is what is to be done for a request that failed so; nil for nothing.
func (r *request) plan(status int, reason mesh.Reason) *fallback.Plan {
	if r.target == nil {
		r.target, r.port = r.service, r.rec.Port
	}
	s := r.target
	if s == nil || s.Fallback == nil || r.answered || r.rec.Mirror || r.rec.Fallback != "" || !s.Fallback.For(&r.head, status, reason) {
		return nil
	}
	return s.Fallback
}

// question is the request as a cache of answers knows it.
func (r *request) question() *fallback.Ask {
	return &fallback.Ask{Service: r.target.Name, Port: r.port, Head: &r.head, Now: r.now}
}

// relievable reports whether an answer of the application is a failure in whose place there is another; else it is better than
// none.
func (r *request) relievable(a *attempt) bool {
	if r.target.Fallback == nil || !a.answer {
		return false
	}
	status, reason := r.reply.Status, mesh.Reason(r.reply.Get(FieldReason))
	if p := r.plan(status, reason); p == nil || !p.Able(&r.proxy.stale, r.question(), r.body.stream) {
		return false
	}
	a.outcome, a.refusal = balance.Failed, &refusal{status: status, reason: reason, detail: "the application answered " + strconv.Itoa(status)}
	return true
}

// relieve answers a request that has failed; false if nothing can, and the failure stands.
func (r *request) relieve(ref *refusal) bool {
	p := r.plan(ref.status, ref.reason)
	if p == nil || r.lostClient() != nil {
		return false
	}
	r.clock()
	r.rec.Reason, r.rec.Detail = ref.reason, ref.detail
	if body, ok := p.Answer(&r.proxy.stale, r.question(), &r.reply); ok {
		r.rec.Fallback, r.trusted = p.Kind(), false
		r.prepareReply()
		r.say(body)
		p.Count(fallback.Answered)
		return true
	}
	to := p.Other()
	if to == nil || r.body.stream {
		p.Count(fallback.Without)
		return false
	}
	second := r.askInstead(to)
	if second == nil {
		p.Count(fallback.Answered)
		return true
	}
	p.Count(fallback.Failed)
	if r.answered { // the client has seen its beginning
		r.refuse(second)
		return true
	}
	ref.detail += "; and service " + to.Service.String() + " in its place: " + second.detail
	r.rec.Fallback = ""
	return false
}

// askInstead sends the request to another service.
func (r *request) askInstead(to *mesh.FallbackService) *refusal {
	s, ref := r.find(to.Service)
	if ref != nil {
		return ref
	}
	if r.entered != nil {
		r.entered.Leave()
		r.entered = nil
	}
	r.rec.Fallback = mesh.FallbackOther + " " + to.Service.String()
	if r.target = s; to.Port != 0 {
		r.port = to.Port
	}
	r.head.Del(FieldTo)
	r.head.Del(FieldHTTP2)
	clear(r.tried[:])
	// As outbound has it: faults before limits, so that what fails on purpose uses up nothing.
	for _, run := range [...]func() *refusal{r.faultBackend, r.breakCircuit, r.forward} {
		if ref := run(); ref != nil {
			return ref
		}
	}
	return nil
}

// fellBack says on an answer that it is not the service's own, and why that gave none: reason if the other service's proxy has
// one itself, else that of the failure.
func (r *request) fellBack(reason mesh.Reason) mesh.Reason {
	r.reply.Add(fallback.Field, r.rec.Fallback)
	if reason == mesh.ReasonNone {
		reason = r.rec.Reason
	}
	r.number()
	r.reply.Del(FieldRequestID)
	addBytes(&r.reply, FieldRequestID, r.rec.RequestID)
	return reason
}

// copyAnswer begins to keep an answer that passes, where a policy wants it.
func (r *request) copyAnswer() {
	if r.target != nil && r.target.Fallback.Keeps() && r.rec.Fallback == "" && !r.rec.Mirror {
		r.copy = r.proxy.stale.Learn(r.question(), &r.reply, r.rec.Start)
	}
}
