package balance

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

var rtts = map[mesh.ClusterName]time.Duration{"eu": 0, "us": 80 * time.Millisecond, "in": 120 * time.Millisecond}

func clusters(reach map[mesh.ClusterName]mesh.Reachability) func(mesh.ClusterName) *ir.Cluster {
	return func(n mesh.ClusterName) *ir.Cluster {
		rtt, ok := rtts[n]
		if !ok {
			return nil
		}
		return &ir.Cluster{Name: n, RTT: rtt, Reach: reach[n]}
	}
}

func direct(n int) []ir.Endpoint {
	var out []ir.Endpoint
	for i := range n {
		out = append(out, ir.Endpoint{Tag: fmt.Sprint(i), Weight: 1, Proxy: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, byte(i >> 8), byte(i), 1}), 15008)})
	}
	return out
}

func groups(local, us, in int) *ir.Endpoints {
	return &ir.Endpoints{Groups: []ir.Group{{Cluster: "eu", Exported: true, Endpoints: direct(local)},
		{Cluster: "in", Exported: true, Slots: make([]uint64, in)}, {Cluster: "us", Exported: true, Slots: make([]uint64, us)}}}
}

func view(eps *ir.Endpoints, reach map[mesh.ClusterName]mesh.Reachability) *View {
	return NewView(Config{Endpoints: eps, Clusters: clusters(reach), Cluster: "eu"})
}

func pick(t *testing.T, v *View, a Ask) Pick {
	t.Helper()
	p, reason := v.Pick(&a)
	if reason != mesh.ReasonNone {
		t.Fatalf("Pick: %s", reason)
	}
	return p
}

func TestNearestClusterFirst(t *testing.T) {
	tests := []struct {
		name  string
		eps   *ir.Endpoints
		reach map[mesh.ClusterName]mesh.Reachability
		ask   Ask
		want  mesh.ClusterName
		fails mesh.Reason
	}{
		{"the own cluster", groups(1, 1, 1), nil, Ask{}, "eu", ""},
		{"then the one of least RTT", groups(0, 1, 1), nil, Ask{}, "us", ""},
		{"not one that cannot be reached", groups(0, 1, 1), map[mesh.ClusterName]mesh.Reachability{"us": mesh.Unreachable}, Ask{}, "in", ""},
		{"stale still serves", groups(0, 1, 1), map[mesh.ClusterName]mesh.Reachability{"us": mesh.StaleServing}, Ask{}, "us", ""},
		{"unreachable rather than nothing", groups(0, 1, 0), map[mesh.ClusterName]mesh.Reachability{"us": mesh.Unreachable}, Ask{}, "us", ""},
		{"cluster scope stays home", groups(0, 1, 1), nil, Ask{Scope: mesh.ScopeCluster}, "", mesh.ReasonNoEndpoint},
		{"Local stays home", groups(0, 1, 1), nil, Ask{Strategy: mesh.StrategyLocal}, "", mesh.ReasonNoEndpoint},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, reason := view(tt.eps, tt.reach).Pick(&tt.ask)
			if reason != tt.fails || reason == "" && p.Endpoint.Cluster != tt.want {
				t.Errorf("Pick = %+v, %q, want %q, %q", p.Endpoint, reason, tt.want, tt.fails)
			}
		})
	}
}

func TestResidencyIsNeverLifted(t *testing.T) {
	eps := groups(0, 1, 1)
	eps.Groups[1].Forbidden, eps.Groups[2].Forbidden = "ResidencyPolicy shop/eu", "ResidencyPolicy shop/eu"
	if p, reason := view(eps, nil).Pick(&Ask{}); reason != mesh.ReasonResidency {
		t.Errorf("Pick = %+v, %q, want refused by residency", p.Endpoint, reason)
	}
}

