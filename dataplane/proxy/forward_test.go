package proxy_test

import (
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestFailureClasses is the table of failure classes, request by request.
func TestFailureClasses(t *testing.T) {
	declined := func(reason mesh.Reason) *stream {
		return answer(503, "no").says("isthmus-not-executed", string(reason)).says("isthmus-reason", string(reason))
	}
	for _, c := range []struct {
		name   string
		ex     *exchange
		script []any
		status int
		reason mesh.Reason
		tries  int
		body   string
	}{
		{"served at once", get("catalog", "/"), []any{answer(200, "ok")}, 200, "", 1, "ok"},
		{"never executed is tried elsewhere", get("catalog", "/"), []any{errRefused, errRefused, answer(200, "ok")}, 200, "", 3, "ok"},
		{"never executed, any method", post("catalog", "/", "x"), []any{errRefused, answer(200, "ok")}, 200, "", 2, "ok"},
		{"free tries are bounded", get("catalog", "/"), []any{errRefused, errRefused, errRefused, errRefused, answer(200, "ok")}, 503, mesh.ReasonUnreachable, 4, ""},
		{"broken connection, idempotent", get("catalog", "/"), []any{answer2(errStale), answer(200, "ok")}, 200, "", 2, "ok"},
		{"broken after execution, idempotent", get("catalog", "/"), []any{answer2(errBroken), answer(200, "ok")}, 200, "", 2, "ok"},
		{"broken after execution, not idempotent", post("catalog", "/", "x"), []any{answer2(errBroken), answer(200, "ok")}, 502, mesh.ReasonReset, 1, ""},
		{"stale, not idempotent", post("catalog", "/", "x"), []any{answer2(errStale), answer(200, "ok")}, 502, mesh.ReasonReset, 1, ""},
		{"503 of the application, idempotent", get("catalog", "/"), []any{answer(503, "busy"), answer(200, "ok")}, 200, "", 2, "ok"},
		{"503 of the application, not idempotent", post("catalog", "/", "x"), []any{answer(503, "busy")}, 503, "", 1, "busy"},
		{"500 of the application is its own word", get("catalog", "/"), []any{answer(500, "bug")}, 500, "", 1, "bug"},
		{"503 to the last: the application's own answer", get("catalog", "/"), []any{answer(503, "a"), answer(503, "b"), answer(503, "c")}, 503, "", 3, "c"},
		{"the server proxy did not execute", post("catalog", "/", "x"), []any{declined(mesh.ReasonAppUnreachable), answer(200, "ok")}, 200, "", 2, "ok"},
		{"shed costs the budget", post("catalog", "/", "x"), []any{declined(mesh.ReasonOverloaded), declined(mesh.ReasonOverloaded), declined(mesh.ReasonOverloaded), answer(200, "ok")}, 503, mesh.ReasonOverloaded, 3, ""},
		{"draining is free", post("catalog", "/", "x"), []any{declined(mesh.ReasonDraining), declined(mesh.ReasonDraining), declined(mesh.ReasonDraining), answer(200, "ok")}, 200, "", 4, "ok"},
		{"denied is final", get("catalog", "/"), []any{answer(403, "no").says("isthmus-reason", "access_denied")}, 403, mesh.ReasonDenied, 1, "no"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 6, nil)
			var streams []*stream
			for _, s := range c.script {
				if s, ok := s.(*stream); ok {
					streams = append(streams, s)
				}
			}
			w.script = c.script
			w.proxy.Outbound(c.ex, proxy.Via{})
			if c.ex.status != c.status || w.last.Reason != c.reason || w.last.Tries != c.tries || w.last.Status != c.status {
				t.Errorf("status %d, reason %q, %d tries (%s); want %d, %q, %d", c.ex.status, w.last.Reason, w.last.Tries, w.last.Detail, c.status, c.reason, c.tries)
			}
			if c.reason != "" && c.ex.field("isthmus-reason") != string(c.reason) {
				t.Errorf("the application is told %q, want %q", c.ex.field("isthmus-reason"), c.reason)
			}
			if c.body != "" && c.ex.out.String() != c.body {
				t.Errorf("body %q, want %q", c.ex.out.String(), c.body)
			}
			if c.ex.field("isthmus-not-executed") != "" {
				t.Error("a field between proxies was shown to the application")
			}
			if c.ex.ends != 1 {
				t.Errorf("the exchange was ended %d times", c.ex.ends)
			}
			for i, s := range streams {
				want := 1
				if i >= c.tries {
					want = 0
				}
				if used := s.sent.Method != nil; used && s.closed != want {
					t.Errorf("stream %d was closed %d times", i, s.closed)
				}
			}
			tags := map[string]bool{}
			for _, d := range w.opened {
				if tags[d.Endpoint.Tag] {
					t.Errorf("endpoint %s was tried twice", d.Endpoint.Tag)
				}
				tags[d.Endpoint.Tag] = true
			}
		})
	}
}

