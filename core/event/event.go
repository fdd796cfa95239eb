// Package event is what a control plane writes down of what it did by itself: each Event has a cause and an effect, and a Ring
// keeps the newest. Its one idea is that an event is written where the decision is, with what the decision knew, and says in its
// cause which earlier event it follows from.
//
// It decides nothing, keeps nothing on disk, and orders events of several clusters by their clocks, which may differ.
// Read Event, then Ring.
package event

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Kind is what an event is about.
type Kind string

// The kinds.
const (
	// Process: the control plane began, and remembers nothing from before.
	Process Kind = "process"
	// Path: what this cluster reaches of another changed; requests follow it.
	Path Kind = "path"
	// Gateway: a gateway of another cluster said that it will stop, or stays.
	Gateway Kind = "gateway"
	// Link: the control stream of another cluster was lost, or is there again; no request follows it.
	Link Kind = "link"
	// Verdict: what the mesh says of a cluster changed; no request follows it.
	Verdict Kind = "verdict"
	// Split: the part of a service's requests that goes to each cluster moved.
	Split Kind = "split"
	// Failback: a cluster that was lost is on its way back for a service: a step passed, failed, or was the last.
	Failback Kind = "failback"
	// Endpoint: proxies took endpoints of a service out, or use them again.
	Endpoint Kind = "endpoint"
	// Trip: proxies took a cluster out for a service, or use it again.
	Trip Kind = "trip"
	// Fallback: an answer of its own stands in for a service, or rests.
	Fallback Kind = "fallback"
	// Drain: something is taken out of use, comes back, or was given up.
	Drain Kind = "drain"
	// Config: proxies refuse a resource, or do so no longer.
	Config Kind = "config"
	// Trust: the authority's roots changed, its key was lost or restored, or a person acted on it.
	Trust Kind = "trust"
	// Store: the history of the cluster's objects began anew.
	Store Kind = "store"
)

// Kinds lists them, for help and for faults.
func Kinds() []Kind {
	return []Kind{Process, Path, Gateway, Link, Verdict, Split, Failback, Endpoint, Trip, Fallback, Drain, Config, Trust, Store}
}

// Event is one thing that a control plane did, or found, by itself.
type Event struct {
	// Seq counts the events of one process from 1, without gaps.
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"`
	// Cluster is whose control plane wrote it down.
	Cluster mesh.ClusterName `json:"cluster"`
	Kind    Kind             `json:"kind"`
	// Subject is what it is about: a cluster, a service as NAME.NAMESPACE, or a target of drains.
	Subject string `json:"subject"`
	// Clusters are those that it concerns, beside Cluster.
	Clusters []mesh.ClusterName `json:"clusters,omitempty"`
	// Reason is a word for machines, Cause and Effect are sentences for people.
	Reason string `json:"reason"`
	Cause  string `json:"cause"`
	Effect string `json:"effect"`
	// Because is the Seq of the event that caused it, 0 where none is known.
	Because uint64 `json:"because,omitempty"`
	// Unwritten is how many like it, of the same kind and subject, came before it too fast to be written down.
	Unwritten int `json:"unwritten,omitempty"`
}

// Filter says which events are wanted; what is zero is any.
type Filter struct {
	// Service is NAME.NAMESPACE, or NAME for that of any namespace.
	Service string
	// Cluster is one that the event concerns, or whose control plane wrote it down.
	Cluster mesh.ClusterName
	Kinds   []Kind
	Since   time.Time
	// After is a Seq: only later ones.
	After uint64
}

// Matches reports whether an event is wanted.
func (f *Filter) Matches(e *Event) bool {
	switch {
	case e.Seq <= f.After, e.Time.Before(f.Since), len(f.Kinds) > 0 && !slices.Contains(f.Kinds, e.Kind):
		return false
	case f.Cluster != "" && f.Cluster != e.Cluster && !slices.Contains(e.Clusters, f.Cluster):
		return false
	case f.Service == "":
		return true
	}
	return (e.Kind == Split || e.Kind == Failback || e.Kind == Endpoint || e.Kind == Trip || e.Kind == Fallback) && (e.Subject == f.Service || strings.HasPrefix(e.Subject, f.Service+"."))
}

// Merge puts events of several clusters in one order: by time, then by cluster and Seq. Those of one cluster stay in the order
// in which they happened as far as its clock did not go back.
func Merge(lists ...[]Event) []Event {
	out := slices.Concat(lists...)
	slices.SortStableFunc(out, func(a, b Event) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Seq, b.Seq))
	})
	return out
}

// Ring keeps the newest events, Max of them at most. It is not safe for concurrent use.
type Ring struct {
	// Max is at least 1.
	Max    int
	events []Event // a circle once it is full
	last   uint64
}

// Add writes an event down and returns its Seq. The oldest makes room.
func (r *Ring) Add(e Event) uint64 {
	r.last++
	e.Seq = r.last
	if len(r.events) < r.Max {
		r.events = append(r.events, e)
	} else {
		r.events[(e.Seq-1)%uint64(r.Max)] = e
	}
	return e.Seq
}

// Last is the newest Seq, 0 before the first.
func (r *Ring) Last() uint64 { return r.last }

// Oldest is the Seq of the oldest event that is kept, 0 before the first.
func (r *Ring) Oldest() uint64 {
	if r.last == 0 {
		return 0
	}
	return r.last - uint64(len(r.events)) + 1
}

// List is what is wanted, the oldest first. Of more than limit (0 is no limit) the newest are given, and cut says that older
// ones were left out.
func (r *Ring) List(f *Filter, limit int) (out []Event, cut bool) {
	for seq := r.last; seq >= max(r.Oldest(), f.After+1) && seq > 0; seq-- {
		e := &r.events[(seq-1)%uint64(r.Max)]
		if !f.Matches(e) {
			continue
		}
		if limit > 0 && len(out) == limit {
			cut = true
			break
		}
		out = append(out, *e)
	}
	slices.Reverse(out)
	return out, cut
}

// Causes adds to events of this ring, the oldest first, those that they follow from, as far as they are kept.
func (r *Ring) Causes(events []Event) []Event {
	have := make(map[uint64]bool, len(events))
	for i := range events {
		have[events[i].Seq] = true
	}
	for i := 0; i < len(events); i++ { // also of those that are added
		if seq := events[i].Because; seq > 0 && seq >= r.Oldest() && seq <= r.last && !have[seq] {
			have[seq] = true
			events = append(events, r.events[(seq-1)%uint64(r.Max)])
		}
	}
	slices.SortFunc(events, func(a, b Event) int { return cmp.Compare(a.Seq, b.Seq) })
	return events
}
