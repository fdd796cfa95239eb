package traffic

import (
	"math"
	"path/filepath"
	"pgregory.net/rapid"
	"strings"
	"time"

	"context"
	"os"
	"testing"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
)

// load reads a scenario of the folder.
func load(t testing.TB, name string) *manifest.Simulation {
	t.Helper()
	file := "scenarios/" + name + ".yaml"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	r := manifest.Parse(file, text, manifest.Options{})
	for _, f := range append(r.Faults, r.Warnings...) {
		t.Error(f)
	}
	if len(r.Objects) != 1 {
		t.Fatalf("%s: %d objects", file, len(r.Objects))
	}
	return r.Objects[0].Value.(*manifest.Simulation)
}

func run(t testing.TB, name string, seeds int, policies ...string) []Line {
	t.Helper()
	lines, err := Run(context.Background(), load(t, name), policies, seeds)
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// short is a scenario of the three regions that takes little time, with every fault there is.
func short(t testing.TB) *manifest.Simulation {
	m := load(t, "t3-steady")
	m.Duration, m.From, m.To = 12*time.Second, 2*time.Second, 12*time.Second
	m.Demand = []manifest.SimDemand{{Region: "a", From: 7 * time.Second, To: 9 * time.Second, Rate: 3200}}
	m.Faults = []manifest.SimFault{
		{Kind: manifest.FaultSlow, Region: "a", Factor: 4, Endpoints: 3, From: time.Second, To: 4 * time.Second},
		{Kind: manifest.FaultRefuse, Region: "b", Endpoints: 4, Over: time.Second, From: 3 * time.Second, To: 6 * time.Second},
		{Kind: manifest.FaultBlackHole, Region: "b", From: 6 * time.Second, To: 8 * time.Second},
		{Kind: manifest.FaultCut, Between: [2]string{"a", "c"}, OneWay: true, From: 4 * time.Second, To: 5 * time.Second},
		{Kind: manifest.FaultLoss, Between: [2]string{"a", "b"}, Loss: 0.03, From: 2 * time.Second, To: 11 * time.Second},
		{Kind: manifest.FaultDelay, Between: [2]string{"b", "c"}, Delay: 30 * time.Millisecond, From: 2 * time.Second, To: 11 * time.Second},
		{Kind: manifest.FaultBlackHole, Region: "c", Endpoints: 2, Every: 700 * time.Millisecond, From: 5 * time.Second, To: 11 * time.Second},
	}
	return m
}

// TestRunsAreReproducible to the last request, for every policy, and see the same arrivals.
func TestRunsAreReproducible(t *testing.T) {
	m := short(t)
	arrived := -1
	for _, name := range Policies() {
		a, b := newWorld(m, name, 7).run(), newWorld(m, name, 7).run()
		if a.Requests != b.Requests || a.Errors != b.Errors || a.Tries != b.Tries || a.latency.sum != b.latency.sum || len(a.Events) != len(b.Events) {
			t.Errorf("%s: two runs of one seed differ: %d and %d tries, %g and %g s", name, a.Tries, b.Tries, a.latency.sum, b.latency.sum)
		}
		if arrived >= 0 && a.Requests != arrived {
			t.Errorf("%s: %d requests arrived, %d with the policy before", name, a.Requests, arrived)
		}
		arrived = a.Requests
	}
}

// TestEveryRequestEndsOnce: as many as arrived, and nothing is left when all is over.
func TestEveryRequestEndsOnce(t *testing.T) {
	m := short(t)
	for _, name := range Policies() {
		w := newWorld(m, name, 3)
		out := w.run()
		ended := 0
		for _, s := range out.Seconds {
			ended += s.Requests
		}
		if open := len(w.requests) - len(w.freeReq); open != 0 {
			t.Errorf("%s: %d of %d requests are not over", name, open, ended)
		}
		if left := len(w.tries) - len(w.freeTry); left != 0 {
			t.Errorf("%s: %d tries are held by nobody", name, left)
		}
		for at := range w.endpoints {
			if e := &w.endpoints[at]; e.busy != 0 || e.queued() != 0 || e.meter.InFlight() != 0 {
				t.Errorf("%s: endpoint %d has %d busy lanes, %d waiting, %d in its meter", name, at, e.busy, e.queued(), e.meter.InFlight())
			}
		}
	}
}

// TestResidencyHoldsUnderEveryFault: not one try of the product goes where the law forbids it.
func TestResidencyHoldsUnderEveryFault(t *testing.T) {
	m := short(t)
	m.Residency = map[string][]string{"a": {"a", "b"}, "b": {"b"}}
	for seed := range uint64(3) {
		out := newWorld(m, "isthmus", seed).run()
		if out.Unlawful != 0 {
			t.Errorf("seed %d: %d of %d tries are unlawful", seed, out.Unlawful, out.Tries)
		}
		if out.Errors == 0 {
			t.Errorf("seed %d: no request of b failed while b was gone, where nothing else is lawful", seed)
		}
	}
}

// TestOverloadIsNoCollapse: at 1.3 times what all have, what is served stays near what can be, little crosses
// and the critical are served. Without admission the same run collapses: the control run.
func TestOverloadIsNoCollapse(t *testing.T) {
	m := load(t, "t3-overload")
	m.Duration, m.From, m.To = 20*time.Second, 10*time.Second, 20*time.Second
	m.Demand[0].From, m.Demand[0].To = 4*time.Second, 20*time.Second
	out := newWorld(m, "isthmus", 1).run()
	if out.Goodput < 0.98*6000 {
		t.Errorf("%.0f requests a second are served of 6,000", out.Goodput)
	}
	if c := part(out.Crossed, out.Requests); c > 0.04 {
		t.Errorf("%.3f cross", c)
	}
	if e := part(out.CriticalErrors, out.Critical); e > 0.001 {
		t.Errorf("%.4f of the critical fail", e)
	}
	m.Requests.Shed = time.Hour
	if out := newWorld(m, "isthmus", 1).run(); out.Goodput > 0.5*6000 {
		t.Errorf("control run: without admission %.0f are served", out.Goodput)
	}
}

// TestSilenceMovesRequests: a region that answers nothing costs no more than the detection.
func TestSilenceMovesRequests(t *testing.T) {
	m := load(t, "t3-blackhole")
	m.Duration, m.From, m.To = 8*time.Second, 4500*time.Millisecond, 6*time.Second
	m.Faults[0].From, m.Faults[0].To = 5*time.Second, 8*time.Second
	out := pool([]*Measured{newWorld(m, "isthmus", 1).run(), newWorld(m, "isthmus", 2).run()})
	if out.ErrorRate() > 0.002 || out.P99() > 450 {
		t.Errorf("errors %.4f, p99 %.0f ms", out.ErrorRate(), out.P99())
	}
	slow := pool([]*Measured{newWorld(m, "istio", 1).run()})
	if slow.ErrorRate() < 0.02 {
		t.Errorf("control run: without detection of silence %.4f errors", slow.ErrorRate())
	}
}

func TestHistogram(t *testing.T) {
	var h histogram
	for i := range 10_000 {
		h.add(int64(i+1) * int64(time.Millisecond) / 10)
	}
	for q, want := range map[float64]float64{0.5: 0.5, 0.99: 0.99, 1: 1} {
		if got := h.quantile(q); math.Abs(got-want) > 0.002*want {
			t.Errorf("quantile %g is %g, want %g", q, got, want)
		}
	}
	if i := over([]float64{1, 2, 3, 4, 5}); i.Mean != 3 || math.Abs(i.Half-1.963) > 1e-3 {
		t.Errorf("%+v, want 3 ± 1.963", i)
	}
}

// TestQueueIsInOrder whatever was pushed when.
func TestQueueIsInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q queue
		last, n := int64(-1), 0
		for _, at := range rapid.SliceOfN(rapid.Int64Range(0, 50), 1, 200).Draw(t, "times") {
			q.push(event{at: at})
			if n++; at%7 == 0 {
				q.pop()
				n--
			}
		}
		for ; n > 0; n-- {
			e := q.pop()
			if e.at < last {
				t.Fatalf("%d after %d", e.at, last)
			}
			last = e.at
		}
		if len(q) != 0 {
			t.Fatalf("%d are left", len(q))
		}
	})
}

// TestScenariosAreRead: every file of the folder is a scenario without a fault.
func TestScenariosAreRead(t *testing.T) {
	files, err := filepath.Glob("scenarios/*.yaml")
	if err != nil || len(files) < 7 {
		t.Fatalf("%d scenarios, %v", len(files), err)
	}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".yaml")
		if m := load(t, name); m.Name != name {
			t.Errorf("%s is named %s", f, m.Name)
		}
	}
}