func answer2(err error) *stream {
	s := answer(0, "")
	s.receiveErr = err
	return s
}

// TestOneEndpointKeepsItsAnswer: an answer is not given up when there is nowhere else to ask.
func TestOneEndpointKeepsItsAnswer(t *testing.T) {
	w := newWorld(t, 1, nil)
	w.script = []any{answer(503, "maintenance")}
	ex := get("catalog", "/")
	w.proxy.Outbound(ex, proxy.Via{})
	if ex.status != 503 || ex.out.String() != "maintenance" || w.last.Tries != 1 {
		t.Errorf("%d %q after %d tries", ex.status, ex.out.String(), w.last.Tries)
	}
}

// TestTheOnlyEndpointIsAskedAgain: where a connection broke, and there is no other endpoint, another connection to
// the same may do; a refused one would be refused again.
func TestTheOnlyEndpointIsAskedAgain(t *testing.T) {
	for _, c := range []struct {
		name   string
		ex     *exchange
		script []any
		status int
		tries  int
	}{
		{"a connection broke", get("catalog", "/"), []any{answer2(errStale), answer(200, "ok")}, 200, 2},
		{"each time", get("catalog", "/"), []any{answer2(errStale), answer2(errStale), answer2(errStale), answer2(errStale), answer(200, "ok")}, 502, 4},
		{"not idempotent", post("catalog", "/", "x"), []any{answer2(errStale), answer(200, "ok")}, 502, 1},
		{"refused", get("catalog", "/"), []any{errRefused, answer(200, "ok")}, 503, 1},
		{"broken after execution", get("catalog", "/"), []any{answer2(errBroken), answer(200, "ok")}, 502, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 1, nil)
			w.script = c.script
			w.proxy.Outbound(c.ex, proxy.Via{})
			if c.ex.status != c.status || w.last.Tries != c.tries {
				t.Errorf("%d after %d tries, want %d after %d: %s", c.ex.status, w.last.Tries, c.status, c.tries, w.last.Detail)
			}
		})
	}
}

// late is a stream that answers after a time, unless its deadline comes first.
type late struct {
	*stream
	after time.Duration
}

func (l late) Receive(h *message.Head) (bool, error) {
	select {
	case <-time.After(l.after):
		return l.stream.Receive(h)
	case <-l.wait():
		return false, os.ErrDeadlineExceeded
	}
}

// TestATryIsNotCutShortForAnotherThatCannotBe: the time of a try is bounded so that another may follow elsewhere; the only
// endpoint, and the last of two, have all that is left.
func TestATryIsNotCutShortForAnotherThatCannotBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := func() message.Stream { return late{answer(200, "ok"), 3 * time.Second} }
		for endpoints, tries := range map[int]int{1: 1, 2: 2} {
			w := newWorld(t, endpoints, nil)
			w.script = []any{slow(), slow()}
			ex := get("catalog", "/")
			w.proxy.Outbound(ex, proxy.Via{})
			if ex.status != 200 || w.last.Tries != tries {
				t.Errorf("%d endpoints: %d after %d tries, want 200 after %d: %s", endpoints, ex.status, w.last.Tries, tries, w.last.Detail)
			}
		}
	})
}