// TestEjectionMovesTrafficAndTrialBringsItBack walks one endpoint's death and return.
func TestEjectionMovesTrafficAndTrialBringsItBack(t *testing.T) {
	v := view(groups(1, 1, 0), nil)
	now := int64(time.Hour)
	for range 3 {
		p := pick(t, v, Ask{Now: now})
		if p.Endpoint.Cluster != "eu" {
			t.Fatalf("picked %v before the limit of failures", p.Endpoint.Key)
		}
		p.Done(NeverExecuted, now)
	}
	if p := pick(t, v, Ask{Now: now}); p.Endpoint.Cluster != "us" {
		t.Fatalf("picked %v after three failures, want the next cluster", p.Endpoint.Key)
	}
	now += int64(ejectFirst) + 1
	trial := pick(t, v, Ask{Now: now})
	if trial.Endpoint.Cluster != "eu" {
		t.Fatalf("picked %v after the ejection, want a trial", trial.Endpoint.Key)
	}
	if p := pick(t, v, Ask{Now: now}); p.Endpoint.Cluster != "us" {
		t.Errorf("a second request joined the trial")
	}
	trial.Done(NeverExecuted, now)
	if p := pick(t, v, Ask{Now: now + int64(ejectFirst) + 1}); p.Endpoint.Cluster != "us" {
		t.Errorf("a failed trial did not double the ejection")
	}
	now += int64(2*ejectFirst) + 1
	trial = pick(t, v, Ask{Now: now})
	trial.Done(Served, now+1)
	for range 4 {
		if p := pick(t, v, Ask{Now: now}); p.Endpoint.Cluster != "eu" {
			t.Fatalf("picked %v after a good trial, want home", p.Endpoint.Key)
		}
	}
}

func TestOverloadIsNotDeath(t *testing.T) {
	v := view(groups(1, 1, 0), nil)
	for i := range 100 {
		p := pick(t, v, Ask{Now: int64(i)})
		if p.Endpoint.Cluster != "eu" {
			t.Fatalf("after %d shed and timed-out tries the endpoint was taken out", i)
		}
		p.Done([]Outcome{Shed, TimedOut, Failed}[i%3], int64(i)+1)
	}
}

func TestFailuresInARowTripTheCluster(t *testing.T) {
	v := view(groups(0, 20, 1), nil)
	now := int64(time.Hour)
	for i := range tripAfter {
		p := pick(t, v, Ask{Now: now, Rand: rand.Uint64()})
		if p.Endpoint.Cluster != "us" {
			t.Fatalf("try %d went to %s", i, p.Endpoint.Cluster)
		}
		p.Done(NeverExecuted, now)
	}
	if p := pick(t, v, Ask{Now: now}); p.Endpoint.Cluster != "in" {
		t.Errorf("picked %s after %d failures in a row over its endpoints, want the next cluster", p.Endpoint.Cluster, tripAfter)
	}
}

func TestARetryGoesElsewhereWhileItCan(t *testing.T) {
	v := view(groups(2, 1, 1), nil)
	var tried []*Endpoint
	for i := range 4 {
		p := pick(t, v, Ask{Tried: tried, Rand: rand.Uint64()})
		for _, e := range tried {
			if e == p.Endpoint {
				t.Fatalf("try %d repeats %v", i, e.Key)
			}
		}
		tried = append(tried, p.Endpoint)
	}
	if _, reason := v.Pick(&Ask{Tried: tried}); reason != mesh.ReasonUnreachable {
		t.Errorf("with everything tried the reason is %q, want %q", reason, mesh.ReasonUnreachable)
	}
}

// TestASilentClusterIsPassedOver: the slots of a cluster are behind the same path, so what one dial did not
// reach in time another will not; but it is better than nothing.
func TestASilentClusterIsPassedOver(t *testing.T) {
	v := view(groups(0, 3, 1), nil)
	first := pick(t, v, Ask{})
	if first.Endpoint.Cluster != "us" {
		t.Fatalf("the first try is in %s, want us", first.Endpoint.Cluster)
	}
	tried := []*Endpoint{first.Endpoint}
	second := pick(t, v, Ask{Tried: tried, Silent: "us"})
	if second.Endpoint.Cluster != "in" {
		t.Errorf("after us was silent the next try is in %s, want in", second.Endpoint.Cluster)
	}
	third := pick(t, v, Ask{Tried: append(tried, second.Endpoint), Silent: "us"})
	if third.Endpoint.Cluster != "us" {
		t.Errorf("with nothing else left the try is in %s, want us", third.Endpoint.Cluster)
	}
}

