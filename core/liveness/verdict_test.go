package liveness

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
	"pgregory.net/rapid"
)

// matrix builds rows from text: a line an observer, "A: B+ C- D~": of B path and lease, of C neither, of D the
// path alone, with "!" the lease alone, with "?" a path of an observer that says nothing of leases and with "x" none.
func matrix(t testing.TB, text string) map[mesh.ClusterName]Row {
	t.Helper()
	rows := map[mesh.ClusterName]Row{}
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		name, rest, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			t.Fatalf("%q is no row", line)
		}
		row := Row{Heard: epoch, Sees: map[mesh.ClusterName]Sight{}}
		for word := range strings.FieldsSeq(rest) {
			s, ok := map[byte]Sight{'+': {Path: true, Lease: LeaseFresh}, '-': {Lease: LeaseLost}, '~': {Path: true, Lease: LeaseLost},
				'!': {Lease: LeaseFresh}, '?': {Path: true}, 'x': {}}[word[len(word)-1]]
			if !ok {
				t.Fatalf("%q is no sight", word)
			}
			row.Sees[mesh.ClusterName(word[:len(word)-1])] = s
		}
		rows[mesh.ClusterName(name)] = row
	}
	return rows
}

func names(n int) (out []mesh.ClusterName) {
	for i := range n {
		out = append(out, mesh.ClusterName(string(rune('A'+i))))
	}
	return out
}

// TestTheMeshJudges: who has a say, and what follows.
func TestTheMeshJudges(t *testing.T) {
	for _, c := range []struct {
		name         string
		clusters     int
		rows         string
		self, target mesh.ClusterName
		want         mesh.Reachability
		by           string
	}{
		{"all is well", 3, "A: B+ C+\nB: A+ C+\nC: A+ B+", "A", "C", mesh.Alive, "A B"},
		{"both lost it", 3, "A: B+ C-\nB: A+ C-", "A", "C", mesh.Dead, "A B"},
		{"both lost its path", 3, "A: B+ C!\nB: A+ C!", "A", "C", mesh.Unreachable, "A B"},
		{"both lost its lease", 3, "A: B+ C~\nB: A+ C~", "A", "C", mesh.StaleServing, "A B"},
		{"one link is cut", 3, "A: B+ C-\nB: A+ C+\nC: A- B+", "A", "C", mesh.Alive, "A B"},
		{"one link is cut, of the control planes alone", 3, "A: B+ C~\nB: A+ C+", "A", "C", mesh.Alive, "A B"},
		{"path of one, lease of the other", 3, "A: B+ C~\nB: A+ C!", "A", "C", mesh.Alive, "A B"},
		{"alone", 3, "A: B- C-", "A", "C", mesh.Unreachable, "A"},
		{"alone, with what others last said", 3, "A: B- C-\nB: A+ C-", "A", "C", mesh.Unreachable, "A"},
		{"a mesh of two", 2, "A: B-", "A", "B", mesh.Unreachable, "A"},
		{"a mesh of two, its control plane is stopped", 2, "A: B~", "A", "B", mesh.StaleServing, "A"},
		{"the larger half", 5, "A: B+ C+ D- E-\nB: A+ C+ D- E-\nC: A+ B+ D- E-\nD: A- B- C- E+", "A", "D", mesh.Dead, "A B C"},
		{"the smaller half", 5, "D: A- B- C- E+\nE: A- B- C- D+", "D", "A", mesh.Unreachable, "D E"},
		{"half of the mesh is no majority", 4, "A: B+ C- D-\nB: A+ C- D-", "A", "D", mesh.Unreachable, "A B"},
		{"a chain: its ends do not reach each other", 5, "B: A+ C+ D- E-\nA: B+ C- D- E-\nC: A- B+ D- E-", "B", "D", mesh.Unreachable, "A B"},
		{"an early version says nothing of leases", 3, "A: B+ C-\nB: A+ Cx", "A", "C", mesh.Unreachable, "A B"},
		{"an early version sees a path", 3, "A: B+ C~\nB: A? C?", "A", "C", mesh.StaleServing, "A B"},
		{"most lack the path", 4, "A: B+ C+ D-\nB: A+ C+ D-\nC: A+ B+ D+", "A", "D", mesh.Unreachable, "A B C"},
		{"of oneself", 3, "A: B+ C+\nB: A~ C+\nC: A~ B+", "A", "A", mesh.StaleServing, "B C"},
		{"of oneself, nobody being heard", 3, "A: B- C-", "A", "A", mesh.Alive, ""},
		{"never seen", 3, "A: B+", "A", "C", mesh.Alive, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := Judge(c.self, c.target, names(c.clusters), matrix(t, c.rows), epoch)
			var by []string
			for _, w := range e.Witnesses {
				by = append(by, string(w.Observer))
			}
			if got := strings.Join(by, " "); e.State != c.want || got != c.by {
				t.Errorf("%v by %q, want %v by %q: %s", e.State, got, c.want, c.by, e.Cause())
			}
		})
	}
}

