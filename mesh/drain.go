package mesh

import "time"

// DrainGoal is what a Drain is for.
type DrainGoal string

// The goals of a Drain.
const (
	// GoalDrained: nothing is sent there any more, once its time is over, while another can serve.
	GoalDrained DrainGoal = "Drained"
	// GoalServing: it gets its part back.
	GoalServing DrainGoal = "Serving"
)

// DrainTarget is a part of a cluster that is taken out of use, or all of it where only Cluster is set. At most one of
// the others is.
type DrainTarget struct {
	Cluster ClusterName
	Zone    Zone
	// Workload is one in Namespace.
	Namespace, Workload string
	// Gateway counts the cluster's east-west gateways from 1, in the order of its Cluster object; 0 is none of them.
	Gateway uint32
}

// String is as people type it: "eu-west", "zone/a@eu-west", "gateway/0@eu-west", "catalog-0.shop@eu-west".
func (t DrainTarget) String() string {
	at := "@" + string(t.Cluster)
	switch {
	case t.Zone != "":
		return "zone/" + string(t.Zone) + at
	case t.Workload != "":
		return t.Workload + "." + t.Namespace + at
	case t.Gateway > 0:
		return "gateway/" + decimal(t.Gateway-1) + at
	}
	return string(t.Cluster)
}

func decimal(n uint32) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return decimal(n/10) + string(rune('0'+n%10))
}

// Drain is the intent to take something out of use, or back into it, little by little. What it says at an instant is a function of
// it and of time: every proxy and control plane that knows it agrees, without asking anybody.
type Drain struct {
	Target DrainTarget
	Goal   DrainGoal
	// SinceMillis is when it began, in Unix milliseconds; 0 is long ago. Over is how long it takes.
	SinceMillis int64
	Over        time.Duration
	// From is the part that the target had when it began, in ten thousandths.
	From uint32
	// Force says that it goes on whatever becomes of who takes over.
	Force bool
	// Reason is why, for people.
	Reason string
}

// FailbackLeast is the part of its capacity that a target gets at once when it comes back, in ten thousandths, and
// FailbackTime how long the rest takes.
const (
	FailbackLeast = 1000
	FailbackTime  = 30 * time.Second
)

// Ramp is the part of its requests that the target gets.
func (d *Drain) Ramp() Ramp {
	r := Ramp{SinceMillis: d.SinceMillis, Over: d.Over, From: d.From}
	if d.Goal == GoalServing {
		r.From, r.To = max(d.From, FailbackLeast), AllParts
	}
	return r
}

// Ramp goes from one part to another, in ten thousandths, in a straight line over time.
type Ramp struct {
	SinceMillis int64
	Over        time.Duration
	From, To    uint32
}

// At is the part at an instant, in Unix nanoseconds: from 0 to 1.
func (r *Ramp) At(now int64) float64 {
	gone := now - r.SinceMillis*int64(time.Millisecond)
	from, to := float64(r.From)/AllParts, float64(r.To)/AllParts
	switch {
	case gone >= int64(r.Over):
		return to
	case gone <= 0:
		return from
	}
	return from + (to-from)*float64(gone)/float64(r.Over)
}

// Ramps are all that hold of one thing; the least of them counts, and none is all.
type Ramps []Ramp

// At is the part at an instant, in Unix nanoseconds: from 0 to 1.
func (r Ramps) At(now int64) float64 {
	least := 1.0
	for i := range r {
		least = min(least, r[i].At(now))
	}
	return least
}

// SlotRamps are those of the endpoint behind one slot.
type SlotRamps struct {
	Slot  uint32
	Ramps Ramps
}
