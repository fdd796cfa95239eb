package detour

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/liveness"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"pgregory.net/rapid"
)

type hand struct {
	clock.Real
	now time.Time
}

func (h *hand) Now() time.Time { return h.now }

// fake is a prober that does nothing but end.
type fake struct {
	to, by  mesh.ClusterName
	changed func(liveness.State)
	ended   chan struct{}
}

func (f *fake) Run(ctx context.Context) error {
	<-ctx.Done()
	close(f.ended)
	return ctx.Err()
}

func (f *fake) Loss() (float64, int) { return 0.5, 10 }

// desk is a keeper in eu-west with what it was told and says.
type desk struct {
	*Keeper
	t     testing.TB
	hand  *hand
	paths map[mesh.ClusterName]split.Path
	known map[mesh.ClusterName]mesh.Cluster
	leave mesh.ClusterName

	tried  []*fake
	states []string
	events []Event
}

func newDesk(t testing.TB, others ...mesh.ClusterName) *desk {
	d := &desk{t: t, hand: &hand{now: time.Unix(1e9, 0)}, paths: map[mesh.ClusterName]split.Path{}, known: map[mesh.ClusterName]mesh.Cluster{}}
	for i, n := range others {
		d.paths[n] = split.Path{Cluster: n, RTT: time.Duration(10*(i+1)) * time.Millisecond}
		d.known[n] = mesh.Cluster{Name: n, TrustDomain: mesh.TrustDomain(n), Gateways: []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, byte(i + 1)}), 1)}}
	}
	d.Keeper = New(Config{Self: "eu-west", Clock: d.hand, Log: slog.New(slog.DiscardHandler),
		Clusters: func() map[mesh.ClusterName]mesh.Cluster { return d.known },
		Paths: func() (out []split.Path) {
			for _, p := range d.paths {
				out = append(out, p)
			}
			return out
		},
		Leaves: func(n mesh.ClusterName) bool { return n == d.leave },
		Probe: func(to, by mesh.Cluster, changed func(liveness.State)) Prober {
			f := &fake{to.Name, by.Name, changed, make(chan struct{})}
			d.tried = append(d.tried, f)
			return f
		},
		State: func(_ context.Context, to, by mesh.ClusterName, rtt time.Duration) {
			d.states = append(d.states, fmt.Sprintf("%s by %q %v", to, by, rtt))
		},
		Told: func(e Event) { d.events = append(d.events, e) }})
	return d
}

// dead says whether the direct way is.
func (d *desk) dead(n mesh.ClusterName, is bool) {
	p := d.paths[n]
	p.Dead = is
	d.paths[n] = p
}

// says is a cluster's word: of a path, "us-east 30" in milliseconds, "us-east down", "us-east by ap-south".
func (d *desk) says(n mesh.ClusterName, paths ...string) {
	var row []split.Path
	for _, p := range paths {
		to, how, _ := strings.Cut(p, " ")
		path := split.Path{Cluster: mesh.ClusterName(to)}
		var ms int
		if _, err := fmt.Sscan(how, &ms); err != nil {
			path.Dead = true
		}
		if by, ok := strings.CutPrefix(how, "by "); ok {
			path.Via = mesh.ClusterName(by)
		}
		path.RTT = time.Duration(ms) * time.Millisecond
		row = append(row, path)
	}
	d.Heard(n, row)
}

// looks runs one look, and returns whom it tries by now: the last, "" where none runs.
func (d *desk) looks() string {
	d.look(d.t.Context())
	for _, w := range d.ways {
		return string(w.by.Name)
	}
	return ""
}

// answers has the way that is tried last answer.
func (d *desk) answers(rtt time.Duration) { d.tried[len(d.tried)-1].changed(liveness.State{RTT: rtt}) }

// fails has it be silent.
func (d *desk) fails(rtt time.Duration) {
	d.tried[len(d.tried)-1].changed(liveness.State{RTT: rtt, PathDown: true})
}

func (d *desk) wrote(want ...string) {
	d.t.Helper()
	if strings.Join(d.states, ", ") != strings.Join(want, ", ") {
		d.t.Errorf("stated %q, want %q", d.states, want)
	}
	d.states = nil
}

