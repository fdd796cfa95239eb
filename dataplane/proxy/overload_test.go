package proxy_test

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// through is a stream from a client proxy to a server proxy in the same process.
type through struct {
	*stream
	server *proxy.Proxy
	ex     *exchange
}

func (s *through) Send(h *message.Head, _ bool) error {
	s.ex = get("", "")
	s.ex.head.CopyFrom(h)
	return nil
}

func (s *through) Receive(h *message.Head) (bool, error) {
	s.server.Inbound(s.ex, peer)
	s.status, s.fields, s.body = s.ex.status, s.ex.fields, s.ex.out.String()
	return s.stream.Receive(h)
}

// weather is what an overload was like in its last three seconds.
type weather struct {
	mu sync.Mutex
	// good and offered are by criticality.
	good, offered map[mesh.Criticality]int
	// relieved were answered by a fallback, refused by none; of all the time.
	relieved, refused map[mesh.Criticality]int
	// brownouts are requests that the applications had with isthmus-brownout, unmarked those that say they are worth less
	// than usual and came without their criticality.
	brownouts, unmarked int
	// leaked are answers to clients with what is between proxies, strange ones that neither succeeded nor said overloaded.
	leaked, strange int
	tries, requests int
	served          [2]int
}

// share is the goodput as a part of capacity, in requests a second.
func (w *weather) share(capacity float64) float64 {
	sum := 0
	for _, n := range w.good {
		sum += n
	}
	return float64(sum) / 3 / capacity
}

// laneCapacity is what an application of four lanes of 20 ms can do, in requests a second.
const laneCapacity = 200

// weathers runs a client proxy and two server proxies, each before an application of four lanes that goes on working for callers
// who have left, while their callers, who wait for half a second, want twice what both can do, for eight seconds.
func weathers(t *testing.T, a mesh.Admission, lanes int, change ...func(*ir.Service)) *weather {
	w := &weather{good: map[mesh.Criticality]int{}, offered: map[mesh.Criticality]int{}, relieved: map[mesh.Criticality]int{}, refused: map[mesh.Criticality]int{}}
	synctest.Test(t, func(t *testing.T) {
		var servers [2]*proxy.Proxy
		for i := range servers {
			servers[i] = w.server(limited(t, &ir.Traffic{Admission: a}), lanes, i)
		}
		const patience = 500 * time.Millisecond
		at := newWorld(t, 2, func(s *ir.Service, _ *ir.Endpoints) {
			s.Traffic.RequestTimeout = patience
			s.Traffic.Retry = mesh.RetryPolicy{Attempts: 2, On: []string{"gateway-error"}, BudgetPercent: 20, BudgetBurst: 20}
			for _, f := range change {
				f(s)
			}
		})
		cfg := at.cfg
		cfg.Done = func(r *proxy.Record) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.requests, w.tries = w.requests+1, w.tries+r.Tries
		}
		cfg.Open = func(_ time.Time, d *proxy.Destination) (message.Stream, error) {
			return &through{stream: answer(200, ""), server: servers[d.Endpoint.Proxy.Addr().As4()[3]]}, nil
		}
		client := proxy.New(cfg)
		draw := rand.New(rand.NewPCG(7, 7))
		began, length := time.Now(), 8*time.Second
		var all sync.WaitGroup
		for time.Since(began) < length {
			c := mesh.DefaultCriticality
			switch x := draw.Float64(); {
			case x < 0.1:
				c = mesh.CriticalPlus
			case x < 0.5:
				c = mesh.Sheddable
			}
			all.Go(func() { w.one(client, c, patience, time.Since(began) > length-3*time.Second) })
			<-time.After(time.Duration(draw.ExpFloat64() * float64(time.Second) / (2 * 2 * laneCapacity)))
		}
		all.Wait()
	})
	return w
}

// server is a server proxy and its application.
func (w *weather) server(at *world, lanes, i int) *proxy.Proxy {
	cfg := at.cfg
	cfg.Done = func(*proxy.Record) {}
	busy := make(chan struct{}, 4)
	cfg.App = func(string, mesh.Protocol) (message.Stream, error) {
		return &watched{laned{answer(200, "ok"), busy}, w, i}, nil
	}
	at.state.Inbound[catalog].Gate.SetLanes(lanes)
	return proxy.New(cfg)
}

// watched is an application that looks at what it is told.
type watched struct {
	laned
	of *weather
	i  int
}

func (s *watched) Send(h *message.Head, end bool) error {
	s.of.mu.Lock()
	defer s.of.mu.Unlock()
	s.of.served[s.i]++
	if h.Has("isthmus-brownout") {
		s.of.brownouts++
	}
	if h.Has("x-less") != (string(h.Get("isthmus-criticality")) == string(mesh.Sheddable)) {
		s.of.unmarked++
	}
	return s.laned.Send(h, end)
}

