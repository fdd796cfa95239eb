package events

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/control/detour"
	"github.com/isthmus-mesh/isthmus/control/drain"
	"github.com/isthmus-mesh/isthmus/control/load"
	"github.com/isthmus-mesh/isthmus/control/verdict"
	"github.com/isthmus-mesh/isthmus/core/event"
	"github.com/isthmus-mesh/isthmus/core/liveness"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
)

var noon = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

// hand is a clock that the test moves.
type hand struct {
	clock.Real
	now time.Time
}

func (h *hand) Now() time.Time { return h.now }

// desk is a recorder of eu-west under test.
type desk struct {
	*Recorder
	t    *testing.T
	hand *hand
	read uint64
}

func newDesk(t *testing.T) *desk {
	h := &hand{now: noon}
	d := &desk{t: t, hand: h, Recorder: New(Config{Cluster: "eu-west", Clock: h, Look: func() Seen { return Seen{} }, Serves: func(mesh.ClusterName) int { return 3 }})}
	d.wrote("started")
	return d
}

// wrote asserts the reasons of what was written since the last time, with the number that each follows: "path_lost split<2".
func (d *desk) wrote(want string) []event.Event {
	d.t.Helper()
	a := d.List(event.Filter{After: d.read})
	d.read = a.Last
	var got []string
	for _, e := range a.Events {
		text := e.Reason
		if e.Because > 0 {
			text += fmt.Sprint("<", e.Because)
		}
		got = append(got, text)
		if e.Cause == "" || e.Effect == "" || e.Reason == "" || e.Subject == "" || e.Cluster != "eu-west" || e.Time.IsZero() {
			d.t.Errorf("an event without cause and effect: %+v", e)
		}
	}
	if strings.Join(got, " ") != want {
		d.t.Errorf("wrote %q, want %q", strings.Join(got, " "), want)
	}
	return a.Events
}

func (d *desk) says(e event.Event, cause, effect string) {
	d.t.Helper()
	if !strings.Contains(e.Cause, cause) || !strings.Contains(e.Effect, effect) {
		d.t.Errorf("%s: because %q, so %q; want %q, %q", e.Reason, e.Cause, e.Effect, cause, effect)
	}
}

// shares is a split of catalog.shop over eu-west and us-east.
func shares(cause split.Cause, eu uint32) load.Change {
	return load.Change{Service: mesh.ServiceName{Namespace: "shop", Name: "catalog"}, Outcome: split.Outcome{Cause: cause},
		Split: &mesh.Split{Shares: []mesh.Share{{Cluster: "eu-west", Parts: eu}, {Cluster: "us-east", Parts: mesh.AllParts - eu}}}}
}

// TestAPathThatIsLostAndWhatFollows: the split names the loss, the verdict does, and so does the way back.
func TestAPathThatIsLostAndWhatFollows(t *testing.T) {
	d := newDesk(t)
	d.Path("us-east", liveness.State{RTT: 80 * time.Millisecond})
	d.wrote("")
	d.Split(shares(split.CauseStart, 6000))
	d.says(d.wrote("split_begun")[0], "no split yet", "eu-west 60.0%, us-east 40.0%")
	d.Path("us-east", liveness.State{PathDown: true, RTT: 80 * time.Millisecond})
	d.Path("us-east", liveness.State{PathDown: true, RTT: 80 * time.Millisecond})
	d.says(d.wrote("path_lost")[0], "without an answer for 430ms, and no new one within 260ms", "go to other clusters than us-east (it offers 3 services)")
	d.Split(shares(split.CauseLost, 10_000))
	d.says(d.wrote("cluster_lost<3")[0], "us-east cannot be reached from eu-west", "eu-west 60.0% → 100.0%, us-east 40.0% → 0.0%")
	d.Verdict(verdict.Event{Cluster: "us-east", From: mesh.Alive, To: mesh.Dead, Cause: "0 of 2 observers reach its gateways"})
	d.says(d.wrote("verdict_dead<3")[0], "0 of 2", "says Dead where it said Alive")
	d.Path("us-east", liveness.State{RTT: 80 * time.Millisecond})
	d.wrote("path_back<3")
	d.Split(shares(split.CauseGain, 9500))
	d.wrote("") // 5 %: not yet
	d.hand.now = d.hand.now.Add(again)
	d.Split(shares(split.CauseGain, 8500))
	d.says(d.wrote("cluster_back<6")[0], "us-east can be reached", "us-east 0.0% → 15.0%")
	d.Split(shares(split.CauseGain, 7000))
	d.wrote("") // the next step of the same way back
	d.hand.now = d.hand.now.Add(again)
	d.Split(shares(split.CauseNoGain, 6000))
	d.says(d.wrote("gain")[0], "as load is measured", "us-east 15.0% → 40.0%")
	d.Split(load.Change{Service: mesh.ServiceName{Namespace: "shop", Name: "catalog"}})
	d.wrote("split_ended")
	if a := d.List(event.Filter{Service: "catalog"}); len(a.Events) != 7 {
		t.Errorf("of the service with what it follows from: %d events, want 7 (5 of its own, a path lost and back)", len(a.Events))
	}
}