func TestTheNearestThatSaysItReachesIsTriedAndThenInForce(t *testing.T) {
	d := newDesk(t, "us-east", "near", "far", "silent", "cut")
	d.says("near", "us-east 300")
	d.says("far", "us-east 20")
	d.says("cut", "us-east down")
	if by := d.looks(); by != "" {
		t.Fatalf("a way by %s is tried while there is a direct one", by)
	}
	d.dead("us-east", true)
	if by := d.looks(); by != "far" { // 30+20 before 20+300
		t.Fatalf("tried by %q, want far", by)
	}
	d.wrote() // not before it has answered
	if _, ok := d.Way("us-east"); ok {
		t.Error("a way is in force that has not answered")
	}
	d.answers(52 * time.Millisecond)
	d.looks()
	d.wrote(`us-east by "far" 52ms`)
	if w, ok := d.Way("us-east"); !ok || w.By != "far" || w.Loss != 0.5 {
		t.Errorf("%+v, %v", w, ok)
	}
	for _, p := range d.Over(d.cfg.Paths()) {
		if p.Cluster == "us-east" && (p.Via != "far" || !p.Dead || p.RTT != 52*time.Millisecond) || p.Cluster != "us-east" && p.Via != "" {
			t.Errorf("%+v", p)
		}
	}
	d.answers(55 * time.Millisecond) // noise
	d.looks()
	d.wrote()
	d.answers(80 * time.Millisecond)
	d.looks()
	d.wrote(`us-east by "far" 80ms`)
	d.dead("us-east", false) // which core/liveness says when it has answered for long enough
	if by := d.looks(); by != "" {
		t.Errorf("still by %s", by)
	}
	d.wrote(`us-east by "" 0s`)
	<-d.tried[0].ended
	if len(d.events) != 2 || !d.events[0].Began || d.events[1].Began || !d.events[1].Home {
		t.Errorf("%+v", d.events)
	}
}

// TestWhoIsNoWay: each of these alone keeps the third cluster from being tried. The control is the first.
func TestWhoIsNoWay(t *testing.T) {
	for what, change := range map[string]func(*desk){
		"":                              func(*desk) {},
		"it does not reach it either":   func(d *desk) { d.says("ap-south", "us-east down") },
		"it reaches it by another only": func(d *desk) { d.says("ap-south", "us-east by af-west") },
		"it says nothing of it":         func(d *desk) { d.says("ap-south", "af-west 10") },
		"its word is old":               func(d *desk) { d.hand.now = d.hand.now.Add(liveness.RowLasts + 1) },
		"it is not reached":             func(d *desk) { d.dead("ap-south", true) },
		"it is drained":                 func(d *desk) { d.leave = "ap-south" },
		"it is not joined":              func(d *desk) { delete(d.paths, "ap-south") },
		"it has no gateways":            func(d *desk) { d.known["ap-south"] = mesh.Cluster{Name: "ap-south"} },
		"nothing is to be passed on by it": func(d *desk) {
			c := d.known["ap-south"]
			c.NoTransit = true
			d.known["ap-south"] = c
		},
		"the destination has none": func(d *desk) { d.known["us-east"] = mesh.Cluster{Name: "us-east"} },
	} {
		d := newDesk(t, "us-east", "ap-south")
		d.dead("us-east", true)
		d.says("ap-south", "us-east 10")
		d.says("us-east", "us-east 10") // its own word is none
		change(d)
		if by := d.looks(); (by == "ap-south") != (what == "") {
			t.Errorf("%s: tried by %q", what, by)
		}
	}
}

