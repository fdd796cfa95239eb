package proxy_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// limited is serving with a traffic policy.
func limited(t *testing.T, traffic *ir.Traffic) *world {
	w := serving(t)
	in := &ir.Inbound{Service: catalog, Ports: []ir.InboundPort{{Port: 80, Protocol: mesh.ProtocolHTTP}}}
	w.state.Inbound[catalog] = inbound(t, in, w.state.Inbound[catalog].Access, traffic, nil)
	return w
}

func TestRateLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := limited(t, &ir.Traffic{RateLimits: []mesh.RateLimit{{Name: "reads", Requests: 10, Per: time.Second, Burst: 3,
			Keys: []mesh.RateKey{{Identity: true}, {Header: "x-user"}}, Match: mesh.RequestMatch{Methods: []string{"GET"}}}}})
		send := func(ex *exchange, p proxy.Peer) string {
			w.script = []any{answer(200, "ok")}
			w.proxy.Inbound(ex, p)
			return fmt.Sprintf("%d %s %s", ex.status, ex.field("isthmus-reason"), ex.field("retry-after"))
		}
		const ok, no = "200  ", "429 rate_limited 1"
		other := peer
		other.Identity.ServiceAccount = "cart"
		for i, want := range []string{ok, ok, ok, no, no} {
			if got := send(asked("/"), peer); got != want {
				t.Errorf("request %d: %s, want %s", i, got, want)
			}
		}
		for name, got := range map[string]string{"another caller": send(asked("/"), other), "another user": send(asked("/").with("x-user", "a"), peer),
			"another method": send(func() *exchange { e := asked("/"); e.head.Method = []byte("DELETE"); return e }(), peer)} {
			if got != ok {
				t.Errorf("%s: %s", name, got)
			}
		}
		if len(w.last.Detail) > 0 && w.last.Status == 429 && !strings.Contains(w.last.Detail, "reads") {
			t.Errorf("detail %q", w.last.Detail)
		}
		<-time.After(100 * time.Millisecond)
		if got := send(asked("/"), peer); got != ok {
			t.Errorf("after an interval: %s", got)
		}
		if got := send(asked("/"), peer); got != no {
			t.Errorf("and another at once: %s", got)
		}
		// One list, however it is written.
		send(asked("/").with("x-user", "b").with("x-user", "c"), peer)
		send(asked("/").with("x-user", "b, c"), peer)
		send(asked("/").with("x-user", "b,c"), peer)
		if got := send(asked("/").with("x-user", "b ,c"), peer); got != no {
			t.Errorf("a list in a fourth spelling: %s", got)
		}
	})
}

// TestRefusedCallersUseUpNothing: the rate is limited after access was decided.
func TestRefusedCallersUseUpNothing(t *testing.T) {
	w := serving(t, mesh.AccessPolicy{Action: mesh.Deny, Rules: []mesh.AccessRule{{To: []mesh.AccessOperation{{Paths: []string{"/admin"}}}}}})
	in := &ir.Inbound{Service: catalog, Ports: []ir.InboundPort{{Port: 80, Protocol: mesh.ProtocolHTTP}}}
	w.state.Inbound[catalog] = inbound(t, in, w.state.Inbound[catalog].Access, &ir.Traffic{RateLimits: []mesh.RateLimit{{Requests: 1, Per: time.Hour, Burst: 1}}}, nil)
	for range 5 {
		w.proxy.Inbound(asked("/admin"), peer)
	}
	w.script = []any{answer(200, "ok")}
	ex := asked("/")
	if w.proxy.Inbound(ex, peer); ex.status != 200 {
		t.Errorf("%d %s", ex.status, w.last.Reason)
	}
}