// one sends one request and counts what came of it.
func (w *weather) one(client *proxy.Proxy, c mesh.Criticality, patience time.Duration, counts bool) {
	ex, at := get("catalog", "/"), time.Now()
	if c != mesh.DefaultCriticality {
		ex = ex.with("isthmus-criticality", string(c))
	}
	if c == mesh.Sheddable {
		ex = ex.with("x-less", "1")
	}
	client.Outbound(ex, proxy.Via{})
	w.mu.Lock()
	defer w.mu.Unlock()
	if ex.field("isthmus-not-executed") != "" || ex.field("isthmus-load") != "" {
		w.leaked++
	}
	if ex.field("isthmus-fallback") != "" {
		w.relieved[c]++
		return
	}
	if ex.status == 503 {
		w.refused[c]++
	}
	if ex.status != 200 && (ex.status != 503 || ex.field("isthmus-reason") != string(mesh.ReasonOverloaded)) {
		w.strange++
	}
	if !counts {
		return
	}
	w.offered[c]++
	if ex.status == 200 && time.Since(at) <= patience {
		w.good[c]++
	}
}

// TestOverloadOfAnApplicationIsWeathered: two applications are asked for twice what they can do. With admission, told their
// lanes or not, they go on doing 90 % of it in time and all that is most critical; the application hears of it, who asked
// sees why and nothing else, and tries stay within the budget. Without, in the control run, little is answered in time.
func TestOverloadOfAnApplicationIsWeathered(t *testing.T) {
	on := mesh.Admission{Mode: mesh.AdmissionAdaptive}
	for name, lanes := range map[string]int{"lanes are declared": 4, "lanes are learnt": 0} {
		t.Run(name, func(t *testing.T) {
			w := weathers(t, on, lanes)
			if got := w.share(2 * laneCapacity); got < 0.9 {
				t.Errorf("goodput %.2f of capacity, want 0.9", got)
			}
			if g, o := w.good[mesh.CriticalPlus], w.offered[mesh.CriticalPlus]; float64(g) < 0.999*float64(o) || o < 100 {
				t.Errorf("%d of %d requests that are most critical were answered in time", g, o)
			}
			if g, o := w.good[mesh.Sheddable], w.offered[mesh.Sheddable]; g > o/2 {
				t.Errorf("%d of %d sheddable requests were answered: others had to make room", g, o)
			}
			if w.brownouts == 0 || w.unmarked > 0 || w.leaked > 0 || w.strange > 0 {
				t.Errorf("%d requests told of the overload, %d without their criticality, %d answers with what is between proxies, %d strange ones", w.brownouts, w.unmarked, w.leaked, w.strange)
			}
			if float64(w.tries) > 1.25*float64(w.requests) {
				t.Errorf("%d tries of %d requests", w.tries, w.requests)
			}
			if a, b := w.served[0], w.served[1]; a < b/2 || b < a/2 {
				t.Errorf("%d and %d requests: one was taken for dead", a, b)
			}
			t.Logf("goodput %.2f, good %v of %v, %d tries of %d, %d brown-outs", w.share(2*laneCapacity), w.good, w.offered, w.tries, w.requests, w.brownouts)
		})
	}
	t.Run("control", func(t *testing.T) {
		w := weathers(t, mesh.Admission{}, 0)
		if got := w.share(2 * laneCapacity); got > 0.3 || w.brownouts > 0 {
			t.Errorf("goodput %.2f without admission, %d brown-outs: the test proves nothing", got, w.brownouts)
		}
	})
}

// TestDegradationIsInOrder: two applications are asked for twice what they can do, by callers whose policy has a fallback. Retries
// end first, for their budget is spent; then what is sheddable goes; what is turned away is answered by the fallback, and nothing
// is refused. In the control run, without the fallback, it is.
func TestDegradationIsInOrder(t *testing.T) {
	on := mesh.Admission{Mode: mesh.AdmissionAdaptive}
	w := weathers(t, on, 4, func(s *ir.Service) {
		s.Traffic.Fallback = &ir.Fallback{Fallback: mesh.Fallback{On: []string{"overloaded", "timeout", "504"}, Static: &mesh.StaticAnswer{Status: 200, Body: "less"}}}
	})
	turned := 0
	for _, n := range w.relieved {
		turned += n
	}
	if float64(turned) < 0.3*float64(w.requests) {
		t.Errorf("%d of %d were turned away: no overload", turned, w.requests)
	}
	if float64(w.tries) > 1.25*float64(w.requests) {
		t.Errorf("%d tries of %d requests: retries went on", w.tries, w.requests)
	}
	if s, c, p := w.relieved[mesh.Sheddable], w.relieved[mesh.Critical], w.relieved[mesh.CriticalPlus]; s <= c || p*100 > s {
		t.Errorf("%d sheddable, %d critical and %d critical-plus were turned away", s, c, p)
	}
	if len(w.refused) > 0 || w.strange > 0 {
		t.Errorf("%v were refused, %d had strange answers", w.refused, w.strange)
	}
	t.Logf("%d requests, %d tries, turned away %v", w.requests, w.tries, w.relieved)
	if w := weathers(t, on, 4); len(w.relieved) > 0 || w.refused[mesh.Sheddable] == 0 {
		t.Errorf("without a fallback %v were relieved and %v refused: the test proves nothing", w.relieved, w.refused)
	}
}
