package proxy

import (
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/mishap"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// faultService is the stage for faults of the service that was asked for.
func (r *request) faultService() *refusal { return r.inject(r.service.faults) }

// faultBackend is the stage for those of the service that a route chose instead.
func (r *request) faultBackend() *refusal {
	if r.target == r.service {
		return nil
	}
	return r.inject(r.target.faults)
}

// inject makes the request fail as policies ask: delays add up, the first abort ends it, the narrowest bandwidth holds.
func (r *request) inject(faults []mishap.Fault) *refusal {
	for i := range faults {
		f := &faults[i]
		if r.match.Head = &r.head; !f.Meant(&r.match, r.carriesBytes(), r.state.Self, r.state.Clusters) {
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

// delay holds the request up; the time counts as if the service had taken it, so that a test
// of timeouts is one.
func (r *request) delay(f *mishap.Fault, d time.Duration) *refusal {
	timeout := r.service.Traffic.RequestTimeout
	if end := r.rec.Start.Add(timeout); timeout > 0 && !r.tunnels() {
		d = min(d, end.Sub(r.proxy.cfg.Now()))
	}
	if !r.pause(d) {
		return refusedBody(r.lostClient())
	}
	if timeout > 0 && !r.tunnels() && r.proxy.cfg.Now().Sub(r.rec.Start) >= timeout {
		ref := refuse(mesh.ReasonFaultInjected, f.Object+" delayed the request beyond its timeout")
		ref.status = 504
		return ref
	}
	return nil
}

func (r *request) abort(f *mishap.Fault) *refusal {
	ref := refuse(mesh.ReasonFaultInjected, f.Object+" aborts the request")
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
