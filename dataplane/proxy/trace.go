package proxy

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// A trace is continued from hop to hop by two fields (W3C Trace Context, level 2): every
// proxy that records a span puts its own span in the place of the parent's. A client proxy begins
// a trace, sampled; a server proxy never does: whoever called has drawn, and drawing twice would
// show halves of requests.

const (
	fieldTraceparent = "traceparent"
	fieldTracestate  = "tracestate"
	// traceparentLen is that of version 00: 2-32-16-2 digits with three dashes.
	traceparentLen = 55
	// flagSampled of trace-flags (§3.2.2.5.1), flagRandom of level 2 (§3.2.2.5.2).
	flagSampled, flagRandom = 1, 2
	// tracestateMax and tracestateMembers bound a tracestate (§3.3.1.1, §3.3.1.5: at least 512
	// characters are to be passed on; 32 members).
	tracestateMax, tracestateMembers = 2048, 32
	// wholeMilliPercent is all of something, in thousandths of a percent.
	wholeMilliPercent = 100_000
)

// traceContext is a traceparent. The zero value is none.
type traceContext struct {
	trace  [16]byte
	parent [8]byte
	flags  byte
}

// parseTraceparent reads the field strictly: what is not exactly valid starts anew
// (§4.3). Of a version above 00 the first four parts are read (§4.3, step 4).
func parseTraceparent(v []byte) (c traceContext, ok bool) {
	if len(v) < traceparentLen || v[2] != '-' || v[35] != '-' || v[52] != '-' {
		return traceContext{}, false
	}
	var version, flags [1]byte
	if !lowerHex(version[:], v[:2]) || !lowerHex(c.trace[:], v[3:35]) || !lowerHex(c.parent[:], v[36:52]) || !lowerHex(flags[:], v[53:55]) {
		return traceContext{}, false
	}
	switch {
	case version[0] == 0xff, c.trace == [16]byte{}, c.parent == [8]byte{}:
		return traceContext{}, false
	case len(v) > traceparentLen && (version[0] == 0 || v[traceparentLen] != '-'):
		return traceContext{}, false
	}
	c.flags = flags[0]
	if version[0] != 0 { // what we send is of our version: unknown flags are zero (§3.2.2.5.3)
		c.flags &= flagSampled
	}
	return c, true
}

// lowerHex decodes hexadecimal digits, of which upper-case ones are invalid here
// (§3.2.2: lower case).
func lowerHex(out, in []byte) bool {
	for i := range out {
		hi, lo := in[2*i], in[2*i+1]
		if !isLowerHex(hi) || !isLowerHex(lo) {
			return false
		}
		out[i] = digit(hi)<<4 | digit(lo)
	}
	return true
}

func digit(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c - 'a' + 10
}

func isLowerHex(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' }

// append writes the context as version 00.
func (c *traceContext) append(b []byte) []byte {
	b = append(b, "00-"...)
	b = append(hex.AppendEncode(b, c.trace[:]), '-')
	b = append(hex.AppendEncode(b, c.parent[:]), '-')
	return hex.AppendEncode(b, []byte{c.flags & (flagSampled | flagRandom)})
}

// traced finds the context that a request bears: one traceparent, or none (two cannot both be
// the parent). bad says that the fields are to be dropped.
func traced(h *message.Head) (c traceContext, ok, bad bool) {
	var v []byte
	for i := range h.Fields {
		if f := &h.Fields[i]; string(f.Name) == fieldTraceparent {
			if v != nil {
				return traceContext{}, false, true
			}
			v = f.Value
		}
	}
	if v == nil {
		return traceContext{}, false, h.Has(fieldTracestate) // alone it means nothing (§3.3)
	}
	c, ok = parseTraceparent(v)
	return c, ok, !ok
}

// validTracestate holds all lines of the field, which are one list, against §3.3.1.
func validTracestate(h *message.Head) bool {
	members, size := 0, 0
	for i := range h.Fields {
		f := &h.Fields[i]
		if string(f.Name) != fieldTracestate {
			continue
		}
		if size += len(f.Value); size > tracestateMax {
			return false
		}
		for rest, more := f.Value, true; more; {
			var member []byte
			member, rest, more = bytes.Cut(rest, []byte(","))
			if member = bytes.Trim(member, " \t"); len(member) == 0 {
				continue // empty members are allowed
			}
			if members++; members > tracestateMembers || !validMember(member) {
				return false
			}
		}
	}
	return true
}

// validMember is §3.3.1.3: key=value, of which the key is 1 to 256 of a small set and the value
// up to 256 printable characters other than comma and equals sign, not ending in a space.
func validMember(m []byte) bool {
	key, value, ok := bytes.Cut(m, []byte("="))
	if !ok || len(key) == 0 || len(key) > 256 || len(value) == 0 || len(value) > 256 {
		return false
	}
	for i, c := range key {
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '_' && c != '-' && c != '*' && c != '/' && c != '@') {
			return false
		}
	}
	for _, c := range value {
		if c < ' ' || c > '~' || c == '=' {
			return false
		}
	}
	return value[len(value)-1] != ' '
}

// trace is the stage: it finds or begins the trace, and makes this hop a span of it when the
// trace is sampled. A trace that is not passes through as it came.
func (r *request) trace() *refusal {
	if r.carriesBytes() {
		return nil
	}
	h := &r.head
	c, ok, bad := traced(h)
	if bad {
		h.Del(fieldTraceparent)
		h.Del(fieldTracestate)
	}
	if !ok {
		if r.rec.Inbound || !r.sampled() {
			return nil
		}
		random := r.proxy.cfg.Rand
		c.flags = flagSampled | flagRandom
		binary.BigEndian.PutUint64(c.trace[:8], random())
		binary.BigEndian.PutUint64(c.trace[8:], random()|1) // never all zero
	} else if h.Has(fieldTracestate) && !validTracestate(h) {
		h.Del(fieldTracestate) // it alone is lost (§4.3)
	}
	rec := &r.rec
	rec.TraceID, rec.ParentID, rec.Sampled = c.trace, c.parent, c.flags&flagSampled != 0
	if !rec.Sampled {
		return nil
	}
	binary.BigEndian.PutUint64(rec.SpanID[:], r.proxy.cfg.Rand()|1)
	c.parent = rec.SpanID
	r.scratch = c.append(r.scratch[:0])
	h.Del(fieldTraceparent)
	addBytes(h, fieldTraceparent, r.scratch)
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