func TestMeasurementsOutliveAChange(t *testing.T) {
	v := view(groups(2, 2, 0), nil)
	p := pick(t, v, Ask{})
	p.Done(Served, int64(50*time.Millisecond))
	eps := groups(2, 2, 0)
	eps.Groups[2].Slots[1] = 7 // slot 1 of us moved
	next := NewView(Config{Prev: v, Endpoints: eps, Clusters: clusters(nil), Cluster: "eu"})
	if next.groups[0].all.endpoints[0] != v.groups[0].all.endpoints[0] || next.groups[1].all.endpoints[0] != v.groups[1].all.endpoints[0] {
		t.Error("an unchanged endpoint lost its measurements")
	}
	if next.groups[1].all.endpoints[1] == v.groups[1].all.endpoints[1] {
		t.Error("a slot that moved kept another endpoint's measurements")
	}
}

// TestSharesFollowServiceTime runs a closed loop in virtual time: equal endpoints get
// equal shares within a fifth, a slow one gets less.
func TestSharesFollowServiceTime(t *testing.T) {
	v := view(groups(20, 0, 0), nil)
	r := rand.New(rand.NewPCG(1, 2))
	type job struct {
		p   Pick
		end int64
	}
	var jobs []job
	count := map[string]int{}
	now := int64(0)
	for range 40_000 {
		now += int64(500 * time.Microsecond)
		kept := jobs[:0]
		for _, j := range jobs {
			if j.end <= now {
				j.p.Done(Served, j.end)
			} else {
				kept = append(kept, j)
			}
		}
		jobs = kept
		p := pick(t, v, Ask{Now: now, Rand: r.Uint64()})
		took := 10 * time.Millisecond
		if p.Endpoint.Tag == "7" {
			took = 50 * time.Millisecond
		}
		count[p.Endpoint.Tag]++
		jobs = append(jobs, job{p, now + int64(took)})
	}
	for tag, n := range count {
		if tag == "7" {
			if n > 1200 {
				t.Errorf("the slow endpoint got %d of 40,000, want fewer than half a share", n)
			}
		} else if mean := 40_000 / 20; n < mean*8/10 || n > mean*13/10 {
			t.Errorf("endpoint %s got %d, want about %d", tag, n, mean)
		}
	}
}

// TestOneSlowAnswerKeepsNobodyOut: with a request at a time there is never one in flight to
// compare, and only what was measured tells endpoints apart. Each first answer waits for a
// connection.
func TestOneSlowAnswerKeepsNobodyOut(t *testing.T) {
	v := view(groups(2, 0, 0), nil)
	r := rand.New(rand.NewPCG(3, 4))
	count := map[string]int{}
	setup := map[string]time.Duration{"0": 3 * time.Millisecond, "1": 40 * time.Millisecond}
	now := int64(0)
	for i := range 1000 {
		now += int64(10 * time.Millisecond)
		p := pick(t, v, Ask{Now: now, Rand: r.Uint64()})
		took := 300*time.Microsecond + time.Duration(r.IntN(200))*time.Microsecond
		if first := setup[p.Endpoint.Tag]; first > 0 {
			took, setup[p.Endpoint.Tag] = first, 0
		}
		if i >= 500 { // five seconds after the first
			count[p.Endpoint.Tag]++
		}
		p.Done(Served, now+int64(took))
	}
	if count["0"] < 200 || count["1"] < 200 {
		t.Errorf("two equal endpoints share 500 requests as %v, want about 250 each", count)
	}
}
