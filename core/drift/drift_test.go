package drift

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// mesh3 is three clusters that hold what the others tell.
func mesh3() []Cluster {
	names := []string{"ap", "eu", "us"}
	var out []Cluster
	for _, n := range names {
		s := &Said{Cluster: n, Tells: map[string]Summary{}, Holds: map[string]Summary{}, Proxies: 4, Acknowledged: 4}
		for _, o := range names {
			if o != n {
				s.Tells[o] = Summary{Digest: n + ">" + o, Objects: 3, Position: "e:9"}
				s.Holds[o] = Summary{Digest: o + ">" + n, Objects: 3, Position: "e:9"}
			}
		}
		out = append(out, Cluster{Name: n, Said: s})
	}
	return out
}

func TestCompare(t *testing.T) {
	for name, c := range map[string]struct {
		edit   func(m []Cluster)
		states string // of the pairs in order: ap>eu ap>us eu>ap eu>us us>ap us>eu
		reason string
		line   string
	}{
		"all equal": {func([]Cluster) {}, "equal equal equal equal equal equal", "", ": every cluster has stored what every other intends; 12 of 12 proxies have acknowledged it"},
		"a cut link": {func(m []Cluster) {
			m[1].Said.Tells["us"] = Summary{Digest: "new", Position: "e:10"}
			m[2].Said.Holds["eu"] = Summary{Digest: "eu>us", Stale: true, AgeSeconds: 12, Problem: "no route", Position: "e:9"}
		}, "equal equal equal differs equal equal", "us does not follow eu: no route; it holds what eu stated 12 s ago", "of 6 pairs of clusters 5 equal, 1 differ, 0 not known"},
		"a cut link over which nothing has changed": {func(m []Cluster) {
			m[2].Said.Holds["eu"] = Summary{Digest: "eu>us", Stale: true, AgeSeconds: 12, Position: "e:9"}
		}, "equal equal equal equal equal equal", "", "every cluster has stored"},
		"on its way": {func(m []Cluster) { m[1].Said.Tells["us"] = Summary{Digest: "new", Position: "e:10"} },
			"equal equal equal differs equal equal", "us is at e:9, eu at e:10: the difference is on its way", "see isthmus status --drift"},
		"an origin that is silent": {func(m []Cluster) { m[1].Said, m[1].Reason = nil, "no answer within 2s" },
			"unknown equal unknown unknown equal unknown", "eu does not say what it intends (no answer within 2s); us holds the state of eu as last stated", "mesh digest not known: of 6 pairs of clusters 2 equal, 0 differ, 4 not known; 8 of 8 proxies"},
		"refused there": {func(m []Cluster) {
			s := m[2].Said.Holds["eu"]
			s.NotInForce = 1
			m[2].Said.Holds["eu"] = s
		}, "equal equal equal differs equal equal", "1 objects are stored in us and not in force there", "1 differ"},
		"not joined":       {func(m []Cluster) { delete(m[2].Said.Holds, "eu") }, "equal equal equal unknown equal equal", "us does not follow eu: it has not joined it", "1 not known"},
		"proxies that lag": {func(m []Cluster) { m[0].Said.Acknowledged = 3 }, "equal equal equal equal equal equal", "", "11 of 12 proxies have acknowledged it; see"},
	} {
		t.Run(name, func(t *testing.T) {
			m := mesh3()
			c.edit(m)
			r := Compare(m)
			var states, reasons []string
			for _, p := range r.Pairs {
				states, reasons = append(states, string(p.State)), append(reasons, p.Reason)
				if (p.State == Equal) != (p.Remedy == "") {
					t.Errorf("%+v", p)
				}
			}
			if got := strings.Join(states, " "); got != c.states {
				t.Errorf("states %s, want %s", got, c.states)
			}
			if got := strings.Join(reasons, "|"); !strings.Contains(got, c.reason) {
				t.Errorf("no %q in %s", c.reason, got)
			}
			if got := r.Line(); !strings.Contains(got, c.line) {
				t.Errorf("no %q in %s", c.line, got)
			}
		})
	}
}

// TestTheDigestIsOfTheContent: it does not depend on the order in which clusters are asked, on ages or positions, and every
// change of what a cluster intends changes it.
func TestTheDigestIsOfTheContent(t *testing.T) {
	want := Compare(mesh3()).Digest
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		m := mesh3()
		r.Shuffle(len(m), func(i, j int) { m[i], m[j] = m[j], m[i] })
		s := m[0].Said
		to := "eu"
		if m[0].Name == to {
			to = "us"
		}
		v := s.Tells[to]
		v.Position = fmt.Sprint(seed)
		s.Tells[to] = v
		if got := Compare(m).Digest; got != want {
			t.Fatalf("seed %d: another digest for the same content", seed)
		}
		v.Digest = "other"
		s.Tells[to] = v
		if got := Compare(m).Digest; got == want {
			t.Fatalf("seed %d: the same digest for other content", seed)
		}
	}
}

// TestObjectsSayExactlyWhatDiffers: applying the differences to what is stored gives what is intended, and nothing that is equal is listed.
func TestObjectsSayExactlyWhatDiffers(t *testing.T) {
	p := Pair{Origin: "eu", Cluster: "us", State: Differs, Reason: "because", Remedy: "do"}
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 2))
		draw := func() (out []Object) {
			for i := range 6 {
				if r.IntN(3) > 0 {
					out = append(out, Object{Kind: []string{"A", "B"}[i%2], Namespace: "n", Name: fmt.Sprint(i), Version: fmt.Sprint(r.IntN(2))})
				}
			}
			r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
			return out
		}
		intended, stored := draw(), draw()
		have := map[string]string{}
		for _, o := range stored {
			have[o.Kind+o.Name] = o.Version
		}
		for _, d := range Objects(p, intended, stored) {
			if d.Intended == d.Stored || d.Stored != have[d.Kind+d.Name] || d.Reason == "" || d.Remedy == "" {
				t.Fatalf("seed %d: %+v", seed, d)
			}
			if have[d.Kind+d.Name] = d.Intended; d.Intended == "" {
				delete(have, d.Kind+d.Name)
			}
		}
		want := map[string]string{}
		for _, o := range intended {
			want[o.Kind+o.Name] = o.Version
		}
		if !reflect.DeepEqual(have, want) {
			t.Fatalf("seed %d: %v, want %v", seed, have, want)
		}
	}
}

// TestWhatIsNotInForceIsADifference: an object that is stored and refused is listed with the reason of the cluster that refuses it.
func TestWhatIsNotInForceIsADifference(t *testing.T) {
	o := Object{Kind: "AccessPolicy", Namespace: "shop", Name: "p", Version: "1"}
	held := o
	held.NotInForce = "refused: spec.rules[0]: unknown"
	d := Objects(Pair{Origin: "eu", Cluster: "us"}, []Object{o}, []Object{held})
	if len(d) != 1 || d[0].Reason != held.NotInForce || !strings.Contains(d[0].Remedy, "mend the object in eu, or upgrade us") {
		t.Errorf("%+v", d)
	}
	lags := Proxies(&Said{Cluster: "us", Lags: []Lag{{Proxy: "shop/a", Type: "Service", Name: "shop/b", Reason: "bad"}, {Proxy: "shop/c", Reason: "catching up"}}})
	if len(lags) != 2 || lags[0].Proxy != "shop/a" || slices.ContainsFunc(lags, func(d Difference) bool { return d.Remedy == "" }) {
		t.Errorf("%+v", lags)
	}
}
