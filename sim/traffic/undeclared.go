package traffic

import (
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/core/capacity"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// watched is what an endpoint's server proxy learns of an application that declares no lanes, and counted since it last looked.
type watched struct {
	learner capacity.Learner
	took    int64 // nanoseconds, with what was waited
	ended   int
	refused bool
}

// learnCapacity is measureCapacity where endpoints declare nothing, as dataplane/load and control/load have it.
func (c *plane) learnCapacity() {
	w := c.p.w
	var sum capacity.Sum
	c.places, c.waited = 0, -1
	waited, ended := 0.0, 0
	for _, at := range w.regions[c.i].endpoints {
		e := &w.endpoints[at]
		if c.gone(e) {
			continue
		}
		c.places++
		s := e.watched.learner.Look(capacity.Window{Over: c.since, Answered: float64(e.watched.ended), Took: time.Duration(e.watched.took),
			There: float64(e.meter.InFlight()), Refused: e.watched.refused})
		if s.Wait >= 0 {
			waited, ended = waited+s.Wait.Seconds()*float64(e.watched.ended), ended+e.watched.ended
		}
		e.watched.took, e.watched.ended, e.watched.refused = 0, 0, false
		sum.Says(mesh.CapacityLearnt, s.Rate, s.Sure, s.Time.Seconds())
	}
	if ended > 0 {
		c.waited = waited / float64(ended)
	}
	rate, lanes, source := sum.Bears(c.places, c.own.Source)
	if source != c.own.Source {
		c.own.Capacity = 0
	}
	if c.own.Source = source; rate > 0 {
		c.own.Learns(rate, lanes)
	}
}

// knows completes what is known where endpoints declare nothing; false is that nothing is, so that there is no split.
func (c *plane) knows() bool {
	if !c.p.undeclared {
		return true
	}
	places := make([]float64, len(c.p.planes))
	for j := range places {
		places[j] = c.p.planes[j].places
	}
	split.Assume(&c.in, places)
	if slices.ContainsFunc(c.in.Reports, func(r split.Report) bool { return r.Capacity > 0 }) {
		return true
	}
	c.state = split.State{}
	for _, k := range c.p.w.regions[c.i].proxies {
		if v := c.p.proxies[k].view; v != nil {
			v.SetSplit(nil, c.p.w.now+1)
		}
	}
	return false
}
