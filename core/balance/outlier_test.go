package balance

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestWarmup: an endpoint that is new begins with a tenth of its share, and has it all in the end.
func TestWarmup(t *testing.T) {
	const warmup = 10 * time.Second
	for _, b := range algorithms[:4] {
		t.Run(label(b), func(t *testing.T) {
			b.Warmup = warmup
			c := Config{Endpoints: groups(9, 0, 0), Clusters: clusters(nil), Cluster: "eu", Balancing: b, Now: 1}
			c.Prev = NewView(c)
			c.Endpoints, c.Now = groups(10, 0, 0), int64(time.Hour)
			v := NewView(c)
			r := rand.New(rand.NewPCG(7, 8))
			for _, at := range []struct {
				age      time.Duration
				from, to float64
			}{{0, 0.05, 0.16}, {warmup / 2, 0.42, 0.68}, {warmup, 0.9, 1.1}} {
				n, now := 0, c.Now+int64(at.age)
				for range 40_000 {
					p := pick(t, v, Ask{Now: now, Rand: r.Uint64()})
					if p.Endpoint.Tag == "9" {
						n++
					}
					p.Done(Abandoned, now)
				}
				if share := float64(n) / 4000; share < at.from || share > at.to {
					t.Errorf("after %s it has %.2f of its share, want %.2f to %.2f", at.age, share, at.from, at.to)
				}
			}
		})
	}
}

// TestReturningEndpointWarmsUp as a new one does.
func TestReturningEndpointWarmsUp(t *testing.T) {
	v := of(mesh.Balancing{Algorithm: mesh.AlgorithmRandom, Warmup: 10 * time.Second}, 1, 1, 1, 1)
	now := int64(time.Hour)
	e := v.groups[0].all.endpoints[2]
	e.eject(now, outRefused, &e.health.ejections)
	now += int64(2 * ejectFirst)
	r := rand.New(rand.NewPCG(7, 9))
	for e.health.out.Load() != isIn {
		p := pick(t, v, Ask{Now: now, Rand: r.Uint64()})
		p.Done(Served, now)
	}
	n := 0
	for range 4000 {
		if p := pick(t, v, Ask{Now: now, Rand: r.Uint64()}); p.Endpoint == e {
			n++
		}
	}
	if n < 50 || n > 200 {
		t.Errorf("an endpoint that came back got %d of 4,000 requests at once, want about a tenth of a quarter", n)
	}
}

// TestMostOutIsPanic: beyond half of a cluster's endpoints out, all are used by first tries, and
// by further ones those that are in; with all of them out the next cluster is.
func TestMostOutIsPanic(t *testing.T) {
	v := NewView(Config{Endpoints: groups(4, 1, 0), Clusters: clusters(nil), Cluster: "eu", Balancing: mesh.Balancing{Algorithm: mesh.AlgorithmRandom}})
	es, now := v.groups[0].all.endpoints, int64(time.Hour)
	r := rand.New(rand.NewPCG(7, 10))
	seen := func(a Ask) (n int) {
		got := map[Key]bool{}
		for range 200 {
			a.Rand, a.Now = r.Uint64(), now
			p := pick(t, v, a)
			got[p.Endpoint.Key] = true
			p.Done(Abandoned, now)
		}
		return len(got)
	}
	for i, want := range []int{3, 2, 4, 1} {
		es[i].eject(now, outRefused, &es[i].health.ejections)
		if n := seen(Ask{}); n != want {
			t.Errorf("with %d of 4 out requests go to %d endpoints, want %d", i+1, n, want)
		}
		if i == 2 {
			if n := seen(Ask{Tried: es[:1]}); n != 1 {
				t.Errorf("second tries go to %d endpoints, want the one that is in", n)
			}
		}
	}
	if p := pick(t, v, Ask{Now: now}); p.Endpoint.Cluster != "us" {
		t.Errorf("with all out %v was picked, want the next cluster", p.Endpoint.Key)
	}
}