// TestSplitsThatMoveLittle are not written one by one, but where they add up; emergencies are, at once.
func TestSplitsThatMoveLittle(t *testing.T) {
	d := newDesk(t)
	d.Split(shares(split.CauseStart, 5000))
	d.wrote("split_begun")
	for i := range 10 {
		d.Split(shares(split.CauseGain, 5000+100*uint32(i)))
	}
	d.wrote("")
	d.hand.now = d.hand.now.Add(again)
	d.Split(shares(split.CauseGain, 6000))
	d.wrote("gain")
	d.Split(shares(split.CauseOverload, 6300))
	d.says(d.wrote("overload")[0], "asked for more than it has", "60.0% → 63.0%")
	d.Split(shares(split.CauseOverload, 6600))
	d.wrote("") // the same again, at once and small
	d.hand.now = d.hand.now.Add(again)
	d.Split(shares(split.CauseOverload, 6600))
	d.wrote("overload")
}

// TestASplitThatSwingsIsDamped: of 1,000 swings some are written, the rest are counted, and the last is not forgotten.
func TestASplitThatSwingsIsDamped(t *testing.T) {
	d := newDesk(t)
	last := uint32(0)
	for i := range 1000 {
		last = 2000 + 6000*uint32(i%2)
		d.Split(shares(split.CauseOverload, last))
		d.hand.now = d.hand.now.Add(500 * time.Millisecond)
	}
	if a := d.List(event.Filter{}); len(a.Events) > 50 {
		t.Errorf("%d events of 1000 swings", len(a.Events))
	}
	d.hand.now = d.hand.now.Add(20 * time.Second)
	d.Split(shares(split.CauseNoGain, last)) // the beat
	a := d.List(event.Filter{})
	e := a.Events[len(a.Events)-1]
	if want := fmt.Sprintf("→ %d.0%%", last/100); !strings.Contains(e.Effect, want) && !strings.Contains(e.Effect, "eu-west "+fmt.Sprint(last/100)) {
		t.Errorf("the last event says %q, and the split is %d", e.Effect, last)
	}
}

// TestLinks: a start is no event, a loss is, and what it means depends on the path.
func TestLinks(t *testing.T) {
	d := newDesk(t)
	see := func(l Link) { l.Cluster = "us-east"; d.look(Seen{Links: []Link{l}}) }
	see(Link{Lease: liveness.LeaseLost})
	d.wrote("")
	see(Link{Lease: liveness.LeaseFresh, Met: true})
	d.wrote("")
	see(Link{Lease: liveness.LeaseLost, Met: true, Err: errors.New("dial: refused")})
	d.says(d.wrote("link_lost")[0], "a lease lasts: dial: refused", "requests go on to it by the path")
	see(Link{Lease: liveness.LeaseLost, Met: true})
	d.Verdict(verdict.Event{Cluster: "us-east", To: mesh.StaleServing, Cause: "0 of 1 hear its control plane"})
	d.wrote("verdict_staleserving<2")
	see(Link{Lease: liveness.LeaseFresh, Met: true})
	d.wrote("link_back<2")
	d.Path("us-east", liveness.State{PathDown: true})
	see(Link{Lease: liveness.LeaseLost, Met: true, Down: true})
	d.says(d.wrote("path_lost link_lost<5")[1], "not heard", "its path is lost as well")
	d.look(Seen{}) // it left
	see(Link{Lease: liveness.LeaseLost})
	d.hand.now = d.hand.now.Add(startGrace)
	d.wrote("")
	see(Link{Lease: liveness.LeaseLost})
	d.wrote("link_lost")
	d.Leaving("us-east", []netip.AddrPort{netip.MustParseAddrPort("127.12.0.2:15443")})
	d.says(d.wrote("gateway_leaving")[0], "127.12.0.2:15443", "its other gateways")
	d.Leaving("us-east", nil)
	d.wrote("gateways_stay")
}

