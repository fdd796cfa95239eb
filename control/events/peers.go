package events

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/control/detour"
	"github.com/isthmus-mesh/isthmus/control/verdict"
	"github.com/isthmus-mesh/isthmus/core/event"
	"github.com/isthmus-mesh/isthmus/core/liveness"
	"github.com/isthmus-mesh/isthmus/mesh"
)

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprint(n, " ", what)
}

// Path takes what core/liveness knows of the path to a peer, after a change of it.
func (r *Recorder) Path(n mesh.ClusterName, s liveness.State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before, known := r.down[n]
	if known == s.PathDown {
		return
	}
	e := event.Event{Kind: event.Path, Subject: string(n), Clusters: []mesh.ClusterName{n}, Because: before}
	if !s.PathDown {
		delete(r.down, n)
		e.Reason, e.Cause = "path_back", "its gateways have answered again for long enough"
		e.Effect = fmt.Sprintf("requests from %s may go to %s again; its part grows back as load is measured%s", r.cfg.Cluster, n, r.serves(n))
		r.back[n] = r.write(e)
		return
	}
	delete(r.back, n)
	e.Reason, e.Cause = "path_lost", fmt.Sprintf("its gateways refuse, or are silent: two connections without an answer for %v, and no new one within %v",
		s.ProbeTimeout().Round(time.Millisecond), s.DialTimeout().Round(time.Millisecond))
	e.Effect = fmt.Sprintf("requests from %s go to other clusters than %s%s", r.cfg.Cluster, n, r.serves(n))
	r.down[n] = r.write(e)
}

// serves says how many services that is about.
func (r *Recorder) serves(n mesh.ClusterName) string {
	if r.cfg.Serves == nil {
		return ""
	}
	return " (it offers " + count(r.cfg.Serves(n), "service") + ")"
}

// Leaving takes which gateways of a peer said that they will stop, after a change of it.
func (r *Recorder) Leaving(n mesh.ClusterName, gone []netip.AddrPort) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(gone) == r.leaving[n] {
		return
	}
	r.leaving[n] = len(gone)
	e := event.Event{Kind: event.Gateway, Subject: string(n), Clusters: []mesh.ClusterName{n}, Reason: "gateways_stay",
		Cause: "none of its gateways says any longer that it will stop", Effect: "all of its gateways are used"}
	if len(gone) > 0 {
		var names []string
		for _, a := range gone {
			names = append(names, a.String())
		}
		e.Reason, e.Cause = "gateway_leaving", "it said that it will stop: "+strings.Join(names, ", ")
		e.Effect = "new connections and requests go to its other gateways, or to other clusters if it has none"
	}
	r.write(e)
}

// link is what was seen of a control stream.
type link struct {
	first time.Time
	// met says that its loss is news: it was heard, or the time of a start is over. lost is the event, if one was written.
	met, down bool
	lost      uint64
}

// seeLinks notes control streams that were lost or are back. The caller holds mu.
func (r *Recorder) seeLinks(links []Link) {
	now := r.cfg.Clock.Now()
	seen := map[mesh.ClusterName]bool{}
	for _, l := range links {
		seen[l.Cluster] = true
		was := r.links[l.Cluster]
		if was == nil {
			was = &link{first: now}
			r.links[l.Cluster] = was
		}
		lost := l.Lease == liveness.LeaseLost
		if was.met = was.met || l.Met || now.Sub(was.first) >= startGrace; !was.met || lost == was.down {
			continue
		}
		was.down = lost
		e := event.Event{Kind: event.Link, Subject: string(l.Cluster), Clusters: []mesh.ClusterName{l.Cluster}}
		if !lost {
			e.Because, was.lost = was.lost, 0
			e.Reason, e.Cause, e.Effect = "link_back", "its control plane is heard again", "what it states is followed again; no request moves for that"
			r.write(e)
			continue
		}
		e.Reason, e.Cause = "link_lost", "its control plane was not heard for longer than a lease lasts"
		if l.Err != nil {
			e.Cause += ": " + l.Err.Error()
		}
		e.Effect = "what it said last stays in force and nothing new is learnt; requests go on to it by the path, which was not lost, as long as maxStaleness lets them"
		if l.Down {
			e.Because, e.Effect = r.down[l.Cluster], "what it said last stays in force and nothing new is learnt; its path is lost as well"
		}
		was.lost = r.write(e)
	}
	for n := range r.links {
		if !seen[n] { // it left, or its object was changed: there is nothing to be lost
			delete(r.links, n)
			delete(r.down, n)
			delete(r.back, n)
			delete(r.leaving, n)
		}
	}
}

// Verdict takes that the mesh thinks differently of a cluster.
func (r *Recorder) Verdict(v verdict.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := event.Event{Kind: event.Verdict, Subject: string(v.Cluster), Clusters: []mesh.ClusterName{v.Cluster}, Reason: "verdict_" + strings.ToLower(v.To.String()), Cause: v.Cause,
		Effect: fmt.Sprintf("status says %s where it said %s; requests follow what each cluster reaches itself", v.To, v.From), Because: r.down[v.Cluster]}
	if l := r.links[v.Cluster]; l != nil && e.Because == 0 {
		e.Because = l.lost
	}
	r.write(e)
}

// Detour takes that a way to a cluster through a third began, or ended.
func (r *Recorder) Detour(d detour.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := event.Event{Kind: event.Path, Subject: string(d.To), Clusters: []mesh.ClusterName{d.To, d.By}, Cause: d.Cause, Because: r.down[d.To]}
	switch {
	case d.Began:
		e.Reason = "detour_begun"
		e.Effect = fmt.Sprintf("requests from %s may go to %s by the gateways of %s, which read nothing (round trip %v), where the law of the service lets them pass there%s", r.cfg.Cluster, d.To, d.By, d.RTT, r.serves(d.To))
		r.detours[d.To] = r.write(e)
		return
	case d.Home:
		e.Because, e.Effect = r.back[d.To], fmt.Sprintf("requests to %s go the direct way; what was begun by %s ends there", d.To, d.By)
	default:
		e.Because, e.Effect = r.detours[d.To], fmt.Sprintf("requests from %s go to other clusters than %s, until another way is found", r.cfg.Cluster, d.To)
	}
	delete(r.detours, d.To)
	e.Reason = "detour_ended"
	r.write(e)
}