// TestAnOldRowHasNoSay: an observer that is not heard does not know what is now.
func TestAnOldRowHasNoSay(t *testing.T) {
	rows := matrix(t, "A: B+ C-\nB: A+ C-")
	if e := Judge("A", "C", names(3), rows, after(RowLasts)); e.State != mesh.Dead {
		t.Errorf("%v while B's row is fresh, want Dead", e.State)
	}
	if e := Judge("A", "C", names(3), rows, after(RowLasts+1)); e.State != mesh.Unreachable || len(e.Witnesses) != 1 {
		t.Errorf("%v by %d observers after B fell silent, want Unreachable by A alone", e.State, len(e.Witnesses))
	}
	delete(rows, "B")
	rows["Z"] = Row{Heard: epoch, Sees: map[mesh.ClusterName]Sight{"A": {Path: true}, "C": {Lease: LeaseLost}}}
	rows["A"].Sees["Z"] = Sight{Path: true}
	if e := Judge("A", "C", names(3), rows, epoch); len(e.Witnesses) != 1 {
		t.Errorf("%d observers have a say, though one is no cluster of the mesh", len(e.Witnesses))
	}
}

func TestTheCauseSaysWhoLacksWhat(t *testing.T) {
	for rows, want := range map[string]string{
		"A: B+ C+\nB: A+ C+": "2 of 2 observers reach its gateways, 2 of 2 hear its control plane",
		"A: B+ C-\nB: A+ C+": "1 of 2 observers reach its gateways (not A), 1 of 2 hear its control plane (not A)",
		"A: B+ C~\nB: A+ C~": "2 of 2 observers reach its gateways, 0 of 2 hear its control plane",
		"A: B- C-":           "0 of 1 observer reaches its gateways, 0 of 1 hear its control plane; no majority of 3 clusters",
		"A: B+":              "no cluster that can be heard says anything of it",
	} {
		if got := Judge("A", "C", names(3), matrix(t, rows), epoch).Cause(); got != want {
			t.Errorf("of %q:\n%s, want\n%s", rows, got, want)
		}
	}
}

// draw is any sight.
func draw(t *rapid.T, what string) Sight {
	return Sight{Path: rapid.Bool().Draw(t, what+" path"), Lease: Lease(rapid.IntRange(0, 2).Draw(t, what+" lease"))}
}

// TestNoOneObserverDeclaresDeath: whatever one of them says, alone or of what others say, a cluster that every other observer
// sees in any way is not dead; and where it is, at least two and a majority of the mesh see nothing of it.
func TestNoOneObserverDeclaresDeath(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 7).Draw(t, "clusters")
		all := names(n)
		rows := map[mesh.ClusterName]Row{}
		for _, o := range all {
			if rapid.IntRange(0, 9).Draw(t, "silent") == 0 && o != "A" {
				continue
			}
			row := Row{Heard: after(time.Duration(rapid.IntRange(-6, 0).Draw(t, "heard")) * time.Second), Sees: map[mesh.ClusterName]Sight{}}
			for _, x := range all {
				if x != o {
					row.Sees[x] = draw(t, fmt.Sprintf("%s of %s", o, x))
				}
			}
			rows[o] = row
		}
		target := rapid.SampledFrom(all).Draw(t, "target")
		e := Judge("A", target, all, rows, epoch)
		if e.State == mesh.Dead {
			if len(e.Witnesses) < 2 || 2*len(e.Witnesses) <= n {
				t.Fatalf("%d of %d clusters declare a death", len(e.Witnesses), n)
			}
			for _, w := range e.Witnesses {
				if w.Path || w.Lease != LeaseLost {
					t.Fatalf("dead, though %s says %+v", w.Observer, w.Sight)
				}
			}
		}
		// All but one see it.
		liar := rapid.SampledFrom(all).Draw(t, "liar")
		for o, row := range rows {
			if s, ok := row.Sees[target]; ok && o != liar && !s.Path {
				row.Sees[target] = Sight{Path: rapid.Bool().Draw(t, "kept by the path"), Lease: LeaseFresh}
			}
		}
		if e := Judge("A", target, all, rows, epoch); e.State == mesh.Dead {
			t.Fatalf("%s alone declared %s dead: %s", liar, target, e.Cause())
		}
	})
}

