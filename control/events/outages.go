package events

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/core/event"
	"github.com/isthmus-mesh/isthmus/core/outage"
	"github.com/isthmus-mesh/isthmus/mesh"
)

const (
	// settle is how long a new outage waits until it is written: proxies report each half second, and one event says how many
	// of them found it.
	settle = time.Second
	// unheard is after what time without a report a proxy leaves nothing out: one that does reports each 4 s at least.
	unheard = 15 * time.Second
	// placesMax and proxiesMax bound what is followed: beyond, who is new is not.
	placesMax, proxiesMax = 4096, 20_000
	// namedMost is how many endpoints one event names.
	namedMost = 4
)

// leftOut is what proxies leave out by themselves.
type leftOut struct {
	proxies map[string]*proxySays
	places  map[outage.Place]*place
}

func newLeftOut() leftOut {
	return leftOut{proxies: map[string]*proxySays{}, places: map[outage.Place]*place{}}
}

// proxySays is what a proxy's newest report says: what it leaves out, and what it would try again with its next request.
type proxySays struct {
	at         time.Time
	out, trial []outage.Place
	more       int
}

// place is what is known of one place.
type place struct {
	first time.Time
	why   outage.Why
	// by are the proxies that took it out, until the event is written; most is how many ever left it out.
	by   map[string]bool
	most int
	// out and trial are how many leave it out and would try it, as of the newest look.
	out, trial int
	// answered says that a request of some proxy succeeded, and nobody took it out since.
	answered bool
	// told says that it was written down, event is that, 0 if it was one too many.
	told  bool
	event uint64
}

// over reports whether nobody leaves it out any longer. Who has only had no request for it since may not keep it from being over,
// where a request of another succeeded.
func (p *place) over() bool { return p.told && p.out == 0 && (p.answered || p.trial == 0) }

// LeftOut takes what a proxy says that it leaves out; it replaces what it said before.
func (r *Recorder) LeftOut(node string, report outage.Report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l, now := &r.left, r.cfg.Clock.Now()
	was := l.proxies[node]
	if was == nil {
		if len(report.Outages) == 0 || len(l.proxies) >= proxiesMax {
			return
		}
		was = &proxySays{}
	}
	is := &proxySays{at: now, more: report.More}
	for _, o := range report.Outages {
		wasOut, wasTrial := slices.Contains(was.out, o.Place), slices.Contains(was.trial, o.Place)
		if o.State == outage.Trial {
			is.trial = append(is.trial, o.Place)
			continue
		}
		p := l.places[o.Place]
		if p == nil {
			if len(l.places) >= placesMax || o.State == outage.Over && (wasOut || wasTrial) { // that it is over was told
				continue
			}
			p = &place{first: now, by: map[string]bool{}}
			l.places[o.Place] = p
		}
		if !p.told {
			p.by[node], p.why = true, o.Why
		}
		switch {
		case o.State == outage.Over:
			p.answered = true
		default:
			is.out = append(is.out, o.Place)
			p.answered = p.answered && wasOut
		}
	}
	if l.proxies[node] = is; len(is.out)+len(is.trial) == 0 {
		delete(l.proxies, node)
	}
}

// recount forgets proxies that are not heard, and counts who leaves out what.
func (l *leftOut) recount(now time.Time) {
	for _, p := range l.places {
		p.out, p.trial = 0, 0
	}
	for n, says := range l.proxies {
		if now.Sub(says.at) >= unheard {
			delete(l.proxies, n)
			continue
		}
		for _, at := range says.out {
			if p := l.places[at]; p != nil {
				p.out++
			}
		}
		for _, at := range says.trial {
			if p := l.places[at]; p != nil {
				p.trial++
			}
		}
	}
	for _, p := range l.places {
		p.most = max(p.most, p.out)
	}
}

// lot are places of one service and cluster of which the same is to be said.
type lot struct {
	service mesh.ServiceName
	cluster mesh.ClusterName
	trip    bool
	why     outage.Why
	over    bool
	// answered and because are those of what is over.
	answered bool
	because  uint64
}

// seeLeftOut writes what is new and what is over, endpoints of one service and cluster together. The caller holds mu.
func (r *Recorder) seeLeftOut() {
	l, now := &r.left, r.cfg.Clock.Now()
	l.recount(now)
	fresh, over := map[lot][]outage.Place{}, map[lot][]outage.Place{}
	for at, p := range l.places {
		k := lot{service: at.Service, cluster: at.Cluster, trip: at.Endpoint == "", why: p.why}
		if !p.told && now.Sub(p.first) >= settle {
			fresh[k] = append(fresh[k], at)
		}
	}
	r.writeLots(fresh)
	for at, p := range l.places {
		if p.over() {
			k := lot{service: at.Service, cluster: at.Cluster, trip: at.Endpoint == "", over: true, answered: p.answered, because: p.event}
			over[k] = append(over[k], at)
		}
	}
	r.writeLots(over)
}