// TestCountsSurviveConfigurations: a limit that stays the same goes on counting; one that
// changed begins anew.
func TestCountsSurviveConfigurations(t *testing.T) {
	limits := func(burst int) *ir.Traffic {
		return &ir.Traffic{RateLimits: []mesh.RateLimit{{Name: "a", Requests: 1, Per: time.Hour, Burst: burst}}}
	}
	w := limited(t, limits(1))
	status := func() int {
		w.script = []any{answer(200, "ok")}
		ex := asked("/")
		w.proxy.Inbound(ex, peer)
		return ex.status
	}
	again := func(traffic *ir.Traffic) {
		prev := w.state.Inbound[catalog]
		w.state.Inbound[catalog] = inbound(t, &ir.Inbound{Service: catalog, Ports: []ir.InboundPort{{Port: 80}}}, prev.Access, traffic, prev)
	}
	a := status()
	again(limits(1))
	b := status()
	again(limits(2))
	if c := status(); a != 200 || b != 429 || c != 200 {
		t.Errorf("%d, with the same policy %d, with another %d", a, b, c)
	}
}

// holding is a stream whose answer waits.
type holding struct {
	*stream
	until chan struct{}
}

func (h holding) Receive(m *message.Head) (bool, error) { <-h.until; return h.stream.Receive(m) }

func TestConcurrencyIsShed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := limited(t, &ir.Traffic{Limits: mesh.Limits{Concurrency: 3}})
		cfg := w.cfg
		until := make(chan struct{})
		cfg.App = func(string, mesh.Protocol) (message.Stream, error) { return holding{answer(200, "ok"), until}, nil }
		var mu sync.Mutex
		refused := 0
		cfg.Done = func(r *proxy.Record) {
			mu.Lock()
			defer mu.Unlock()
			if r.Reason == mesh.ReasonOverloaded {
				refused++
			}
		}
		p := proxy.New(cfg)
		var all sync.WaitGroup
		one := func() *exchange {
			ex := asked("/")
			all.Go(func() { p.Inbound(ex, peer) })
			return ex
		}
		for range 3 {
			one()
		}
		synctest.Wait()
		late := one()
		synctest.Wait()
		if late.status != 503 || late.field("isthmus-not-executed") != "overloaded" || refused != 1 {
			t.Errorf("%d %q, %d refused", late.status, late.fields, refused)
		}
		close(until)
		all.Wait()
		if ex := one(); true {
			all.Wait()
			if ex.status != 200 {
				t.Errorf("when the others had ended: %d", ex.status)
			}
		}
	})
}

func TestCircuitBreaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, func(s *ir.Service, _ *ir.Endpoints) {
			s.Traffic.Limits = mesh.Limits{Requests: 2, Connections: 1, Pending: 7}
		})
		cfg := w.cfg
		cfg.Done = func(*proxy.Record) {}
		until := make(chan struct{})
		pending := 0
		cfg.Open = func(_ time.Time, d *proxy.Destination) (message.Stream, error) {
			pending = d.PendingMost
			s := answer(200, "ok")
			if d.Connect {
				s.body = ""
			}
			return holding{s, until}, nil
		}
		p := proxy.New(cfg)
		var all sync.WaitGroup
		one := func(ex *exchange) *exchange {
			all.Go(func() { p.Outbound(ex, proxy.Via{}) })
			synctest.Wait()
			return ex
		}
		connect := func() *exchange {
			ex := get("catalog.shop:5432", "")
			ex.head.Method, ex.head.Path = []byte("CONNECT"), nil
			return ex
		}
		one(get("catalog", "/"))
		one(get("catalog", "/"))
		one(connect()) // counted apart
		for _, ex := range []*exchange{one(get("catalog", "/")), one(connect())} {
			if ex.status != 503 || ex.field("isthmus-reason") != "overloaded" {
				t.Errorf("%s: %d %q, want it refused at once", ex.head.Method, ex.status, ex.fields)
			}
		}
		close(until)
		all.Wait()
		if ex := one(get("catalog", "/")); ex.status != 200 || pending != 7 {
			t.Errorf("when the others had ended: %d; pending %d", ex.status, pending)
		}
		all.Wait()
	})
}

