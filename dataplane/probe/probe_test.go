package probe_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/probe"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// connectTimeout is what a request, or a probe, waits for an endpoint where nobody answers.
const connectTimeout = time.Second

// service is a service of n endpoints, of which those named by black take everything and answer nothing.
type service struct {
	view  *balance.View
	wake  func()
	mu    sync.Mutex
	black map[string]bool
	rand  *rand.Rand
}

func newService(n int, probes bool) *service {
	s := &service{wake: func() {}, black: map[string]bool{}, rand: rand.New(rand.NewPCG(1, 2))}
	g := ir.Group{Cluster: "eu", Exported: true}
	for i := range n {
		g.Endpoints = append(g.Endpoints, ir.Endpoint{Tag: fmt.Sprint(i), Weight: 1, Proxy: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 1, byte(i)}), 15008)})
	}
	c := balance.Config{Endpoints: &ir.Endpoints{Groups: []ir.Group{g}}, Cluster: "eu", Now: time.Now().UnixNano(),
		Clusters: func(n mesh.ClusterName) *ir.Cluster { return &ir.Cluster{Name: n} }}
	if probes {
		c.Ejected = func() { s.wake() }
	}
	s.view = balance.NewView(c)
	return s
}

func (s *service) set(tag string, black bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.black[tag] = black
}

var errBlack = errors.New("nobody answers")

// reach is the way to an endpoint, for a request and a probe alike.
func (s *service) reach(ctx context.Context, e *balance.Endpoint) error {
	s.mu.Lock()
	black := s.black[e.Tag]
	s.mu.Unlock()
	if !black {
		return nil
	}
	select {
	case <-time.After(connectTimeout):
		return errBlack
	case <-ctx.Done():
		return ctx.Err()
	}
}

// request goes to one endpoint after the other, as those of the pipeline do, and returns how long it took and who
// answered.
func (s *service) request(ctx context.Context) (took time.Duration, by string) {
	began := time.Now()
	var tried []*balance.Endpoint
	for {
		s.mu.Lock()
		bits := s.rand.Uint64()
		s.mu.Unlock()
		p, reason := s.view.Pick(&balance.Ask{Now: time.Now().UnixNano(), Rand: bits, Tried: tried})
		if reason != mesh.ReasonNone {
			return time.Since(began), string(reason)
		}
		if s.reach(ctx, p.Endpoint) == nil {
			p.Done(balance.Served, time.Now().UnixNano())
			return time.Since(began), p.Endpoint.Tag
		}
		p.Done(balance.NeverExecuted, time.Now().UnixNano())
		tried = append(tried, p.Endpoint)
	}
}

// load makes 100 requests a second for as long as it is told, and returns those that waited, and how many each endpoint
// answered.
func (s *service) load(t *testing.T, long time.Duration) (waited int, by map[string]int) {
	var all sync.WaitGroup
	var mu sync.Mutex
	by = map[string]int{}
	for range int(long / (10 * time.Millisecond)) {
		all.Go(func() {
			took, tag := s.request(t.Context())
			mu.Lock()
			defer mu.Unlock()
			by[tag]++
			if took >= connectTimeout {
				waited++
			}
		})
		<-time.After(10 * time.Millisecond)
	}
	all.Wait()
	return waited, by
}

// out is how many endpoints are.
func (s *service) out() (n int) {
	for _, c := range s.view.Explain(&balance.Ask{Now: time.Now().UnixNano()}) {
		if c.Endpoint != "" && c.Stats.Ejected != "" {
			n++
		}
	}
	return n
}

// prober runs a prober until the test ends.
func prober(t *testing.T, s *service, ask func(context.Context, *balance.View, *balance.Endpoint) error) {
	t.Helper()
	p := probe.New(probe.Config{Views: func(yield func(*balance.View) bool) { yield(s.view) }, Changed: func() <-chan struct{} { return nil },
		Ask: ask, Clock: clock.Real{}, Chance: func() float64 { return 0.5 }})
	s.wake = p.Wake
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	})
}