// writeLots writes each as one event. The caller holds mu.
func (r *Recorder) writeLots(lots map[lot][]outage.Place) {
	order := slices.SortedFunc(maps.Keys(lots), func(a, b lot) int {
		return cmp.Or(a.service.Compare(b.service), cmp.Compare(a.cluster, b.cluster), cmp.Compare(a.why, b.why), cmp.Compare(a.because, b.because))
	})
	for _, k := range order {
		if k.over {
			r.writeOver(k, lots[k])
		} else {
			r.writeFresh(k, lots[k])
		}
	}
}

// writeFresh says what proxies took out. The caller holds mu.
func (r *Recorder) writeFresh(k lot, at []outage.Place) {
	by := map[string]bool{}
	for _, a := range at {
		maps.Copy(by, r.left.places[a].by)
	}
	e := k.about()
	if k.why == outage.Relieved {
		e.Reason, e.Cause = "fallback_answers", fmt.Sprintf("requests of %s to it failed for good: no place that may serve them did", proxies(len(by)))
		e.Effect = "what its policy says stands in: callers get that, marked isthmus-fallback, and the service is asked first all the same"
		r.tell(e, at)
		return
	}
	e.Because = r.down[k.cluster]
	e.Effect = "their requests go to other endpoints while there are any; it is probed, and tried by one request once it answers"
	what := names(at)
	if k.trip {
		what = "the endpoints"
		e.Reason = "cluster_tripped"
		e.Effect = fmt.Sprintf("their requests for %s go to other clusters than %s while there are any; it is probed, and tried by one request once it answers", e.Subject, k.cluster)
	} else {
		e.Reason = "endpoint_ejected"
	}
	class := "were refused, or found no way, several times in a row: they were never executed"
	switch {
	case k.trip:
		class = "found no way, or were refused by all of them, many in a row: they were never executed"
	case k.why == outage.SuccessRate:
		class = "failed far more often than those to other endpoints"
	case k.why == outage.Unknown:
		class = "failed in a way that this control plane does not know of"
	}
	e.Cause = fmt.Sprintf("requests of %s to %s of %s %s", proxies(len(by)), what, k.cluster, class)
	if more := r.left.more(); more > 0 {
		e.Cause += fmt.Sprintf(" (a report of theirs had no room for %d more)", more)
	}
	r.tell(e, at)
}

// tell writes what is new of places. The caller holds mu.
func (r *Recorder) tell(e event.Event, at []outage.Place) {
	of := r.write(e)
	for _, a := range at {
		p := r.left.places[a]
		p.told, p.event, p.by, p.most = true, of, nil, max(p.most, len(p.by))
	}
}

// writeOver says what no proxy leaves out any longer. The caller holds mu.
func (r *Recorder) writeOver(k lot, at []outage.Place) {
	most := 0
	for _, a := range at {
		most = max(most, r.left.places[a].most)
		delete(r.left.places, a)
	}
	e := k.about()
	e.Because = k.because
	what := names(at) + " of " + string(k.cluster)
	if e.Reason = "endpoint_back"; k.trip {
		e.Reason, what = "cluster_back", string(k.cluster)
	}
	switch {
	case k.cluster == "":
		e.Reason, e.Cause, e.Effect = "fallback_rests", fmt.Sprintf("no request of the %s that it answered at most has needed it for ten seconds", proxies(most)), "answers are the service's own"
	case k.answered:
		e.Cause, e.Effect = fmt.Sprintf("requests that tried %s succeeded; %s had left it out at most", what, proxies(most)), "it gets requests again; who has not tried it since does so with one request"
	default:
		e.Reason = strings.Replace(e.Reason, "_back", "_forgotten", 1)
		e.Cause, e.Effect = fmt.Sprintf("no proxy says any longer that it leaves %s out: it is offered no more, or who left it out stopped or does not report", what), "nothing is known of it"
	}
	r.write(e)
}

// about is an event of such places.
func (k lot) about() event.Event {
	e := event.Event{Kind: event.Endpoint, Subject: k.service.Name + "." + k.service.Namespace, Clusters: []mesh.ClusterName{k.cluster}}
	switch {
	case k.cluster == "":
		e.Kind, e.Clusters = event.Fallback, nil
	case k.trip:
		e.Kind = event.Trip
	}
	return e
}

// more is the most that a report had no room for.
func (l *leftOut) more() (most int) {
	for _, p := range l.proxies {
		most = max(most, p.more)
	}
	return most
}

func proxies(n int) string {
	if n == 1 {
		return "1 proxy"
	}
	return fmt.Sprint(n, " proxies")
}

// names are endpoints for people.
func names(at []outage.Place) string {
	var out []string
	for _, a := range at {
		out = append(out, a.Endpoint)
	}
	slices.Sort(out)
	if n := len(out) - namedMost; n > 0 {
		out = append(out[:namedMost], fmt.Sprintf("%d more", n))
	}
	return strings.Join(out, ", ")
}