func TestSizesAreLimited(t *testing.T) {
	small := mesh.Limits{RequestHead: 400, ResponseHead: 200, RequestBody: 10, ResponseBody: 10}
	large := strings.Repeat("x", 500)
	ok := func() message.Stream { return answer(200, "ok") }
	unsized := func(ex *exchange) *exchange { ex.head.Length = -1; return ex }
	unknown := func(s *stream) message.Stream { return lengthless{s} }
	for _, c := range []struct {
		name   string
		ex     func(*exchange) *exchange
		answer func() message.Stream
		want   string
	}{
		{"all fits", func(e *exchange) *exchange { return e }, ok, "200 "},
		{"request head", func(e *exchange) *exchange { return e.with("x", large) }, ok, "431 head_too_large"},
		{"request body", func(e *exchange) *exchange { e.head.Length = 11; e.body = strings.NewReader("12345678901"); return e }, ok, "413 body_too_large"},
		{"request body that streams", func(e *exchange) *exchange { e.body = strings.NewReader("12345678901"); return unsized(e) },
			func() message.Stream { s := answer(200, "ok"); s.waitBody = true; return s }, "413 body_too_large"},
		{"response head", func(e *exchange) *exchange { return e }, func() message.Stream { return answer(200, "ok").says("x", large) }, "502 head_too_large"},
		{"response body", func(e *exchange) *exchange { return e }, func() message.Stream { return answer(200, "12345678901") }, "502 body_too_large"},
		{"response body that streams", func(e *exchange) *exchange { return e }, func() message.Stream { return unknown(answer(200, "12345678901")) }, "aborted body_too_large"},
	} {
		for _, side := range []string{"client proxy", "server proxy"} {
			for _, limits := range []mesh.Limits{small, {}} {
				want := c.want
				if limits == (mesh.Limits{}) {
					want = "200 "
				}
				var w *world
				tries := 0
				next := func() (message.Stream, error) { tries++; return c.answer(), nil }
				ex := c.ex(post("catalog", "/", "x"))
				if side == "client proxy" {
					w = newWorld(t, 3, func(s *ir.Service, _ *ir.Endpoints) { s.Traffic.Limits, s.Traffic.Retry.AnyMethod = limits, true })
					cfg := w.cfg
					cfg.Open = func(time.Time, *proxy.Destination) (message.Stream, error) { return next() }
					proxy.New(cfg).Outbound(ex, proxy.Via{})
				} else {
					w = limited(t, &ir.Traffic{Limits: limits})
					cfg := w.cfg
					cfg.App = func(string, mesh.Protocol) (message.Stream, error) { return next() }
					proxy.New(cfg).Inbound(ex.with("isthmus-to", "shop/catalog:80"), peer)
				}
				got := fmt.Sprint(ex.status)
				if ex.aborted != nil {
					got = "aborted"
				}
				if got += " " + string(w.last.Reason); got != want || tries > 1 || ex.ends != 1 {
					t.Errorf("%s at the %s, limits %+v: %s (%s) after %d tries, ended %d times; want %s", c.name, side, limits, got, w.last.Detail, tries, ex.ends, want)
				}
			}
		}
	}
}

// lengthless is a stream that does not say how long its body is.
type lengthless struct{ *stream }

func (l lengthless) Receive(h *message.Head) (bool, error) {
	end, err := l.stream.Receive(h)
	h.Length = message.LengthUnknown
	return end, err
}