func TestBudgetEnds(t *testing.T) {
	w := newWorld(t, 6, nil)
	retried := 0
	for range 300 {
		w.script = []any{answer(503, ""), answer(503, ""), answer(503, "")}
		w.proxy.Outbound(get("catalog", "/"), proxy.Via{})
		retried += w.last.Tries - 1
	}
	if retried > 100+300/5 {
		t.Errorf("%d retries of 300 requests, want at most the burst of 100 and a fifth", retried)
	}
}

// TestAPeerThatFellSilentIsLeftByAll: however many requests were with a server of whom nothing is heard any more, each is tried elsewhere; the
// budget, which is for servers that answer late, does not end it. Of these, the control, it does; so it does where a policy gives a
// try less than a second, in which a server that lives may be silent; and a POST is not tried again.
func TestAPeerThatFellSilentIsLeftByAll(t *testing.T) {
	served := func(try time.Duration, unheard bool, ask func() *exchange) (n int) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 3, func(s *ir.Service, _ *ir.Endpoints) {
				s.Traffic.TryTimeout, s.Traffic.Outlier.ConsecutiveFailures = try, 1000
			})
			for range 300 {
				s := answer(0, "")
				s.silent, s.unheard = true, unheard
				w.script = []any{s, answer(200, "ok")}
				ex := ask()
				w.proxy.Outbound(ex, proxy.Via{})
				if ex.status == 200 {
					n++
				}
			}
		})
		return n
	}
	if n := served(time.Second, true, func() *exchange { return get("catalog", "/") }); n != 300 {
		t.Errorf("%d of 300 requests were served after nothing was heard of the first server", n)
	}
	for try, unheard := range map[time.Duration]bool{time.Second: false, 900 * time.Millisecond: true} {
		if n := served(try, unheard, func() *exchange { return get("catalog", "/") }); n < 100 || n > 100+300/5 {
			t.Errorf("%d of 300 requests were served after the first server was late by %v, want the burst and a fifth at most", n, try)
		}
	}
	if n := served(time.Second, true, func() *exchange { return post("catalog", "/", "x") }); n != 0 {
		t.Errorf("%d POSTs were sent again", n)
	}
}

func TestTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, nil)
		silent := func() *stream { s := answer(0, ""); s.silent = true; return s }
		w.script = []any{silent(), answer(200, "ok")}
		ex, began := get("catalog", "/"), time.Now()
		w.proxy.Outbound(ex, proxy.Via{})
		if ex.status != 200 || w.last.Tries != 2 || time.Since(began) != time.Second {
			t.Errorf("%d after %d tries and %v, want 200 after 2 and 1 s", ex.status, w.last.Tries, time.Since(began))
		}
		w.script = []any{silent(), silent(), silent()}
		ex, began = get("catalog", "/"), time.Now()
		w.proxy.Outbound(ex, proxy.Via{})
		if ex.status != 504 || ex.field("isthmus-reason") != "request_timeout" || time.Since(began) != 15*time.Second {
			t.Errorf("%d %s after %v, want 504 request_timeout after 15 s", ex.status, ex.field("isthmus-reason"), time.Since(began))
		}
		w.script = []any{silent()}
		ex, began = post("catalog", "/", "x"), time.Now()
		w.proxy.Outbound(ex, proxy.Via{})
		if ex.status != 504 || w.last.Tries != 1 || time.Since(began) != 15*time.Second {
			t.Errorf("POST: %d after %d tries and %v", ex.status, w.last.Tries, time.Since(began))
		}
	})
}

