package proxy_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/dataplane/tunnel"
	"github.com/isthmus-mesh/isthmus/mesh"
)

func TestRetryConditions(t *testing.T) {
	late := func() *stream { s := answer(0, ""); s.silent = true; return s }
	for _, c := range []struct {
		on    []string
		first func() *stream
		want  bool
	}{
		{nil, func() *stream { return answer2(errBroken) }, true}, {nil, late, true}, {nil, func() *stream { return answer(502, "") }, true},
		{nil, func() *stream { return answer(500, "") }, false}, {nil, func() *stream { return answer(429, "") }, false},
		{[]string{"reset"}, func() *stream { return answer2(errBroken) }, true}, {[]string{"reset"}, late, false},
		{[]string{"reset"}, func() *stream { return answer(503, "") }, false},
		{[]string{"timeout"}, func() *stream { return answer2(errBroken) }, false}, {[]string{"timeout"}, late, true},
		{[]string{"5xx"}, func() *stream { return answer(500, "") }, true}, {[]string{"5xx"}, func() *stream { return answer(599, "") }, true},
		{[]string{"5xx"}, func() *stream { return answer(499, "") }, false},
		{[]string{"429"}, func() *stream { return answer(429, "") }, true}, {[]string{"429"}, func() *stream { return answer(503, "") }, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 3, func(s *ir.Service, _ *ir.Endpoints) {
				s.Traffic.Retry.On, s.Traffic.TryTimeout = c.on, time.Second
			})
			w.script = []any{c.first(), answer(200, "ok")}
			w.proxy.Outbound(get("catalog", "/"), proxy.Via{})
			if got := w.last.Tries == 2; got != c.want {
				t.Errorf("on %v: %d tries of %s %d, want another: %v", c.on, w.last.Tries, w.last.Reason, w.last.Status, c.want)
			}
		})
	}
	if _, err := proxy.NewService(&ir.Service{Traffic: ir.Traffic{Retry: mesh.RetryPolicy{On: []string{"sometimes"}}}}, nil, nil); err == nil {
		t.Error("a condition that nobody knows was taken")
	}
}

func TestAnyMethodIsRetriedWhereAllowed(t *testing.T) {
	for allowed, tries := range map[bool]int{false: 1, true: 2} {
		w := newWorld(t, 3, func(s *ir.Service, _ *ir.Endpoints) { s.Traffic.Retry.AnyMethod = allowed })
		w.script = []any{answer(503, ""), answer(200, "ok")}
		w.proxy.Outbound(post("catalog", "/", "x"), proxy.Via{})
		if w.last.Tries != tries {
			t.Errorf("any method %v: %d tries of a POST", allowed, w.last.Tries)
		}
	}
}

// TestRouteRetries: the stanza of the route outranks the policy (Gateway API GEP-1731).
func TestRouteRetries(t *testing.T) {
	for _, c := range []struct {
		retry  mesh.RouteRetry
		status int
		tries  int
	}{
		{mesh.RouteRetry{Attempts: 3, Codes: []int{500}}, 500, 4}, {mesh.RouteRetry{Attempts: 3, Codes: []int{500}}, 503, 1},
		{mesh.RouteRetry{Attempts: 1}, 503, 2}, {mesh.RouteRetry{Attempts: 0}, 503, 1},
	} {
		w := newWorld(t, 6, func(s *ir.Service, _ *ir.Endpoints) {
			s.Routed = true
			s.Routes = []ir.Route{{Backends: []ir.Backend{{Service: catalog, Weight: 1}}, Retry: &c.retry}}
		})
		for range 6 {
			w.script = append(w.script, answer(c.status, ""))
		}
		w.proxy.Outbound(get("catalog", "/"), proxy.Via{})
		if w.last.Tries != c.tries {
			t.Errorf("%+v: %d tries of %d, want %d", c.retry, w.last.Tries, c.status, c.tries)
		}
	}
}

// TestBackoffDoublesWithJitter: between half and the whole of 100, 200, 400 and 800 ms.
func TestBackoffDoublesWithJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 6, func(s *ir.Service, _ *ir.Endpoints) {
			s.Traffic.Retry.Backoff, s.Traffic.Retry.Attempts = 100*time.Millisecond, 4
		})
		w.cfg.Rand = rand.New(rand.NewPCG(3, 4)).Uint64
		w.proxy = proxy.New(w.cfg)
		seen := map[time.Duration]bool{}
		for range 20 {
			w.script = []any{answer(503, ""), answer(503, ""), answer(503, ""), answer(503, ""), answer(200, "")}
			began := time.Now()
			w.proxy.Outbound(get("catalog", "/"), proxy.Via{})
			took := time.Since(began)
			seen[took] = true
			if w.last.Tries != 5 || took < 750*time.Millisecond || took > 1500*time.Millisecond {
				t.Errorf("%d tries in %v", w.last.Tries, took)
			}
		}
		if len(seen) < 15 {
			t.Errorf("%d different pauses of 20: no jitter", len(seen))
		}
		// What was never executed is tried elsewhere at once.
		w.script = []any{errRefused, answer(200, "")}
		began := time.Now()
		w.proxy.Outbound(get("catalog", "/"), proxy.Via{})
		if took := time.Since(began); took != 0 || w.last.Tries != 2 {
			t.Errorf("%d tries in %v", w.last.Tries, took)
		}
	})
}

