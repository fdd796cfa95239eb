package proxy_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/mesh"
)

var shadow = mesh.ServiceName{Namespace: "shop", Name: "shadow"}

// mirrored is a world whose service is mirrored to another, and what becomes of copies.
type mirrored struct {
	*world
	proxy *proxy.Proxy
	mu    sync.Mutex
	// copies are the streams that copies were sent on, and records theirs.
	copies  []*stream
	records []proxy.Record
	// copy is how a copy is answered.
	copy func() (message.Stream, error)
}

func newMirrored(t *testing.T, perMille int) *mirrored {
	w := newWorld(t, 2, func(s *ir.Service, _ *ir.Endpoints) {
		s.Routed = true
		s.Routes = []ir.Route{{Object: "HTTPRoute shop/r", Backends: []ir.Backend{{Service: catalog, Weight: 1}}, Filters: []mesh.RouteFilter{
			{Kind: mesh.FilterMirror, Backend: &mesh.RouteBackend{Service: shadow, Port: 80}, MirrorPerMille: perMille}}}}
	})
	m := &mirrored{world: w}
	svc := *w.state.Services[catalog].Service
	svc.Name, svc.Routed, svc.Routes = shadow, false, nil
	eps := &ir.Endpoints{Service: shadow, Groups: []ir.Group{{Cluster: "eu-west", Exported: true, Endpoints: []ir.Endpoint{{Tag: "s1"}, {Tag: "s2"}}}}}
	v := balance.NewView(balance.Config{Endpoints: eps, Clusters: func(c mesh.ClusterName) *ir.Cluster { return w.state.Clusters[c] }, Cluster: "eu-west"})
	s, err := proxy.NewService(&svc, v, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.state.Services[shadow], w.state.Names[shadow] = s, &ir.Name{Service: shadow}
	m.copy = func() (message.Stream, error) { return answer(200, "the copy's answer"), nil }
	cfg := w.cfg
	cfg.Open = func(at time.Time, d *proxy.Destination) (message.Stream, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if d.Service != shadow {
			return w.cfg.Open(at, d)
		}
		st, err := m.copy()
		if plain, ok := st.(*stream); ok {
			m.copies = append(m.copies, plain)
		}
		return st, err
	}
	cfg.Rand = func() uint64 { m.mu.Lock(); defer m.mu.Unlock(); return w.cfg.Rand() }
	cfg.Done = func(r *proxy.Record) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if r.Mirror {
			m.records = append(m.records, *r)
			return
		}
		w.cfg.Done(r)
	}
	m.proxy = proxy.New(cfg)
	return m
}

func TestMirrorSendsACopyWhoseAnswerNobodyHears(t *testing.T) {
	for name, ex := range map[string]*exchange{"no body": get("catalog", "/a?b"), "a body": post("catalog", "/a?b", "body"),
		"a body that streams": func() *exchange { e := post("catalog", "/a?b", "body"); e.head.Length = -1; return e }()} {
		t.Run(name, func(t *testing.T) {
			m := newMirrored(t, 1000)
			s := answer(200, "ok")
			s.waitBody = true
			m.script = []any{s}
			m.proxy.Outbound(ex.with("isthmus-to", "forged"), proxy.Via{})
			m.proxy.Wait()
			if ex.status != 200 || ex.out.String() != "ok" || m.last.Mirror || m.last.Backend != catalog {
				t.Errorf("%d %q, record %+v", ex.status, ex.out.String(), m.last)
			}
			if len(m.copies) != 1 || len(m.records) != 1 {
				t.Fatalf("%d copies, %d records", len(m.copies), len(m.records))
			}
			c, r := m.copies[0], m.records[0]
			if c.got("isthmus-to") != "shop/shadow:80" || string(c.sent.Path) != "/a?b" || c.in.String() != s.in.String() || c.sent.Length != int64(s.in.Len()) {
				t.Errorf("the copy is %s of %d for %q: %q, want %q", c.sent.Path, c.sent.Length, c.got("isthmus-to"), c.in.String(), s.in.String())
			}
			if r.Backend != shadow || r.Status != 200 || r.Tries != 1 || len(r.RequestID) == 0 || c.got("x-request-id") != s.got("x-request-id") {
				t.Errorf("record %+v", r)
			}
		})
	}
}

func TestMirrorTakesItsShare(t *testing.T) {
	m := newMirrored(t, 250)
	for range 1000 {
		m.script = []any{answer(200, "ok")}
		m.proxy.Outbound(get("catalog", "/"), proxy.Via{})
	}
	m.proxy.Wait()
	if n := len(m.copies); n < 200 || n > 300 {
		t.Errorf("%d copies of 1,000 requests, want about 250", n)
	}
}

// TestMirrorNeverDelaysOrFails: copies that hang, break or are too many cost the request nothing,
// and what was not copied is on record.
func TestMirrorNeverDelaysOrFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMirrored(t, 1000)
		m.copy = func() (message.Stream, error) { s := answer(0, ""); s.silent = true; return s, nil }
		began := time.Now()
		for range 100 {
			m.script = []any{answer(200, "ok")}
			ex := get("catalog", "/")
			if m.proxy.Outbound(ex, proxy.Via{}); ex.status != 200 {
				t.Fatalf("%d", ex.status)
			}
			synctest.Wait()
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("100 requests took %v beside copies that hang", took)
		}
		m.mu.Lock()
		if len(m.copies) != 64 || len(m.records) != 36 || m.records[0].Reason != mesh.ReasonOverloaded {
			t.Errorf("%d copies under way and %d not made, want 64 and 36", len(m.copies), len(m.records))
		}
		m.mu.Unlock()
		m.proxy.Wait()
		if took := time.Since(began); took != 15*time.Second {
			t.Errorf("the last copy ended after %v", took)
		}
		// A copy that fails is tried no second time, and is nobody's failure but its own.
		m.records, m.copies = nil, nil
		m.copy = func() (message.Stream, error) { return answer(503, ""), nil }
		m.script = []any{answer(200, "ok")}
		ex := get("catalog", "/")
		m.proxy.Outbound(ex, proxy.Via{})
		m.proxy.Wait()
		if ex.status != 200 || len(m.copies) != 1 || m.records[0].Status != 503 {
			t.Errorf("%d; %d copies, records %+v", ex.status, len(m.copies), m.records)
		}
	})
}

// TestMirrorBoundsWhatItKeeps: of a body that turns out too large there is no copy.
func TestMirrorBoundsWhatItKeeps(t *testing.T) {
	m := newMirrored(t, 1000)
	s := answer(200, "ok")
	s.waitBody = true
	m.script = []any{s}
	ex := post("catalog", "/", strings.Repeat("x", 65<<10))
	ex.head.Length = -1
	m.proxy.Outbound(ex, proxy.Via{})
	m.proxy.Wait()
	if ex.status != 200 || s.in.Len() != 65<<10 || len(m.copies) != 0 ||
		!slices.ContainsFunc(m.records, func(r proxy.Record) bool { return r.Reason == mesh.ReasonBodyTooLarge }) {
		t.Errorf("%d, %d bytes sent, %d copies, records %s", ex.status, s.in.Len(), len(m.copies), fmt.Sprint(m.records))
	}
}