// TestNoRequestWaitsForAnEndpointThatIsGone: once it is out, requests no longer pay for finding out whether it is back,
// and when it is, it gets its part again. The control run, without probes, has some that wait.
func TestNoRequestWaitsForAnEndpointThatIsGone(t *testing.T) {
	for _, probes := range []bool{true, false} {
		t.Run(fmt.Sprintf("probes %v", probes), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newService(3, probes)
				if probes {
					prober(t, s, func(ctx context.Context, _ *balance.View, e *balance.Endpoint) error { return s.reach(ctx, e) })
				}
				s.set("1", true)
				for s.out() == 0 {
					s.load(t, time.Second)
				}
				waited, by := s.load(t, time.Minute)
				if by["1"] > 0 || by["0"]+by["2"] != 6000 {
					t.Fatalf("answered by %v", by)
				}
				if probes != (waited == 0) {
					t.Errorf("%d of 6,000 requests waited for an endpoint that is out; with probes none is to, without some must", waited)
				}
				s.set("1", false)
				s.load(t, 35*time.Second) // the longest it stays out, and its probe
				if _, by := s.load(t, 10*time.Second); by["1"] < 200 {
					t.Errorf("it is back and got %d of 1,000", by["1"])
				}
			})
		})
	}
}

// TestProbesAreFewAtOnceAndEndWithTheProber.
func TestProbesAreFewAtOnceAndEndWithTheProber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(60, true)
		var now, most, all atomic.Int64
		release := make(chan struct{})
		prober(t, s, func(ctx context.Context, _ *balance.View, e *balance.Endpoint) error {
			all.Add(1)
			most.Store(max(most.Load(), now.Add(1)))
			defer now.Add(-1)
			select {
			case <-release:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		for i := range 60 {
			s.set(fmt.Sprint(i), i < 25)
		}
		s.load(t, 10*time.Second)
		if n := s.out(); n != 25 || now.Load() != 8 || most.Load() != 8 {
			t.Fatalf("%d are out; %d probes under way, %d at most: want 25, 8 and 8", n, now.Load(), most.Load())
		}
		for i := range 25 {
			s.set(fmt.Sprint(i), false)
		}
		close(release) // all answer: those that waited for their turn are asked too
		s.load(t, 20*time.Second)
		if n := s.out(); n > 0 || all.Load() != 25 {
			t.Errorf("%d are still out after %d probes of 25 endpoints", n, all.Load())
		}
	})
}

// TestProbesThatAreBrokenOffSayNothing: a proxy that ends takes no endpoint out for longer; and the prober sleeps while nothing
// is out.
func TestProbesThatAreBrokenOffSayNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(3, true)
		var looked atomic.Int64
		p := probe.New(probe.Config{Views: func(yield func(*balance.View) bool) { looked.Add(1); yield(s.view) }, Changed: func() <-chan struct{} { return nil },
			Ask: func(ctx context.Context, _ *balance.View, e *balance.Endpoint) error { return s.reach(ctx, e) }, Clock: clock.Real{}, Chance: func() float64 { return 0 }})
		s.wake = p.Wake
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		<-time.After(time.Hour)
		if n := looked.Load(); n != 1 {
			t.Errorf("looked %d times in an hour in which nothing happened", n)
		}
		s.set("1", true)
		s.load(t, 3*time.Second)
		for { // until a probe is under way
			<-time.After(10 * time.Millisecond)
			if d, _ := s.view.Due(time.Now().UnixNano(), nil); len(d) > 0 {
				break
			}
		}
		<-time.After(10 * time.Millisecond)
		stop()
		<-done
		if d, _ := s.view.Due(time.Now().UnixNano(), nil); !slices.ContainsFunc(d, func(e *balance.Endpoint) bool { return e.Tag == "1" }) {
			t.Error("a probe that was broken off counts as failed")
		}
	})
}