// TestBudgetIsTheServices: percent and burst of the policy, and a tenth at most across clusters.
func TestBudgetIsTheServices(t *testing.T) {
	run := func(change func(*ir.Service, *ir.Endpoints)) (retries int) {
		w := newWorld(t, 4, change)
		for range 1000 {
			w.script = []any{answer(503, ""), answer(503, ""), answer(503, "")}
			w.proxy.Outbound(get("catalog", "/"), proxy.Via{})
			retries += w.last.Tries - 1
		}
		return retries
	}
	if n := run(func(s *ir.Service, _ *ir.Endpoints) {
		s.Traffic.Retry.BudgetPercent, s.Traffic.Retry.BudgetBurst = 5, 10
	}); n < 55 || n > 60 {
		t.Errorf("%d retries of 1,000 requests, want 10 and 5 %%", n)
	}
	// One endpoint here and one there: every retry crosses.
	n := run(func(_ *ir.Service, e *ir.Endpoints) {
		far := e.Groups[0]
		far.Cluster = "us-east"
		far.Endpoints = []ir.Endpoint{{Tag: "far", Proxy: netip.MustParseAddrPort("127.2.0.1:15008")}}
		e.Groups[0].Endpoints = e.Groups[0].Endpoints[:1]
		e.Groups = append(e.Groups, far)
	})
	if n < 190 || n > 200 {
		t.Errorf("%d retries in another cluster of 1,000 requests, want 100 and 10 %%", n)
	}
}

// TestTryTimeoutFollowsTheP99: five times what all but the slowest take.
func TestTryTimeoutFollowsTheP99(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, nil)
		slow := func(d time.Duration) *stream { s := answer(200, "ok"); s.delay = d; return s }
		for range 200 {
			w.script = []any{slow(500 * time.Millisecond)}
			w.proxy.Outbound(get("catalog", "/"), proxy.Via{})
		}
		s := answer(0, "")
		s.silent = true
		w.script = []any{s, answer(200, "ok")}
		began := time.Now()
		w.proxy.Outbound(get("catalog", "/"), proxy.Via{})
		if took := time.Since(began); w.last.Tries != 2 || took < 2500*time.Millisecond || took > 3200*time.Millisecond {
			t.Errorf("%d tries in %v, want 5 × 0.5 s for the first", w.last.Tries, took)
		}
	})
}

// TestDeadlineTravels: the server proxy gets what is left, keeps it, and never shows it.
func TestDeadlineTravels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, func(s *ir.Service, _ *ir.Endpoints) {
			s.Traffic.RequestTimeout, s.Traffic.Retry.Attempts = 4*time.Second, 0
		})
		s := answer(200, "ok")
		w.script = []any{s}
		w.proxy.Outbound(get("catalog", "/").with("isthmus-deadline", "1"), proxy.Via{})
		if got := s.got("isthmus-deadline"); got != "4000" {
			t.Errorf("told %q, want 4000", got)
		}
		in := serving(t)
		for _, c := range []struct {
			deadline, want string
			took           time.Duration
		}{
			{"250", "504 request_timeout", 250 * time.Millisecond}, {"0", "504 request_timeout", 0}, {"-5", "504 request_timeout", 0},
			{"x", "400 malformed_request", 0}, {"99999999999", "400 malformed_request", 0},
		} {
			s := answer(0, "")
			s.silent = true
			in.script = []any{s}
			ex, began := asked("/").with("isthmus-deadline", c.deadline), time.Now()
			in.proxy.Inbound(ex, peer)
			if got := fmt.Sprintf("%d %s", ex.status, ex.field("isthmus-reason")); got != c.want || time.Since(began) != c.took {
				t.Errorf("%s: %s after %v, want %s after %v", c.deadline, got, time.Since(began), c.want, c.took)
			}
			if s.got("isthmus-deadline") != "" {
				t.Error("the application was shown the field")
			}
		}
	})
}

func TestGRPCTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, nil)
		for _, c := range []struct {
			timeout string
			took    time.Duration
		}{{"20S", 20 * time.Second}, {"300m", 300 * time.Millisecond}, {"1M", time.Minute}, {"", 15 * time.Second}, {"5x", 15 * time.Second}, {"123456789S", 15 * time.Second}} {
			s := answer(0, "")
			s.silent = true
			w.script = []any{s}
			ex := post("catalog", "/shop.Catalog/Get", "x").with("content-type", "application/grpc")
			ex.head.HTTP2 = true
			if c.timeout != "" {
				ex = ex.with("grpc-timeout", c.timeout)
			}
			began := time.Now()
			w.proxy.Outbound(ex, proxy.Via{})
			if took := time.Since(began); took != c.took || ex.status != 200 || ex.field("grpc-status") != "4" || w.last.Reason != mesh.ReasonTimeout {
				t.Errorf("%s: %d grpc-status %s, %s after %v", c.timeout, ex.status, ex.field("grpc-status"), w.last.Reason, took)
			}
		}
		// It bounds a stream that moves, both ways, where a request's would have begun at its end.
		ex := post("catalog", "/shop.Catalog/Chat", "").with("content-type", "application/grpc").with("grpc-timeout", "3S")
		ex.head.Length, ex.more, ex.head.HTTP2 = -1, make(chan []byte, 100), true
		s := answer(0, "")
		s.silent = true
		w.script = []any{s}
		tick := time.NewTicker(time.Second)
		done := make(chan struct{})
		go func() {
			for {
				select {
				case <-tick.C:
					ex.more <- []byte("x")
				case <-done:
					return
				}
			}
		}()
		began := time.Now()
		w.proxy.Outbound(ex, proxy.Via{})
		close(done)
		if took := time.Since(began); took != 3*time.Second || ex.field("grpc-status") != "4" || s.got("isthmus-deadline") != "3000" {
			t.Errorf("grpc-status %q after %v, told %q", ex.field("grpc-status"), took, s.got("isthmus-deadline"))
		}
	})
}

// TestIdleStreamsEnd: after what the policy says, whichever way nothing moves.
func TestIdleStreamsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, func(s *ir.Service, _ *ir.Endpoints) { s.Traffic.IdleTimeout = 10 * time.Second })
		ex, s := post("catalog", "/", ""), answer(200, "")
		ex.head.Length, ex.more = -1, make(chan []byte)
		s.waitBody = true
		w.script = []any{s}
		began := time.Now()
		w.proxy.Outbound(ex, proxy.Via{})
		if took := time.Since(began); ex.status < 400 || took != 10*time.Second {
			t.Errorf("%d after %v, want it ended after 10 s", ex.status, took)
		}
	})
}

// TestIdleTunnelsEnd where a policy says so, and no sooner than nothing moves either way.
func TestIdleTunnelsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, func(s *ir.Service, _ *ir.Endpoints) { s.Traffic.IdleTimeout = 10 * time.Second })
		ex, s := get("catalog.shop:5432", ""), answer(200, "")
		ex.head.Method, ex.head.Path, ex.more = []byte("CONNECT"), nil, make(chan []byte, 9)
		w.script = []any{listening{s}}
		for i := range 4 {
			time.AfterFunc(time.Duration(i)*5*time.Second, func() { ex.more <- []byte("x") })
		}
		began := time.Now()
		w.proxy.Outbound(ex, proxy.Via{})
		if took := time.Since(began); took < 24*time.Second || took > 25*time.Second || w.last.Reason != mesh.ReasonTimeout || s.in.String() != "xxxx" {
			t.Errorf("%s (%s) after %v, %q came through", w.last.Reason, w.last.Detail, took, s.in.String())
		}
	})
}

// listening is a tunnel's far end that only listens.
type listening struct{ *stream }

func (l listening) Receive(h *message.Head) (bool, error) {
	h.Reset()
	h.Status, h.Length = 200, message.LengthUnknown
	return false, nil
}
func (l listening) Read([]byte) (int, error) {
	<-l.wait()
	return 0, os.ErrDeadlineExceeded
}