// TestReplayBody: a body up to the limit is kept for another try, a larger one is sent once.
func TestReplayBody(t *testing.T) {
	for most, tries := range map[int]int{4: 2, 3: 1, 0: 2} {
		w := newWorld(t, 3, func(s *ir.Service, _ *ir.Endpoints) {
			s.Traffic.Limits.ReplayBody, s.Traffic.Retry.AnyMethod = most, true
		})
		first, second := answer(503, ""), answer(200, "ok")
		first.waitBody, second.waitBody = true, true
		w.script = []any{first, second}
		w.proxy.Outbound(post("catalog", "/", "body"), proxy.Via{})
		if w.last.Tries != tries || first.in.String() != "body" || tries == 2 && second.in.String() != "body" {
			t.Errorf("limit %d: %d tries, sent %q and %q", most, w.last.Tries, first.in.String(), second.in.String())
		}
	}
}

// overload is what became of a run of ten times the capacity, and of half of it afterwards.
type overload struct {
	// goodput is the share of the capacity that was answered in time in the last 4 s of it.
	goodput float64
	// held is how many requests the proxy held at most.
	held int
	// recovery is how long after its end the last request began that was not answered in time.
	recovery time.Duration
}

// overloaded runs a server proxy for 8 s before an application of 4 lanes that takes 20 ms, FIFO,
// while callers who wait 100 ms ask for ten times what it can do, and then for 8 s at half of that.
func overloaded(t *testing.T, limits mesh.Limits) (out overload) {
	synctest.Test(t, func(t *testing.T) {
		w := limited(t, &ir.Traffic{Limits: limits})
		cfg := w.cfg
		cfg.Done = func(*proxy.Record) {}
		lanes := make(chan struct{}, 4)
		cfg.App = func(string, mesh.Protocol) (message.Stream, error) { return laned{answer(200, "ok"), lanes}, nil }
		p := proxy.New(cfg)
		const capacity, patience, lasts = 200, 100 * time.Millisecond, 8 * time.Second
		var all sync.WaitGroup
		var mu sync.Mutex
		good, held := 0, 0
		began := time.Now()
		ask := func() {
			all.Go(func() {
				ex, at := asked("/"), time.Now()
				mu.Lock()
				held++
				out.held = max(out.held, held)
				mu.Unlock()
				p.Inbound(ex, peer)
				mu.Lock()
				defer mu.Unlock()
				held--
				inTime := ex.status == 200 && time.Since(at) <= patience
				if inTime && time.Since(began) > lasts/2 && time.Since(began) <= lasts {
					good++
				}
				if asked := at.Sub(began); !inTime && asked >= lasts {
					out.recovery = max(out.recovery, asked-lasts)
				}
			})
		}
		for time.Since(began) < lasts {
			ask()
			<-time.After(time.Second / (10 * capacity))
		}
		for time.Since(began) < 2*lasts {
			ask()
			<-time.After(2 * time.Second / capacity)
		}
		all.Wait()
		out.goodput = float64(good) / (lasts.Seconds() / 2 * capacity)
	})
	t.Logf("concurrency %d: %+v", limits.Concurrency, out)
	return out
}

// laned is an application that works on as many requests at once as it has lanes.
type laned struct {
	*stream
	lanes chan struct{}
}

func (l laned) Receive(h *message.Head) (bool, error) {
	l.lanes <- struct{}{}
	<-time.After(20 * time.Millisecond)
	<-l.lanes
	return l.stream.Receive(h)
}

// TestOverloadIsShed: at ten times its capacity a server with a limit goes on serving at 90 % of
// it at least, holds a bounded number of requests, and serves all within 5 s of the end; without, in the control run, what it serves
// is served too late, it holds seventy times as many, and goes on being late.
func TestOverloadIsShed(t *testing.T) {
	if got := overloaded(t, mesh.Limits{Concurrency: 12}); got.goodput < 0.9 || got.held > 13 || got.recovery > 5*time.Second {
		t.Errorf("%+v with the limit, want 0.9 of the capacity, 12 requests and one that is refused, and 5 s", got)
	}
	if got := overloaded(t, mesh.Limits{}); got.goodput > 0.5 || got.held < 500 || got.recovery < 5*time.Second {
		t.Errorf("%+v without the limit: the test proves nothing", got)
	}
}