// TestASignOfLifeNeverWorsensTheVerdict.
func TestASignOfLifeNeverWorsensTheVerdict(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := names(rapid.IntRange(2, 6).Draw(t, "clusters"))
		rows := map[mesh.ClusterName]Row{}
		for _, o := range all[:len(all)-1] {
			row := Row{Heard: epoch, Sees: map[mesh.ClusterName]Sight{}}
			for _, x := range all {
				if x != o {
					row.Sees[x] = draw(t, fmt.Sprintf("%s of %s", o, x))
				}
			}
			rows[o] = row
		}
		target := all[len(all)-1] // which says nothing itself
		before := Judge("A", target, all, rows, epoch)
		of := rapid.SampledFrom(all[:len(all)-1]).Draw(t, "who sees life")
		s := rows[of].Sees[target]
		if rapid.Bool().Draw(t, "a path") {
			s.Path = true
		} else {
			if s.Lease == LeaseUnknown {
				return // to say more is no sign of life by itself
			}
			s.Lease = LeaseFresh
		}
		rows[of].Sees[target] = s
		if got := Judge("A", target, all, rows, epoch); got.State > before.State {
			t.Fatalf("%s sees life, and %s went from %v to %v", of, target, before.State, got.State)
		}
	})
}

func seen(s mesh.Reachability) Evidence { return Evidence{State: s, Witnesses: make([]Witness, 2)} }

// TestAVerdictIsConfirmedAndMends: by steps as time confirms, and back after the hold.
func TestAVerdictIsConfirmedAndMends(t *testing.T) {
	var v Verdict
	at := time.Duration(0)
	step := func(d time.Duration, e mesh.Reachability, want mesh.Reachability) {
		t.Helper()
		for end := at + d; at < end; {
			before := v.State
			at = min(at+500*time.Millisecond, end)
			if v = v.Step(seen(e), after(at)); v.State != before && at < end {
				t.Fatalf("%v after %v, before %v", v.State, at, end)
			}
		}
		if v = v.Step(seen(e), after(at)); v.State != want {
			t.Fatalf("after %v: %v, want %v", at, v.State, want)
		}
	}
	step(0, mesh.Alive, mesh.Alive)
	step(0, mesh.Dead, mesh.Alive)
	step(confirmAfter-1, mesh.Dead, mesh.Alive)
	step(1, mesh.Dead, mesh.Unreachable)
	if want := after(at); !v.Since.Equal(want) {
		t.Errorf("since %v, want %v", v.Since, want)
	}
	step(deadAfter-confirmAfter-1, mesh.Dead, mesh.Unreachable)
	step(1, mesh.Dead, mesh.Dead)
	step(time.Minute, mesh.Dead, mesh.Dead)
	step(0, mesh.Alive, mesh.Dead)
	step(mendMin-1, mesh.Alive, mesh.Dead)
	step(1, mesh.Alive, mesh.Alive)
	if step(time.Hour, mesh.Alive, mesh.Alive); !v.Since.Equal(after(at - time.Hour)) {
		t.Errorf("since %v, want an hour ago", v.Since)
	}
	// What is not seen is not known to have changed.
	if v = v.Step(Evidence{}, after(at+time.Hour)); v.State != mesh.Alive || !v.At.Equal(after(at)) {
		t.Errorf("%v of %v after nobody saw anything", v.State, v.At)
	}
}

// TestAStartIsNoNews: at a start nobody has got anywhere yet, which is no news; who is still not there after
// the time that confirms a death is. Once all was well, the same is confirmed as ever.
func TestAStartIsNoNews(t *testing.T) {
	begin := func(first mesh.Reachability) (v Verdict) {
		v = v.Step(seen(first), epoch)
		for at := 500 * time.Millisecond; at < deadAfter-time.Second; at += 500 * time.Millisecond {
			v = v.Step(seen(mesh.Unreachable), after(at))
		}
		return v
	}
	v := begin(mesh.Unreachable)
	if v.State != mesh.Alive {
		t.Errorf("%v before anybody can have got there", v.State)
	}
	if well := v.Step(seen(mesh.Alive), after(deadAfter)); well.State != mesh.Alive {
		t.Errorf("%v when all is well", well.State)
	}
	v = v.Step(seen(mesh.Unreachable), after(deadAfter-time.Second))
	if v = v.Step(seen(mesh.Unreachable), after(deadAfter)); v.State != mesh.Unreachable {
		t.Errorf("%v of what nobody ever got to", v.State)
	}
	if v := begin(mesh.Alive); v.State != mesh.Unreachable {
		t.Errorf("%v of what was seen before: the control shows nothing", v.State)
	}
}

