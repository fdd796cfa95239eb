package event

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

var noon = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

func seqs(events []Event) string {
	var out []string
	for _, e := range events {
		out = append(out, fmt.Sprint(e.Cluster, e.Seq))
	}
	return strings.Join(out, " ")
}

// TestRingKeepsTheNewest: without gaps in what it counts, in order, over any number of rounds.
func TestRingKeepsTheNewest(t *testing.T) {
	r := Ring{Max: 4}
	if got, cut := r.List(&Filter{}, 0); len(got) != 0 || cut || r.Last() != 0 || r.Oldest() != 0 {
		t.Errorf("an empty ring holds %v", got)
	}
	for i := range 11 {
		if got := r.Add(Event{Time: noon.Add(time.Duration(i) * time.Second)}); got != uint64(i+1) {
			t.Fatalf("event %d has the number %d", i+1, got)
		}
		got, cut := r.List(&Filter{}, 0)
		if n := min(i+1, 4); len(got) != n || cut || got[0].Seq != uint64(i+2-n) || got[n-1].Seq != uint64(i+1) || r.Oldest() != got[0].Seq {
			t.Fatalf("after %d: %s", i+1, seqs(got))
		}
		if !slices.IsSortedFunc(got, func(a, b Event) int { return int(a.Seq) - int(b.Seq) }) {
			t.Fatalf("after %d: %s", i+1, seqs(got))
		}
	}
	if got, cut := r.List(&Filter{}, 2); seqs(got) != "10 11" || !cut {
		t.Errorf("the newest two: %s, %v", seqs(got), cut)
	}
	for after, want := range map[uint64]string{0: "8 9 10 11", 7: "8 9 10 11", 9: "10 11", 11: "", 99: ""} {
		if got, _ := r.List(&Filter{After: after}, 0); seqs(got) != want {
			t.Errorf("after %d: %s, want %s", after, seqs(got), want)
		}
	}
}

// TestFilters: each field alone, and all together.
func TestFilters(t *testing.T) {
	r := Ring{Max: 10}
	r.Add(Event{Time: noon, Cluster: "eu", Kind: Path, Subject: "us", Clusters: []mesh.ClusterName{"us"}})
	r.Add(Event{Time: noon.Add(time.Second), Cluster: "eu", Kind: Split, Subject: "catalog.shop", Clusters: []mesh.ClusterName{"eu", "us"}})
	r.Add(Event{Time: noon.Add(2 * time.Second), Cluster: "eu", Kind: Split, Subject: "cat.shop", Clusters: []mesh.ClusterName{"ap", "eu"}})
	r.Add(Event{Time: noon.Add(3 * time.Second), Cluster: "eu", Kind: Drain, Subject: "catalog.shop"})
	for _, c := range []struct {
		name string
		f    Filter
		want string
	}{
		{"all", Filter{}, "eu1 eu2 eu3 eu4"},
		{"a service", Filter{Service: "catalog.shop"}, "eu2"},
		{"a service of any namespace", Filter{Service: "catalog"}, "eu2"},
		{"not by a part of its name", Filter{Service: "ca"}, ""},
		{"a cluster that is concerned", Filter{Cluster: "us"}, "eu1 eu2"},
		{"a cluster that wrote", Filter{Cluster: "eu"}, "eu1 eu2 eu3 eu4"},
		{"kinds", Filter{Kinds: []Kind{Path, Drain}}, "eu1 eu4"},
		{"since, inclusive", Filter{Since: noon.Add(2 * time.Second)}, "eu3 eu4"},
		{"together", Filter{Kinds: []Kind{Split}, Cluster: "us", Since: noon, After: 1}, "eu2"},
	} {
		if got, _ := r.List(&c.f, 0); seqs(got) != c.want {
			t.Errorf("%s: %q, want %q", c.name, seqs(got), c.want)
		}
	}
}

func TestMergeIsByTime(t *testing.T) {
	at := func(s int) time.Time { return noon.Add(time.Duration(s) * time.Second) }
	got := Merge([]Event{{Seq: 1, Cluster: "us", Time: at(1)}, {Seq: 2, Cluster: "us", Time: at(5)}}, nil,
		[]Event{{Seq: 7, Cluster: "eu", Time: at(0)}, {Seq: 8, Cluster: "eu", Time: at(5)}, {Seq: 9, Cluster: "eu", Time: at(5)}})
	if want := "eu7 us1 eu8 eu9 us2"; seqs(got) != want {
		t.Errorf("%s, want %s", seqs(got), want)
	}
}

// TestDamperHoldsBackWhatWavers: and says how many, while others are not held back; what is slow passes.
func TestDamperHoldsBackWhatWavers(t *testing.T) {
	var d Damper
	passed, told, last := 0, 0, 0
	for i := range 6000 { // ten minutes, ten a second
		now := noon.Add(time.Duration(i) * 100 * time.Millisecond)
		e := Event{Kind: Path, Subject: "us", Time: now}
		if d.Pass(&e) {
			passed++
			told += e.Unwritten
			last = i
		}
		if i%600 == 0 {
			if e := (Event{Kind: Path, Subject: "ap", Time: now}); !d.Pass(&e) || e.Unwritten != 0 {
				t.Fatalf("a path that changes once a minute is held back with the other: %+v", e)
			}
		}
	}
	if passed < burst || passed > burst+31 {
		t.Errorf("%d of 6000 passed, want about %d", passed, burst+30)
	}
	if passed+told != last+1 {
		t.Errorf("%d passed and %d are said not to have: of %d", passed, told, last+1)
	}
}

// TestDamperRemembersNoMoreThanItMay: and damps again when those before have been quiet.
func TestDamperRemembersNoMoreThanItMay(t *testing.T) {
	var d Damper
	for i := range 3 * subjectsMax {
		if e := (Event{Kind: Split, Subject: fmt.Sprint(i), Time: noon}); !d.Pass(&e) {
			t.Fatalf("subject %d is held back", i)
		}
	}
	if len(d.buckets) > subjectsMax {
		t.Errorf("%d subjects are remembered", len(d.buckets))
	}
	late := noon.Add(time.Hour)
	if e := (Event{Kind: Split, Subject: "new", Time: late}); !d.Pass(&e) || len(d.buckets) != 1 {
		t.Errorf("after an hour %d subjects are remembered", len(d.buckets))
	}
	// A clock that goes back refills nothing and breaks nothing.
	if e := (Event{Kind: Split, Subject: "new", Time: noon}); !d.Pass(&e) {
		t.Error("held back by a clock that went back")
	}
}

// TestCausesComeAlong: over several steps, once each, and not those that the ring has lost.
func TestCausesComeAlong(t *testing.T) {
	r := Ring{Max: 4}
	for i, because := range []uint64{0, 1, 2, 0, 3, 5} {
		kind := Path
		if i == 5 {
			kind = Split
		}
		r.Add(Event{Kind: kind, Subject: "catalog.shop", Because: because})
	}
	got, _ := r.List(&Filter{Service: "catalog"}, 0)
	if got = r.Causes(got); seqs(got) != "3 5 6" {
		t.Errorf("%s, want 3 5 6: the second is lost, and the fourth has nothing to do with it", seqs(got))
	}
}