// TestCORS: preflights are answered here, and answers are shared, our own refusals too.
func TestCORS(t *testing.T) {
	w := newWorld(t, 3, func(s *ir.Service, _ *ir.Endpoints) {
		s.Routed = true
		s.Routes = []ir.Route{{Match: mesh.RouteMatch{Method: "PUT"}, Backends: []ir.Backend{{Service: catalog, Weight: 1}},
			Filters: []mesh.RouteFilter{{Kind: mesh.FilterCORS, CORS: &mesh.CORS{AllowOrigins: []string{"https://a.example"}, AllowMethods: []string{"PUT"}}}}}}
	})
	ex := get("catalog", "/").with("origin", "https://a.example").with("access-control-request-method", "PUT")
	ex.head.Method = []byte("OPTIONS")
	w.proxy.Outbound(ex, proxy.Via{})
	if ex.status != 204 || ex.field("access-control-allow-origin") != "https://a.example" || ex.field("access-control-allow-methods") != "PUT" || w.last.Tries != 0 || w.last.Status != 204 {
		t.Errorf("preflight: %d %q after %d tries", ex.status, ex.fields, w.last.Tries)
	}
	put := func(origin string, s any) *exchange {
		ex := get("catalog", "/").with("origin", origin)
		ex.head.Method = []byte("PUT")
		w.script = []any{s}
		w.proxy.Outbound(ex, proxy.Via{})
		return ex
	}
	if ex := put("https://a.example", answer(200, "ok").says("access-control-allow-origin", "*")); ex.field("access-control-allow-origin") != "https://a.example" {
		t.Errorf("%q", ex.fields)
	}
	if ex := put("https://evil.example", answer(200, "ok").says("access-control-allow-origin", "*")); ex.status != 200 || ex.field("access-control-allow-origin") != "" {
		t.Errorf("of another origin: %d %q", ex.status, ex.fields)
	}
	if ex := put("https://a.example", answer2(errBroken)); ex.status < 500 || ex.field("access-control-allow-origin") != "https://a.example" {
		t.Errorf("a refusal of ours: %d %q", ex.status, ex.fields)
	}
}

// TestASilentClusterDoesNotUseUpTheTries: with the own endpoints dead and the nearest other cluster behind a gateway
// that does not answer, the tries must reach the third.
func TestASilentClusterDoesNotUseUpTheTries(t *testing.T) {
	w := newWorld(t, 2, func(_ *ir.Service, eps *ir.Endpoints) {
		eps.Groups = append(eps.Groups, ir.Group{Cluster: "us-east", Exported: true, Slots: make([]uint64, 4)},
			ir.Group{Cluster: "ap-south", Exported: true, Slots: make([]uint64, 4)})
	})
	silent := &tunnel.Error{Why: mesh.ReasonConnectTimeout, Err: os.ErrDeadlineExceeded}
	w.script = []any{errRefused, errRefused, silent, answer(200, "")}
	w.proxy.Outbound(get("catalog", "/"), proxy.Via{})
	if w.last.Status != 200 || w.last.Cluster != "ap-south" || w.last.Tries != 4 {
		t.Errorf("%d in %s after %d tries, want 200 in ap-south after 4", w.last.Status, w.last.Cluster, w.last.Tries)
	}
}

// TestWhatWasSilentOnceIsLeft: a connection of which nothing is heard is as good a reason to leave a cluster behind gateways as one that
// cannot be made. The control is an answer that is late, which says nothing of the way.
func TestWhatWasSilentOnceIsLeft(t *testing.T) {
	for unheard, want := range map[bool]mesh.ClusterName{true: "ap-south", false: "us-east"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 2, func(s *ir.Service, eps *ir.Endpoints) {
				s.Traffic.TryTimeout = time.Second
				eps.Groups = append(eps.Groups, ir.Group{Cluster: "us-east", Exported: true, Slots: make([]uint64, 4)},
					ir.Group{Cluster: "ap-south", Exported: true, Slots: make([]uint64, 4)})
			})
			late := answer(0, "")
			late.silent, late.unheard = true, unheard
			w.script = []any{errRefused, errRefused, late, answer(200, "")}
			w.proxy.Outbound(get("catalog", "/"), proxy.Via{})
			if w.last.Status != 200 || w.last.Cluster != want || w.last.Tries != 4 {
				t.Errorf("unheard %v: %d in %s after %d tries, want 200 in %s after 4", unheard, w.last.Status, w.last.Cluster, w.last.Tries, want)
			}
		})
	}
}

// TestTheLastFreeTryLeavesACluster: a cluster may have more dead endpoints than a request has tries.
func TestTheLastFreeTryLeavesACluster(t *testing.T) {
	w := newWorld(t, 8, func(_ *ir.Service, eps *ir.Endpoints) {
		eps.Groups = append(eps.Groups, ir.Group{Cluster: "us-east", Exported: true, Slots: make([]uint64, 4)})
	})
	w.script = []any{errRefused, errRefused, errRefused, answer(200, "")}
	w.proxy.Outbound(get("catalog", "/"), proxy.Via{})
	if w.last.Status != 200 || w.last.Cluster != "us-east" || w.last.Tries != 4 {
		t.Errorf("%d in %s after %d tries, want 200 in us-east after 4", w.last.Status, w.last.Cluster, w.last.Tries)
	}
}