// TestTimeNobodyWatchedConfirmsNothing: a judge that was stopped for a minute judges anew.
func TestTimeNobodyWatchedConfirmsNothing(t *testing.T) {
	v := Verdict{}.Step(seen(mesh.Alive), epoch).Step(seen(mesh.Dead), after(time.Second))
	if v = v.Step(seen(mesh.Dead), after(time.Minute)); v.State != mesh.Alive {
		t.Errorf("%v at once after a minute in which nobody looked", v.State)
	}
	for range 10 {
		v = v.Step(seen(mesh.Dead), v.At.Add(confirmAfter/2))
	}
	if v.State != mesh.Dead {
		t.Errorf("%v after that was confirmed, want Dead", v.State)
	}
}

// TestABlinkIsNoNews: evidence that goes and comes back before it is confirmed changes nothing, however often.
func TestABlinkIsNoNews(t *testing.T) {
	v := Verdict{}.Step(seen(mesh.Alive), epoch)
	for i := range 1000 {
		at := time.Duration(i) * confirmAfter
		v = v.Step(seen(mesh.Dead), after(at+confirmAfter/2)).Step(seen(mesh.Alive), after(at+confirmAfter-1))
		if v.State != mesh.Alive {
			t.Fatalf("%v after blink %d", v.State, i)
		}
	}
}

// TestAVerdictMakesLittleNews: no sequence of evidence changes a verdict more than 400 times an hour, six at most for each
// time that it mends; and a link that flaps with the worst of periods makes fewer than 150.
func TestAVerdictMakesLittleNews(t *testing.T) {
	const hour = int(time.Hour / (500 * time.Millisecond))
	count := func(evidence func(i int, v Verdict) mesh.Reachability) (changes int) {
		v := Verdict{}.Step(seen(mesh.Alive), epoch)
		for i := range hour {
			before := v.State
			if v = v.Step(seen(evidence(i, v)), after(time.Duration(i)*500*time.Millisecond)); v.State != before {
				changes++
			}
		}
		return changes
	}
	// The worst: bad until it is said, good until it is taken back.
	if n := count(func(_ int, v Verdict) mesh.Reachability {
		if v.State == mesh.Alive {
			return mesh.Unreachable
		}
		return mesh.Alive
	}); n >= 150 || n < 50 {
		t.Errorf("%d changes in an hour, want fewer than 150, and news all the same", n)
	}
	rapid.Check(t, func(t *rapid.T) {
		script := rapid.SliceOfN(rapid.IntRange(0, levels), 1, 64).Draw(t, "evidence")
		each := rapid.IntRange(1, 40).Draw(t, "steps each")
		if n := count(func(i int, _ Verdict) mesh.Reachability { return mesh.Reachability(script[i/each%len(script)]) }); n > 400 {
			t.Fatalf("%d changes in an hour", n)
		}
	})
}

// TestVerdictsFollowWhatLasts: evidence that stays becomes the verdict, from any state, within the longest hold.
func TestVerdictsFollowWhatLasts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v, at := Verdict{}, time.Duration(0)
		for _, s := range rapid.SliceOf(rapid.IntRange(0, levels)).Draw(t, "before") {
			at += time.Duration(rapid.IntRange(0, 20).Draw(t, "for")) * time.Second
			v = v.Step(seen(mesh.Reachability(s)), after(at))
		}
		last := mesh.Reachability(rapid.IntRange(0, levels).Draw(t, "last"))
		for range 2 * int((mendMax+deadAfter)/time.Second) {
			at += 500 * time.Millisecond
			v = v.Step(seen(last), after(at))
		}
		if v.State != last {
			t.Fatalf("%v, though all said %v for %v", v.State, last, mendMax+deadAfter)
		}
	})
}

func TestEveryStateHasItsLevel(t *testing.T) {
	if want := []mesh.Reachability{mesh.Alive, mesh.StaleServing, mesh.Unreachable, mesh.Dead}; !slices.IsSorted(want) || int(want[len(want)-1]) != levels {
		t.Errorf("levels %d do not follow the order of %v", levels, want)
	}
}