func TestStreamedBodies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, nil)
		stream := func() *exchange {
			ex := post("catalog", "/", "")
			ex.head.Length, ex.more = message.LengthUnknown, make(chan []byte, 4)
			return ex
		}
		// Sent beside the answer, with trailers, for longer than a request may take.
		ex, s := stream(), answer(200, "ok")
		s.waitBody = true
		ex.trailers = []message.Field{{Name: []byte("isthmus-to"), Value: []byte("x")}, {Name: []byte("sum"), Value: []byte("1")}}
		w.script = []any{s}
		time.AfterFunc(20*time.Second, func() { ex.more <- []byte("later"); ex.more <- nil })
		ex.more <- []byte("now ")
		w.proxy.Outbound(ex, proxy.Via{})
		if ex.status != 200 || s.in.String() != "now later" || w.last.RequestBytes != 9 {
			t.Errorf("%d, the server got %q, %d bytes counted (%s)", ex.status, s.in.String(), w.last.RequestBytes, w.last.Detail)
		}
		if len(s.trailers) != 1 || string(s.trailers[0].Name) != "sum" {
			t.Errorf("trailers %q: want the application's and none of ours", s.trailers)
		}
		// A body that is spent is not sent again, one that was not is.
		ex = stream()
		ex.more <- nil
		w.script = []any{errRefused, answer(200, "ok")}
		w.proxy.Outbound(ex, proxy.Via{})
		if ex.status != 200 || w.last.Tries != 2 {
			t.Errorf("%d after %d tries, want 200 after 2", ex.status, w.last.Tries)
		}
		// The client breaks off: the server must not take what came for whole.
		ex, s = stream(), answer(200, "ok")
		s.waitBody = true
		w.script = []any{s}
		ex.more <- []byte("half")
		close(ex.more)
		w.proxy.Outbound(ex, proxy.Via{})
		select {
		case <-s.bodyEnd:
			t.Error("the server was told that half a body is whole")
		default:
		}
		if ex.aborted == nil || w.last.Reason != mesh.ReasonClientGone || s.closed != 1 {
			t.Errorf("aborted %v, reason %q, closed %d times", ex.aborted, w.last.Reason, s.closed)
		}
		// The server answers early and reads no more.
		ex, s = stream(), answer(413, "too much")
		s.stuck = true
		w.script = []any{s}
		ex.more <- []byte("large")
		w.proxy.Outbound(ex, proxy.Via{})
		if ex.status != 413 || ex.out.String() != "too much" {
			t.Errorf("%d %q", ex.status, ex.out.String())
		}
		// Nobody moves for five minutes.
		ex, s = stream(), answer(200, "")
		s.waitBody = true
		w.script = []any{s}
		began := time.Now()
		w.proxy.Outbound(ex, proxy.Via{})
		if ex.status < 400 || time.Since(began) != 5*time.Minute {
			t.Errorf("%d after %v", ex.status, time.Since(began))
		}
	})
}

func TestExpectContinue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, nil)
		expect := func() *exchange { ex := post("catalog", "/", "body"); ex.head.Expect100 = true; return ex }
		// A refusal that came instead of 100 costs no body, and another endpoint is tried.
		no := answer(503, "").says("isthmus-not-executed", "draining")
		yes := answer(200, "ok")
		yes.interim, yes.waitBody = []int{100}, true
		ex := expect()
		w.script = []any{no, yes}
		w.proxy.Outbound(ex, proxy.Via{})
		if ex.status != 200 || no.in.Len() != 0 || yes.in.String() != "body" {
			t.Errorf("%d, the first got %q, the second %q", ex.status, no.in.String(), yes.in.String())
		}
		// A server that ignores it gets the body after a second.
		s := answer(200, "ok")
		s.waitBody = true
		ex, began := expect(), time.Now()
		w.script = []any{s}
		w.proxy.Outbound(ex, proxy.Via{})
		if ex.status != 200 || s.in.String() != "body" || time.Since(began) != time.Second {
			t.Errorf("%d, got %q after %v (%s)", ex.status, s.in.String(), time.Since(began), w.last.Detail)
		}
	})
}