// TestSuccessRateOutlier: one that fails where the others do not is taken out, and only success
// brings it back; when all fail alike nobody is, and never more than the policy allows.
func TestSuccessRateOutlier(t *testing.T) {
	rates := func(endpoints int, o mesh.Outlier, fails func(i int) float64) (out []int) {
		v := NewView(Config{Endpoints: groups(endpoints, 0, 0), Clusters: clusters(nil), Cluster: "eu", Outlier: o})
		r := rand.New(rand.NewPCG(11, 12))
		now := int64(time.Hour)
		for range 11 { // seconds: the first window ends with the last
			for i, e := range v.groups[0].all.endpoints {
				for range 50 {
					e.inFlight.Add(1)
					p := Pick{Endpoint: e, start: now}
					if r.Float64() < fails(i) {
						p.Done(Failed, now)
					} else {
						p.Done(Served, now)
					}
				}
			}
			now += int64(time.Second)
		}
		for i, e := range v.groups[0].all.endpoints {
			if e.health.out.Load() == outRate {
				out = append(out, i)
			}
		}
		return out
	}
	one := func(i int) float64 {
		if i == 4 {
			return 0.5
		}
		return 0.01
	}
	if out := rates(10, mesh.Outlier{}, one); !slices.Equal(out, []int{4}) {
		t.Errorf("out are %v, want the one that fails", out)
	}
	if out := rates(10, mesh.Outlier{SuccessRateStdev: -1}, one); out != nil {
		t.Errorf("out are %v though the policy says never", out)
	}
	if out := rates(4, mesh.Outlier{}, one); out != nil {
		t.Errorf("out are %v of too few to compare", out)
	}
	if out := rates(10, mesh.Outlier{MaxEjectedPercent: 5}, one); out != nil {
		t.Errorf("out are %v, more than the policy allows", out)
	}
	if out := rates(10, mesh.Outlier{}, func(int) float64 { return 1 }); out != nil {
		t.Errorf("out are %v where all fail: that is the service's illness", out)
	}
}

// TestOnlySuccessBringsAnOutlierBack, by one trial, and each failed one doubles its time.
func TestOnlySuccessBringsAnOutlierBack(t *testing.T) {
	v := view(groups(2, 0, 0), nil)
	e, now := v.groups[0].all.endpoints[0], int64(time.Hour)
	e.eject(now, outRate, &e.health.rated)
	for _, hold := range []time.Duration{ejectFirst, 2 * ejectFirst, 4 * ejectFirst} {
		if !e.ejected(now + int64(hold) - 1) {
			t.Fatalf("it is drawn from before %s", hold)
		}
		now += int64(hold)
		trial := e.begin(&Ask{Now: now})
		if !trial.trial || !e.ejected(now) {
			t.Fatal("a second request may join the trial")
		}
		outcome := Failed
		if hold == 4*ejectFirst {
			outcome = Served
		}
		trial.Done(outcome, now)
	}
	if e.ejected(now) {
		t.Error("success did not bring it back")
	}
}

// TestOverloadEjectsNobody: shed replies and timeouts, however many, from one endpoint only, leave
// it in, under every policy.
func TestOverloadEjectsNobody(t *testing.T) {
	v := NewView(Config{Endpoints: groups(8, 0, 0), Clusters: clusters(nil), Cluster: "eu",
		Outlier: mesh.Outlier{ConsecutiveFailures: 1, SuccessRateStdev: 100, MaxEjectedPercent: 100}})
	for second := range 40 {
		now := int64(time.Hour) + int64(second)*int64(time.Second)
		for i, e := range v.groups[0].all.endpoints {
			for k := range 200 {
				o := Served
				if i == 0 {
					o = []Outcome{Shed, TimedOut}[k%2]
				}
				p := e.begin(&Ask{Now: now})
				p.Done(o, now+1)
			}
		}
	}
	for _, e := range v.groups[0].all.endpoints {
		if e.health.out.Load() != isIn {
			t.Errorf("endpoint %s is out: %s", e.Tag, e.health.why())
		}
	}
}
