package proxy

import (
	"encoding/binary"

	"github.com/isthmus-mesh/isthmus/dataplane/trace"
)

// wholeMilliPercent is all of something, in thousandths of a percent.
const wholeMilliPercent = 100_000

// trace finds or begins the trace, and makes this hop a span of it when the trace is sampled:
// its own span takes the parent's place. A trace that is not sampled passes as it came. A server
// proxy never begins one: whoever called has drawn, and drawing twice would show halves of requests.
func (r *request) trace() *refusal {
	if r.carriesBytes() {
		return nil
	}
	h := &r.head
	c, ok, bad := trace.Of(h)
	if bad {
		h.Del(trace.FieldParent)
		h.Del(trace.FieldState)
	}
	if !ok {
		if r.rec.Inbound || !r.sampled() {
			return nil
		}
		random := r.proxy.cfg.Rand
		c.Flags = trace.Sampled | trace.Random
		binary.BigEndian.PutUint64(c.Trace[:8], random())
		binary.BigEndian.PutUint64(c.Trace[8:], random()|1) // never all zero
	} else if h.Has(trace.FieldState) && !trace.ValidState(h) {
		h.Del(trace.FieldState) // it alone is lost (§4.3)
	}
	rec := &r.rec
	rec.TraceID, rec.ParentID, rec.Sampled = c.Trace, c.Parent, c.Flags&trace.Sampled != 0
	if !rec.Sampled {
		return nil
	}
	binary.BigEndian.PutUint64(rec.SpanID[:], r.proxy.cfg.Rand()|1)
	c.Parent = rec.SpanID
	r.scratch = c.Append(r.scratch[:0])
	h.Del(trace.FieldParent)
	addBytes(h, trace.FieldParent, r.scratch)
	return nil
}

// sampled draws whether a request that bears no trace begins one.
func (r *request) sampled() bool {
	if r.state.Self == nil {
		return false
	}
	n := r.state.Self.Telemetry.TraceSampleMilliPercent
	return n > 0 && below(r.proxy.cfg.Rand(), n)
}

// below reports whether a draw falls into a share in thousandths of a percent.
func below(random uint64, milliPercent int) bool {
	return milliPercent > 0 && random>>32*wholeMilliPercent>>32 < uint64(milliPercent)
}