// TestAWayThatDoesNotAnswerIsLeftForTheNext, as one by gateways of an earlier version, which refuse; it is not asked again for a while.
func TestAWayThatDoesNotAnswerIsLeftForTheNext(t *testing.T) {
	d := newDesk(t, "us-east", "ap-south", "af-west")
	d.dead("us-east", true)
	word := func() {
		d.says("ap-south", "us-east 10")
		d.says("af-west", "us-east 10")
	}
	word()
	if by := d.looks(); by != "ap-south" {
		t.Fatalf("tried by %q", by)
	}
	d.hand.now = d.hand.now.Add(patience)
	word()
	if by := d.looks(); by != "af-west" {
		t.Fatalf("then by %q", by)
	}
	d.answers(time.Millisecond)
	d.looks()
	d.wrote(`us-east by "af-west" 1ms`)
	d.fails(time.Millisecond)
	if by := d.looks(); by != "" {
		t.Errorf("both failed, and %s is tried again at once", by)
	}
	d.wrote(`us-east by "" 0s`)
	if e := d.events[1]; e.Began || e.Home || !strings.Contains(e.Cause, "through af-west") {
		t.Errorf("%+v", e)
	}
	d.hand.now = d.hand.now.Add(avoidFor - 1)
	word()
	if by := d.looks(); by != "" {
		t.Errorf("%s is tried too soon", by)
	}
	d.hand.now = d.hand.now.Add(1)
	if by := d.looks(); by != "ap-south" {
		t.Errorf("after a while %q is tried", by)
	}
}

// TestAWayInForceStaysWhileItAnswers, though a nearer one comes up and the third cluster's control plane falls silent: what answers is
// known better than what is said.
func TestAWayInForceStaysWhileItAnswers(t *testing.T) {
	d := newDesk(t, "us-east", "ap-south", "af-west")
	d.dead("us-east", true)
	d.says("af-west", "us-east 100")
	d.looks()
	d.answers(130 * time.Millisecond)
	d.looks()
	d.wrote(`us-east by "af-west" 130ms`)
	d.hand.now = d.hand.now.Add(time.Minute)
	d.says("ap-south", "us-east 1")
	if by := d.looks(); by != "af-west" {
		t.Errorf("now by %q", by)
	}
	d.dead("af-west", true)
	if by := d.looks(); by != "ap-south" {
		t.Errorf("the third is lost, and then by %q", by)
	}
	d.wrote(`us-east by "" 0s`)
}

// TestWaysAreLawful whatever comes: what is in force is by a cluster that is reached directly and has answered, to one that is not;
// what is stated last is what is in force; and each prober that is not in use has ended.
func TestWaysAreLawful(t *testing.T) {
	names := []mesh.ClusterName{"a", "b", "c", "d"}
	rapid.Check(t, func(r *rapid.T) {
		d := newDesk(t, names...)
		stated := map[string]string{}
		answered := map[*fake]bool{}
		for range 60 {
			n := rapid.SampledFrom(names).Draw(r, "of")
			switch rapid.IntRange(0, 4).Draw(r, "what") {
			case 0:
				d.dead(n, rapid.Bool().Draw(r, "dead"))
			case 1:
				d.says(n, string(rapid.SampledFrom(names).Draw(r, "to"))+rapid.SampledFrom([]string{" 10", " down", " by a"}).Draw(r, "how"))
			case 2:
				d.hand.now = d.hand.now.Add(time.Duration(rapid.IntRange(0, 5000).Draw(r, "ms")) * time.Millisecond)
			case 3:
				if len(d.tried) > 0 {
					f := rapid.SampledFrom(d.tried).Draw(r, "way")
					answered[f] = rapid.Bool().Draw(r, "answers")
					f.changed(liveness.State{RTT: 10 * time.Millisecond, PathDown: !answered[f]})
				}
			}
			d.look(t.Context())
			for _, s := range d.states {
				to, how, _ := strings.Cut(s, " by ")
				stated[to] = how
			}
			d.states = nil
			for _, n := range names {
				w, ok := d.Way(n)
				if want := fmt.Sprintf("%q %v", w.By, w.RTT); ok && stated[string(n)] != want || !ok && stated[string(n)] != "" && stated[string(n)] != `"" 0s` {
					r.Fatalf("%s: stated %q, in force %+v", n, stated[string(n)], w)
				}
				if ok && (!d.paths[n].Dead || d.paths[w.By].Dead || w.By == n || !answered[d.ways[n].prober.(*fake)]) {
					r.Fatalf("%s by %s: %+v", n, w.By, d.paths)
				}
			}
			for _, f := range d.tried {
				if w := d.ways[f.to]; w == nil || w.prober != Prober(f) {
					<-f.ended
				}
			}
		}
	})
}