func TestAnswersInPart(t *testing.T) {
	w := newWorld(t, 3, nil)
	s := answer(200, "half")
	s.readErr = io.ErrUnexpectedEOF
	ex := get("catalog", "/")
	w.script = []any{s, answer(200, "ok")}
	w.proxy.Outbound(ex, proxy.Via{})
	if ex.aborted == nil || w.last.Reason != mesh.ReasonReset || w.last.Tries != 1 {
		t.Errorf("aborted %v, reason %q, %d tries: half an answer must be seen to be broken", ex.aborted, w.last.Reason, w.last.Tries)
	}
	s = answer(200, "ok").says("isthmus-secret", "x").says("Isthmus_x", "y")
	s.interim = []int{103, 100}
	s.after = []message.Field{{Name: []byte("isthmus-load"), Value: []byte("9")}, {Name: []byte("grpc-status"), Value: []byte("0")}}
	s.fields[1].Name = []byte("isthmus_x")
	ex = get("catalog", "/")
	w.script = []any{s}
	w.proxy.Outbound(ex, proxy.Via{})
	if !slices.Equal(ex.interim, []int{103}) || ex.field("isthmus-secret")+ex.field("isthmus_x") != "" ||
		len(ex.after) != 1 || string(ex.after[0].Name) != "grpc-status" {
		t.Errorf("interim %v, fields %q, trailers %q", ex.interim, ex.fields, ex.after)
	}
}

func TestClientLeavesWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, nil)
		s := answer(200, "ok")
		s.silent = true
		w.script = []any{s, answer(200, "ok")}
		ex := get("catalog", "/")
		b := breaking{ex}
		time.AfterFunc(300*time.Millisecond, func() { b.leave() })
		began := time.Now()
		w.proxy.Outbound(b, proxy.Via{})
		if time.Since(began) != 300*time.Millisecond || w.last.Reason != mesh.ReasonClientGone || w.last.Tries != 1 || s.closed != 1 {
			t.Errorf("%v, reason %q, %d tries, closed %d times", time.Since(began), w.last.Reason, w.last.Tries, s.closed)
		}
	})
}

func TestPanicCostsOneRequest(t *testing.T) {
	w := newWorld(t, 3, nil)
	w.script = []any{panics{}}
	cfg := w.cfg
	cfg.Open = func(time.Time, *proxy.Destination) (message.Stream, error) { panic("ours") }
	p := proxy.New(cfg)
	ex := get("catalog", "/")
	p.Outbound(ex, proxy.Via{})
	if ex.status != 503 || w.panics != 1 || w.last.Reason != mesh.ReasonOwnFault || ex.ends != 1 {
		t.Errorf("%d, %d panics, reason %q", ex.status, w.panics, w.last.Reason)
	}
}

type panics struct{}

func TestConnections(t *testing.T) {
	w := newWorld(t, 3, nil)
	s := answer(200, "from the server")
	w.script = []any{errRefused, s}
	ex := get("catalog.shop:5432", "")
	ex.head.Method, ex.head.Path, ex.body = []byte("CONNECT"), nil, strings.NewReader("from the client")
	w.proxy.Outbound(ex, proxy.Via{Service: catalog, Port: 5432})
	if ex.status != 200 || ex.out.String() != "from the server" || s.in.String() != "from the client" || w.last.Tries != 2 {
		t.Errorf("%d, client got %q, server %q, %d tries", ex.status, ex.out.String(), s.in.String(), w.last.Tries)
	}
	if !w.last.Tunnel || w.last.RequestBytes != 15 || w.last.ResponseBytes != 15 || !w.opened[1].Connect {
		t.Errorf("record %+v", w.last)
	}
}

