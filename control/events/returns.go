package events

import (
	"fmt"
	"time"

	"github.com/isthmus-mesh/isthmus/control/load"
	"github.com/isthmus-mesh/isthmus/core/event"
	"github.com/isthmus-mesh/isthmus/core/failback"
	"github.com/isthmus-mesh/isthmus/core/outage"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// way is a cluster's way back for one service.
type way struct {
	service mesh.ServiceName
	cluster mesh.ClusterName
}

// waysMax bounds the ways back that are followed.
const waysMax = 10_000

// returns writes down what became of clusters on their way back. The caller holds mu.
func (r *Recorder) returns(c *load.Change) {
	for i := range c.Returns {
		m := &c.Returns[i]
		at := way{c.Service, m.Cluster}
		before, known := r.ways[at]
		e := event.Event{Kind: event.Failback, Subject: c.Service.Name + "." + c.Service.Namespace, Clusters: []mesh.ClusterName{m.Cluster}, Because: before}
		part, hold := percent(m.Gate.Part()), m.Gate.Hold.Round(time.Second)
		switch m.Event {
		case failback.Gone:
			if delete(r.ways, at); !known {
				continue // the way there that was lost, what proxies tripped, or the split says so
			}
			e.Reason, e.Cause = "failback_lost", fmt.Sprintf("%s was lost again on its way back", m.Cluster)
			e.Effect = fmt.Sprintf("when it comes back it begins at %s again, and each step takes %v at least", part, hold)
			r.write(e)
			continue
		case failback.Began:
			if !known && len(r.ways) >= waysMax {
				continue
			}
			e.Because = r.back[m.Cluster]
			e.Reason, e.Cause = "failback_begun", fmt.Sprintf("%s was lost and can serve again", m.Cluster)
			if m.Gate.Tripped {
				e.Because, _ = r.trip(at)
				e.Cause = fmt.Sprintf("most proxies that use it had left %s out, and would try it again", m.Cluster)
			}
			e.Effect = fmt.Sprintf("it gets %s of its part, or as much as can be judged, until requests there succeed; each step takes %v at least", part, hold)
		case failback.Passed:
			e.Reason, e.Cause = "failback_step", judged(m)
			e.Effect = fmt.Sprintf("it gets %s of its part, after %s", part, percent(m.From))
		case failback.Waited:
			e.Reason, e.Cause = "failback_step", "time: "+judged(m)+", too few to judge by"
			e.Effect = fmt.Sprintf("it gets %s of its part, after %s", part, percent(m.From))
		case failback.Failed:
			e.Reason, e.Cause = "failback_failed", judged(m)
			e.Effect = fmt.Sprintf("it gets %s of its part, after %s, for %v at least", part, percent(m.From), hold)
		case failback.Ended:
			e.Reason, e.Cause = "failback_ended", judged(m)
			e.Effect = "it gets all of its part, as load decides"
			r.write(e)
			delete(r.ways, at)
			continue
		}
		r.ways[at] = r.write(e)
	}
}

// trip reports whether proxies left a cluster out, and the event that says so, 0 if it is not written yet. The caller holds mu.
func (r *Recorder) trip(at way) (uint64, bool) {
	if p := r.left.places[outage.Place{Service: at.service, Cluster: at.cluster}]; p != nil {
		return p.event, true
	}
	return 0, false
}

func judged(m *failback.Move) string {
	return fmt.Sprintf("of %d requests to %s at %s of its part %d failed", m.Gate.Judged.Ended, m.Cluster, percent(m.From), m.Gate.Judged.Failed)
}