// TestDrains: begun, on their way, ended, given up, taken back, removed; and what splits do meanwhile names them.
func TestDrains(t *testing.T) {
	d := newDesk(t)
	state := func(goal mesh.DrainGoal, share float64, since int) drain.State {
		s := drain.State{Target: "us-east", Goal: goal, Share: share, Since: noon.Add(time.Duration(since) * time.Minute), Origin: "eu-west"}
		s.Ends = s.Since.Add(30 * time.Second)
		s.Done = goal == mesh.GoalDrained && share == 0 || goal == mesh.GoalServing && share == 1
		return s
	}
	see := func(all ...drain.State) { d.look(Seen{Drains: all}) }
	see(state(mesh.GoalServing, 1, -60))
	d.wrote("") // long over
	d.Split(shares(split.CauseStart, 5000))
	d.wrote("split_begun")
	see(state(mesh.GoalDrained, 0.99, 0))
	d.says(d.wrote("drain_begun")[0], "somebody asked for it in eu-west", "nothing from 12:00:30 UTC on")
	see(state(mesh.GoalDrained, 0.9, 0))
	d.wrote("")
	see(state(mesh.GoalDrained, 0.6, 0))
	d.says(d.wrote("drain_goes_on<3")[0], "time", "us-east gets 60% of its part")
	d.hand.now = d.hand.now.Add(again)
	d.Split(shares(split.CauseGain, 7000))
	d.says(d.wrote("cluster_drained<3")[0], "us-east is being drained: 60%", "eu-west 50.0% → 70.0%")
	given := state(mesh.GoalServing, 0.5, 1)
	given.Reason = "the drain was given up: catalog in eu-west is at 91%"
	see(given)
	d.says(d.wrote("drain_given_up<3")[0], "is at 91%", "gets 50% of its part, and all of it by 12:01:30")
	see(state(mesh.GoalServing, 1, 1))
	d.wrote("undrain_ended<6")
	see(state(mesh.GoalDrained, 1, 2))
	see(state(mesh.GoalDrained, 0, 2))
	d.wrote("drain_begun<6 drain_ended<8")
	d.Split(shares(split.CauseLost, 10_000))
	d.says(d.wrote("cluster_drained<8")[0], "us-east is being drained: 0%", "us-east 30.0% → 0.0%")
	see()
	d.says(d.wrote("drain_removed<8")[0], "was deleted", "its whole part at once")
	see()
	d.wrote("")
}

// TestHistoriesAndRoots: the first that are seen are no news.
func TestHistoriesAndRoots(t *testing.T) {
	d := newDesk(t)
	b := mesh.Bundle{TrustDomain: "eu-west.isthmus.local", Roots: [][]byte{{1}}, Generation: 1}
	d.look(Seen{Bundle: b, Epoch: mesh.Epoch{ID: "a"}})
	d.look(Seen{Bundle: b})
	d.wrote("")
	b.Roots, b.Generation = [][]byte{{1}, {2}}, 2
	d.look(Seen{Bundle: b, Epoch: mesh.Epoch{ID: "b"}})
	got := d.wrote("roots_changed history_began_anew")
	d.says(got[0], "1 root came, 0 roots went", "believe 2 roots")
	d.says(got[1], "history a is not continued", "history b counts")
	d.Recalled(3)
	d.says(d.wrote("policies_recalled")[0], "put back to an earlier state", "written back as they were (3)")
	(*Recorder)(nil).Recalled(1) // nobody listens
}

// TestRefusedConfiguration is told once, and when it is over.
func TestRefusedConfiguration(t *testing.T) {
	d := newDesk(t)
	d.Delivered("Service/shop/catalog", 0, "")
	d.wrote("")
	d.Delivered("Service/shop/catalog", 2, "bad regex")
	d.Delivered("Service/shop/catalog", 3, "bad regex")
	d.says(d.wrote("config_refused")[0], "(2): bad regex", "goes on with the one before")
	d.Delivered("Service/shop/catalog", 0, "")
	d.wrote("config_accepted<2")
}

// TestRecorderIsBounded and is told and asked by many at once.
func TestRecorderIsBounded(t *testing.T) {
	d := newDesk(t)
	var all sync.WaitGroup
	for g := range 4 {
		all.Go(func() {
			for i := range 1500 {
				d.Verdict(verdict.Event{Cluster: mesh.ClusterName(fmt.Sprint("c", g, "-", i)), Cause: "x"})
				if i%100 == 0 {
					d.List(event.Filter{Service: "x"})
					d.look(Seen{})
				}
			}
		})
	}
	all.Wait()
	a := d.List(event.Filter{})
	if len(a.Events) != listMax || !a.Cut || a.Last-a.Oldest+1 != eventsMax || a.Events[listMax-1].Seq != a.Last {
		t.Errorf("%d events, cut %v, %d to %d are kept", len(a.Events), a.Cut, a.Oldest, a.Last)
	}
}

// TestADetourFollowsFromTheLossOfThePath, ends for what became of it, and comes home with the path.
func TestADetourFollowsFromTheLossOfThePath(t *testing.T) {
	d := newDesk(t)
	d.Path("us-east", liveness.State{PathDown: true, RTT: 80 * time.Millisecond})
	d.wrote("path_lost")
	begun := detour.Event{To: "us-east", By: "ap-south", Began: true, RTT: 280 * time.Millisecond, Cause: "through those of ap-south they do"}
	d.Detour(begun)
	d.says(d.wrote("detour_begun<2")[0], "ap-south", "may go to us-east by the gateways of ap-south, which read nothing (round trip 280ms)")
	d.Detour(detour.Event{To: "us-east", By: "ap-south", Cause: "through ap-south its gateways do not answer any more"})
	d.says(d.wrote("detour_ended<3")[0], "do not answer any more", "other clusters than us-east, until another way is found")
	d.Detour(begun)
	d.wrote("detour_begun<2")
	d.Path("us-east", liveness.State{RTT: 80 * time.Millisecond})
	d.wrote("path_back<2")
	d.Detour(detour.Event{To: "us-east", By: "ap-south", Home: true, Cause: "its own gateways have answered again"})
	d.says(d.wrote("detour_ended<6")[0], "answered again", "go the direct way")
}
