package proxy_test

import (
	"encoding/hex"
	"testing"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// got is what the server proxy got of a field.
func (s *stream) got(name string) string { return string(s.sent.Get(name)) }

func TestTraceGoesOnFromHopToHop(t *testing.T) {
	const trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	from := func(flags string) string { return "00-" + trace + "-" + span + "-" + flags }
	for name, c := range map[string]struct {
		sample          int
		parent, second  string
		state           string
		passed, spans   bool // as it came; a span of its own
		begun           bool
		wantState, kept string
	}{
		"none, not sampled":             {},
		"none, sampled":                 {sample: 100_000, spans: true, begun: true},
		"sampled by the caller":         {parent: from("01"), state: "a=1", spans: true, wantState: "a=1"},
		"not sampled by the caller":     {sample: 100_000, parent: from("00"), state: "a=1", passed: true, wantState: "a=1"},
		"malformed: none":               {parent: "00-x", state: "a=1"},
		"malformed: begun anew":         {sample: 100_000, parent: "00-x", state: "a=1", spans: true, begun: true},
		"two parents are none":          {parent: from("01"), second: from("00")},
		"a malformed state alone falls": {parent: from("01"), state: "A=1", spans: true},
		"state without parent":          {state: "a=1"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2, nil)
			w.state.Self = &ir.Proxy{Telemetry: mesh.Telemetry{TraceSampleMilliPercent: c.sample}}
			s := answer(200, "ok")
			w.script = []any{s}
			ex := get("catalog", "/")
			for _, v := range []string{c.parent, c.second} {
				if v != "" {
					ex = ex.with("traceparent", v)
				}
			}
			if c.state != "" {
				ex = ex.with("tracestate", c.state)
			}
			w.proxy.Outbound(ex, proxy.Via{})
			got, rec := s.got("traceparent"), w.last
			switch {
			case c.passed && (got != c.parent || rec.Sampled || hex.EncodeToString(rec.TraceID[:]) != trace):
				t.Errorf("sent %q, record %+v: want it as it came", got, rec)
			case c.spans:
				id, own := hex.EncodeToString(rec.TraceID[:]), hex.EncodeToString(rec.SpanID[:])
				if got[:53] != "00-"+id+"-"+own+"-" || !rec.Sampled || rec.SpanID == [8]byte{} {
					t.Errorf("sent %q, record %x %x: want the span of this hop", got, rec.TraceID, rec.SpanID)
				}
				if !c.begun && (id != trace || hex.EncodeToString(rec.ParentID[:]) != span || own == span) {
					t.Errorf("%s below %x: want a child of %s", own, rec.ParentID, span)
				}
				if c.begun && (id == trace || rec.ParentID != [8]byte{} || got[53:] != "03") {
					t.Errorf("sent %q below %x: want a new trace", got, rec.ParentID)
				}
			case !c.passed && (got != "" || rec.TraceID != [16]byte{}):
				t.Errorf("sent %q: want none", got)
			}
			if s.got("tracestate") != c.wantState {
				t.Errorf("tracestate %q, want %q", s.got("tracestate"), c.wantState)
			}
		})
	}
}

// TestServerProxyBeginsNoTrace: whoever called has drawn.
func TestServerProxyBeginsNoTrace(t *testing.T) {
	w := serving(t)
	w.state.Self = &ir.Proxy{Telemetry: mesh.Telemetry{TraceSampleMilliPercent: 100_000}}
	s := answer(200, "ok")
	w.script = []any{s}
	w.proxy.Inbound(asked("/"), peer)
	if got := s.got("traceparent"); got != "" || w.last.Sampled {
		t.Errorf("sent %q", got)
	}
}
