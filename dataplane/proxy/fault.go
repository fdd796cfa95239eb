package proxy

import (
	"fmt"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/policy"
	"github.com/isthmus-mesh/isthmus/dataplane/route"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// fault is an ir.Fault with its match compiled.
type fault struct {
	*mesh.Fault
	object string
	takes  route.Selector
}

func newFaults(in []ir.Fault) ([]fault, error) {
	out := make([]fault, len(in))
	for i := range in {
		f := &in[i]
		takes, err := route.NewSelector(f.Fault.Match)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Object, err)
		}
		out[i] = fault{&f.Fault, f.Object, takes}
	}
	return out, nil
}

// faultService is the stage for faults of the service that was asked for.
func (r *request) faultService() *refusal { return r.inject(r.service.faults) }

// faultBackend is the stage for those of the service that a route chose instead.
func (r *request) faultBackend() *refusal {
	if r.target == r.service {
		return nil
	}
	return r.inject(r.target.faults)
}

// inject makes the request fail as policies ask: delays add up, the first abort ends it, the
// narrowest bandwidth holds.
func (r *request) inject(faults []fault) *refusal {
	for i := range faults {
		f := &faults[i]
		if !r.meant(f) {
			continue
		}
		random := r.proxy.cfg.Rand
		if d := f.Delay + f.DelayJitter; d > 0 && below(random(), f.DelayMilliPercent) {
			d = f.Delay + time.Duration(float64(f.DelayJitter)*fraction(random()))
			if ref := r.delay(f, d); ref != nil {
				return ref
			}
		}
		if (f.Abort != 0 || f.AbortGRPC != 0) && below(random(), f.AbortMilliPercent) {
			return r.abort(f)
		}
		if f.Bandwidth > 0 && below(random(), f.BandwidthMilliPercent) && (r.bandwidth == 0 || f.Bandwidth < r.bandwidth) {
			r.bandwidth = f.Bandwidth
		}
	}
	return nil
}

// meant reports whether a fault speaks of this request of this workload.
func (r *request) meant(f *fault) bool {
	if r.carriesBytes() && (len(f.Match.Methods)+len(f.Match.Paths)+len(f.Match.Headers) > 0) {
		return false // what is inside a connection nobody sees
	}
	r.match.Head = &r.head
	if !f.takes.Takes(&r.match) {
		return false
	}
	if len(f.Sources) == 0 {
		return true
	}
	self := r.state.Self
	if self == nil {
		return false
	}
	at := ir.Caller{TrustDomain: self.Identity.TrustDomain, Cluster: self.Locality.Cluster}
	if c := r.state.Clusters[at.Cluster]; c != nil {
		at.Jurisdiction = c.Jurisdiction
	}
	return policy.MatchesSources(f.Sources, self.Identity, &at)
}

// delay holds the request up; the time counts as if the service had taken it, so that a test
// of timeouts is one.
func (r *request) delay(f *fault, d time.Duration) *refusal {
	timeout := r.service.Traffic.RequestTimeout
	if end := r.rec.Start.Add(timeout); timeout > 0 && !r.tunnels() {
		d = min(d, end.Sub(r.proxy.cfg.Now()))
	}
	if !r.pause(d) {
		return refusedBody(r.lostClient())
	}
	if timeout > 0 && !r.tunnels() && r.proxy.cfg.Now().Sub(r.rec.Start) >= timeout {
		ref := refuse(mesh.ReasonFaultInjected, f.object+" delayed the request beyond its timeout")
		ref.status = 504
		return ref
	}
	return nil
}

func (r *request) abort(f *fault) *refusal {
	ref := refuse(mesh.ReasonFaultInjected, f.object+" aborts the request")
	if f.Abort != 0 {
		ref.status = f.Abort
	}
	ref.grpc = f.AbortGRPC
	return ref
}

// pause waits; false if the client left meanwhile.
func (r *request) pause(d time.Duration) bool {
	if d <= 0 {
		return r.lostClient() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.wake:
		return false
	}
}

// fraction maps a draw to [0, 1).
func fraction(random uint64) float64 { return float64(random>>11) / (1 << 53) }

// pace holds n bytes of a body back for as long as the bandwidth says.
func (r *request) pace(n int) {
	if r.bandwidth > 0 {
		r.pause(time.Duration(float64(n) / float64(r.bandwidth) * float64(time.Second)))
	}
}

// paced is the part of buf to read at once, so that what is paced does not come in jerks.
func (r *request) paced(buf []byte) []byte {
	if r.bandwidth > 0 {
		return buf[:max(1, min(int64(len(buf)), r.bandwidth/pacedPieces))]
	}
	return buf
}

// pacedPieces is how many pieces a second of a paced body comes in.
const pacedPieces = 20