func TestUpgrades(t *testing.T) {
	w := newWorld(t, 3, nil)
	upgrade := func(to string) *exchange {
		ex := get("catalog", "/chat")
		ex.head.Upgrade, ex.body = []byte(to), strings.NewReader("hello")
		return ex
	}
	s := answer(200, "switched") // extended CONNECT between proxies
	w.script = []any{s}
	ex := upgrade("websocket")
	w.proxy.Outbound(ex, proxy.Via{})
	if ex.status != 101 || ex.out.String() != "switched" || s.in.String() != "hello" {
		t.Errorf("%d, client got %q, server %q", ex.status, ex.out.String(), s.in.String())
	}
	s = answer(200, "a page").says("isthmus-not-switched", "1")
	w.script = []any{s}
	ex = upgrade("websocket")
	w.proxy.Outbound(ex, proxy.Via{})
	if ex.status != 200 || ex.out.String() != "a page" {
		t.Errorf("%d %q: an application that does not switch answers as it likes", ex.status, ex.out.String())
	}
	s = answer(200, "plain")
	w.script = []any{s}
	ex = upgrade("h2c")
	w.proxy.Outbound(ex, proxy.Via{})
	if ex.status != 200 || len(s.sent.Upgrade) != 0 {
		t.Errorf("%d, sent upgrade %q: h2c is not carried (RFC 9113 §3.1)", ex.status, s.sent.Upgrade)
	}
}

// TestSteadyStateAllocatesNothing also holds that a request leaves nothing behind for the
// next.
func TestSteadyStateAllocatesNothing(t *testing.T) {
	w := newWorld(t, 3, func(s *ir.Service, _ *ir.Endpoints) {
		s.Routed = true
		s.Routes = []ir.Route{{Object: "HTTPRoute shop/r", Match: mesh.RouteMatch{PathType: mesh.PathPrefix, Path: "/a"},
			Backends: []ir.Backend{{Service: catalog, Port: 80, Weight: 1}}}}
	})
	cfg := w.cfg
	cfg.Done = func(*proxy.Record) {}
	s := answer(200, "ok")
	cfg.Open = func(time.Time, *proxy.Destination) (message.Stream, error) { s.read = 0; return bare{s}, nil }
	p := proxy.New(cfg)
	ex := &quiet{exchange: get("catalog.shop.svc.clusterset.local:80", "/a/b").with("accept", "*/*").with("user-agent", "curl")}
	run := func() { p.Outbound(ex, proxy.Via{}) }
	run()
	if raceEnabled {
		return // what a request leaves behind was looked for all the same
	}
	if n := testing.AllocsPerRun(200, run); n > 0 {
		t.Errorf("%v allocations a request, want 0", n)
	}
}

// bare and quiet take away what the fakes allocate.
type bare struct{ s *stream }

func (b bare) Send(*message.Head, bool) error   { return nil }
func (b bare) Write(p []byte) (int, error)      { return len(p), nil }
func (b bare) CloseWrite([]message.Field) error { return nil }
func (b bare) Read(p []byte) (int, error)       { return b.s.Read(p) }
func (b bare) Trailers() []message.Field        { return nil }
func (b bare) SetDeadline(time.Time)            {}
func (b bare) Close()                           {}
func (b bare) Receive(h *message.Head) (bool, error) {
	h.Reset()
	h.Status, h.Length = 200, 2
	return false, nil
}

type quiet struct{ *exchange }

func (q *quiet) Respond(*message.Head, bool) error { return nil }
func (q *quiet) Write(p []byte) (int, error)       { return len(p), nil }
func (q *quiet) Finish([]message.Field) error      { return nil }
func (q *quiet) SetDeadline(time.Time)             {}
func (q *quiet) Read(p []byte) (int, error)        { return 0, io.EOF }

func BenchmarkOutbound(b *testing.B) {
	w := newWorld(b, 10, nil)
	cfg := w.cfg
	cfg.Done = func(*proxy.Record) {}
	s := answer(200, "ok")
	held := bare{s}
	var open message.Stream = held
	cfg.Open = func(time.Time, *proxy.Destination) (message.Stream, error) { s.read = 0; return open, nil }
	p := proxy.New(cfg)
	ex := &quiet{exchange: get("catalog.shop.svc.clusterset.local", "/a/b").with("accept", "*/*")}
	b.ReportAllocs()
	for b.Loop() {
		p.Outbound(ex, proxy.Via{})
	}
}
