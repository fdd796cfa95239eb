package split

import (
	"math"
	"slices"
	"time"
)

// What comes back gets judged requests a second where its step is less, so that there is something to judge it by, and no more
// for that than judgedMost of its part.
const (
	judged     = 50.0
	judgedMost = 0.1
)

// A share that has to shrink by more than this is cut at once.
const (
	overBy   = 1.25
	overLeft = 0.002
)

// held is the target less what Open holds back: a part of what would go to a cluster that comes back, and all else as it would be
// best without. Both are solved whole, so what is held back goes where there is room for it. Where there is none the gate gives
// way: a cluster that may be well is better than others that shed.
func (t *tick) held() (Flow, int) {
	best, rounds := t.target()
	for give := 0.25; give <= 1 && !t.Free && t.strained(best) && t.stretch(give); give += 0.25 {
		best, rounds = t.target()
	}
	if t.Open == nil || t.Free || !t.close(best) {
		t.let = nil
		return best, rounds
	}
	open := slices.Clone(t.problem.Cost)
	for at, part := range t.let {
		if part >= 0 {
			t.problem.Cost[at] = math.Inf(1)
		}
	}
	without, more := t.target()
	t.problem.Cost = open
	out := t.mix(best, without, 0)
	for give := 0.25; give <= 1 && t.strained(out); give += 0.25 {
		out = t.mix(best, without, give)
	}
	return out, rounds + more
}

// close says what part of best is let through from each cluster to each; negative is no gate. Of a source that has nothing else
// nothing is held back. It returns false where no gate is closed.
func (t *tick) close(best Flow) (some bool) {
	t.let = make([]float64, t.n*t.n)
	for i := range t.n {
		other := false
		for j := range t.n {
			other = other || t.usable(i, j) && t.Open[i*t.n+j] >= 1
		}
		for j := range t.n {
			at := i*t.n + j
			if t.let[at] = -1; other && t.Open[at] < 1 && t.usable(i, j) {
				t.let[at], some = t.through(at, best[at]), true
			}
		}
	}
	return some
}

// through is the part of a flow, as it is best now, that a gate lets through: a part of what would be best if it were back for
// long, which is no more than all that its source asks for.
func (t *tick) through(at int, flow float64) float64 {
	i, j := at/t.n, at%t.n
	has := t.part(j)
	whole := min(flow/has, t.problem.Demand[i])
	if whole <= 0 {
		return t.Open[at]
	}
	part := t.Open[at]
	if !t.Firm[at] { // of what has failed already few are enough
		part = max(part, min(judgedMost, judged/whole))
	}
	return min(1, min(part, ramp(t.next.Path[at]))*whole/flow)
}

// mix is best, less what is held back, which goes as without says. Gates that are not firm give way by a part.
func (t *tick) mix(best, without Flow, give float64) Flow {
	out := make(Flow, len(best))
	for i := range t.n {
		held, through := 0.0, 0.0
		for at := i * t.n; at < (i+1)*t.n; at++ {
			if part := t.let[at]; part >= 0 {
				if !t.Firm[at] {
					part += give * max(0, 1-part)
				}
				out[at] = part * best[at]
				held, through = held+best[at], through+out[at]
			}
		}
		weight := 1.0
		if held > 0 {
			weight = through / held
		}
		for at := i * t.n; at < (i+1)*t.n; at++ {
			if t.let[at] < 0 {
				out[at] = without[at] + weight*(best[at]-without[at])
			}
		}
	}
	return out
}

// gated reports whether something is held back from i to j.
func (t *tick) gated(i, j int) bool { return t.let != nil && t.let[i*t.n+j] >= 0 }

// over reports whether a row sends a cluster that comes back more than it is let have.
func (t *tick) over(i int, row, want []float64) bool {
	for j := range row {
		if t.gated(i, j) && row[j] > overBy*want[j]+overLeft {
			return true
		}
	}
	return false
}

// ramp is the part that a cluster gets back, so long after it came back.
func ramp(back time.Duration) float64 {
	return min(1, failbackLeast+(1-failbackLeast)*float64(back)/float64(FailbackTime))
}

// part is what j counts for of what it could serve: less while it is taken out of use, or has come back a short while ago. The latter
// gives way where others have no room.
func (t *tick) part(j int) float64 {
	back := ramp(t.next.Back[j])
	return (back + t.give*(1-back)) * (1 - min(max(t.Reports[j].Draining, 0), 1))
}

// stretch lets clusters that came back have more, and reports whether there is one that did not have all it could.
func (t *tick) stretch(give float64) (some bool) {
	t.give = give
	for j := range t.problem.Sinks {
		if k := &t.problem.Sinks[j]; k.Lanes > 0 {
			k.Lanes = t.Reports[j].Capacity * t.Reports[j].Service * t.part(j)
			some = some || t.next.Back[j] < FailbackTime
		}
	}
	return some
}

// asksTooMuch reports whether sink j is asked for more than it should be, as far as that is no doubtful word.
func (t *tick) asksTooMuch(f Flow, j int) bool {
	load := 0.0
	for i := range t.n {
		load += f[i*t.n+j]
	}
	c := t.problem.Sinks[j].capacity()
	return c > 0 && load > Full*c && !t.Reports[j].Source.Doubtful()
}

// fill notes which sinks are, with the split in force.
func (t *tick) fill() {
	t.full = make([]bool, t.n)
	now := t.flow(t.next.X)
	for j := range t.full {
		t.full[j] = t.asksTooMuch(now, j)
	}
}

// freezes reports whether what i sends to j neither grows nor falls: j can be reached and has room by what it said last, and no more is
// known of it. A word on others would else move what goes there, and nothing could move it back.
func (t *tick) freezes(i, j int) bool {
	return j != i && t.Reports[j].Age > StaleAfter && !t.fresh && t.usable(i, j) && t.Reports[j].Draining <= 0 && !t.gated(i, j) && !t.full[j]
}
