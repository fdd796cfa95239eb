package proxy

import (
	"fmt"
	"strconv"
	"time"

	"github.com/isthmus-mesh/isthmus/core/admission"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/intake"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Circuit breaking, at the client proxy: a service that is slow must not take all there is of its callers.

// breakCircuit refuses what exceeds the policy's limits; nothing was sent to anybody.
func (r *request) breakCircuit() *refusal {
	live, limits := r.target.Live, &r.target.Traffic.Limits
	r.limits, r.idle = limits, r.idleOf(&r.target.Traffic)
	if ref := r.headFits(&r.head, limits.RequestHead); ref != nil {
		return ref
	}
	gauge, most, what := &live.requests, limits.Requests, "requests in flight"
	if r.carriesBytes() {
		gauge, most, what = &live.connections, limits.Connections, "connections"
	}
	if !gauge.Enter(most) {
		return notExecuted(mesh.ReasonOverloaded, fmt.Sprintf("this proxy has %d %s to service %s, as many as its policy allows", most, what, r.target.Name))
	}
	r.entered = gauge
	return nil
}

// headFits holds a head against a limit in bytes; 0 is none.
func (r *request) headFits(h *message.Head, most int) *refusal {
	if most == 0 || h.Size() <= most {
		return nil
	}
	return refuse(mesh.ReasonHeadTooLarge, fmt.Sprintf("the head has %d bytes, and the policy of the service allows %d", h.Size(), most))
}

// limitRate is the stage: every limit that speaks of the request must let it through.
func (r *request) limitRate() *refusal {
	r.match.Head = &r.head
	l, wait := r.in.rates.Take(&r.match, r.peer.Identity, r.carriesBytes(), r.proxy.cfg.Now().UnixNano())
	if wait == 0 {
		return nil
	}
	ref := refuse(mesh.ReasonRateLimited, fmt.Sprintf("rate limit %s of service %s: %d requests per %s", l.Name, r.in.Service, l.Requests, l.Per))
	ref.retryAfter = wait
	return ref
}

// shed is the server proxy's limit on what its application does at once, and admission to it. What it refuses was
// not executed; the client proxy takes it for load and not for death.
func (r *request) shed() *refusal {
	if !r.in.concurrency.Enter(r.limits.Concurrency) {
		return notExecuted(mesh.ReasonOverloaded, fmt.Sprintf("the application serves %d requests, as many as the policy of service %s lets in",
			r.limits.Concurrency, r.in.Service))
	}
	r.entered = r.in.concurrency
	if g := r.in.Gate; g != nil && !r.tunnels() {
		v := g.Enter(&r.visit, &intake.Ask{Head: &r.head, Now: r.clock(), Deadline: r.deadline, Trace: r.rec.TraceID, ID: r.rec.RequestID})
		if v != admission.Admitted {
			return notExecuted(mesh.ReasonOverloaded, "the application of service "+r.in.Service.String()+" has too much to do: "+v.String())
		}
	}
	return nil
}

// holdLimits is the stage that holds the head against the service's limits; the body is held
// against them as it comes.
func (r *request) holdLimits() *refusal {
	r.limits, r.idle = &r.in.Traffic.Limits, r.idleOf(r.in.Traffic)
	if len(r.head.Get(FieldDeadline)) > 0 {
		if ref := r.readDeadline(); ref != nil {
			return ref
		}
	}
	return r.headFits(&r.head, r.limits.RequestHead)
}

// readDeadline takes over what the client proxy says is left of the request's time. It is a
// duration: clocks of clusters differ.
func (r *request) readDeadline() *refusal {
	v := r.head.Get(FieldDeadline)
	ms, err := strconv.ParseInt(view(v), 10, 64)
	switch {
	case err != nil || ms > int64(24*time.Hour/time.Millisecond):
		return refuse(mesh.ReasonMalformed, fmt.Sprintf("the field %s is %q: want milliseconds", FieldDeadline, v))
	case ms <= 0:
		return refuse(mesh.ReasonTimeout, "the request's time was up when it arrived")
	}
	r.deadline = r.rec.Start.Add(time.Duration(ms) * time.Millisecond)
	return nil
}

// noTraffic is the policy of a service whose own has not arrived: none.
var noTraffic = &ir.Traffic{}
