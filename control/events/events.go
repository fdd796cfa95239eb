// Package events writes down what a control plane does by itself, with cause and effect, for people who ask why traffic moved.
// Its one idea is that nothing depends on it: who decides tells it, or it looks at what was decided, and its memory is bounded
// and ends with the process.
//
// It decides nothing and sends nothing (package api/events answers people). Read Recorder.
package events

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/control/drain"
	"github.com/isthmus-mesh/isthmus/core/event"
	"github.com/isthmus-mesh/isthmus/core/liveness"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
)

const (
	// every is how often what nobody tells is looked at.
	every = 500 * time.Millisecond
	// eventsMax bounds what is kept: some kilobytes of text each hundred.
	eventsMax = 2048
	// refusedMax bounds the resources of which it is remembered that they are refused.
	refusedMax = 4096
	// listMax bounds one answer.
	listMax = 1000
	// startGrace is how long a start may take before a peer that is not heard is an event.
	startGrace = 10 * time.Second
)

// Link is what is seen of the control stream of one peer.
type Link struct {
	Cluster mesh.ClusterName
	Lease   liveness.Lease
	// Met says that it was heard since this process began.
	Met bool
	// Down says that its gateways are not reached either; Err is why there is no session, nil while there is one.
	Down bool
	Err  error
}

// Seen is what is looked at.
type Seen struct {
	Links  []Link
	Drains []drain.State
	Bundle mesh.Bundle
	// Epoch is that of the own history; zero while it is not known.
	Epoch mesh.Epoch
}

// Config is what a Recorder works with. All fields but Serves are required.
type Config struct {
	Cluster mesh.ClusterName
	Look    func() Seen
	// Serves is how many services a cluster offers here; nil is not said.
	Serves func(mesh.ClusterName) int
	Clock  clock.Clock
}

// Recorder keeps the newest events of one control plane's process. It is safe for concurrent use; what it is told it takes
// without waiting for anybody.
type Recorder struct {
	cfg     Config
	started time.Time

	mu     sync.Mutex
	ring   event.Ring
	damper event.Damper
	// down is the event by which the path to a peer was lost (0: one too many to be written); a peer that is reached has none.
	// back is the event by which it was found again.
	down, back map[mesh.ClusterName]uint64
	// detours are the events by which ways through third clusters began.
	detours map[mesh.ClusterName]uint64
	links   map[mesh.ClusterName]*link
	leaving map[mesh.ClusterName]int
	splits  map[mesh.ServiceName]*spread
	// ways are clusters on their way back, each with the last event of it.
	ways   map[way]uint64
	drains map[string]*drained
	// refused are the resources that proxies refuse, each with its event.
	refused map[string]uint64
	left    leftOut
	bundle  mesh.Bundle
	epoch   mesh.Epoch
}

// New returns a recorder that remembers the start and nothing from before.
func New(cfg Config) *Recorder {
	r := &Recorder{cfg: cfg, started: cfg.Clock.Now(), ring: event.Ring{Max: eventsMax}, down: map[mesh.ClusterName]uint64{}, back: map[mesh.ClusterName]uint64{}, detours: map[mesh.ClusterName]uint64{}, links: map[mesh.ClusterName]*link{},
		leaving: map[mesh.ClusterName]int{}, splits: map[mesh.ServiceName]*spread{}, ways: map[way]uint64{}, drains: map[string]*drained{}, refused: map[string]uint64{}, left: newLeftOut()}
	r.write(event.Event{Kind: event.Process, Subject: string(cfg.Cluster), Reason: "started", Cause: "this process of the control plane was started",
		Effect: "events are remembered from here on; those of a process before it are gone"})
	return r
}

// write notes an event, now, and returns its number: 0 if there were too many like it. The caller holds mu, or is New.
func (r *Recorder) write(e event.Event) uint64 {
	e.Time, e.Cluster = r.cfg.Clock.Now().UTC(), r.cfg.Cluster
	if !r.damper.Pass(&e) {
		return 0
	}
	return r.ring.Add(e)
}

// Run looks until ctx ends.
func (r *Recorder) Run(ctx context.Context) error {
	return clock.Every(ctx, r.cfg.Clock, every, func(context.Context) error {
		r.look(r.cfg.Look())
		return nil
	})
}

func (r *Recorder) look(s Seen) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seeLinks(s.Links)
	r.seeDrains(s.Drains)
	r.seeBundle(s.Bundle)
	r.seeEpoch(s.Epoch)
	r.seeLeftOut()
}

// Answer is what is remembered.
type Answer struct {
	Cluster mesh.ClusterName `json:"cluster"`
	// Started is when this process began: of what was before nothing is known.
	Started time.Time `json:"started"`
	// Last is the newest number, to go on after; Oldest is the oldest that is kept.
	Last   uint64 `json:"last"`
	Oldest uint64 `json:"oldest"`
	// Cut says that there are older ones of those that were asked for, beyond what one answer holds.
	Cut    bool          `json:"cut,omitempty"`
	Events []event.Event `json:"events"`
}

// List answers what is wanted, the oldest first. Events that those of a service follow from come along.
func (r *Recorder) List(f event.Filter) Answer {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := Answer{Cluster: r.cfg.Cluster, Started: r.started.UTC(), Last: r.ring.Last(), Oldest: r.ring.Oldest()}
	a.Events, a.Cut = r.ring.List(&f, listMax)
	if f.Service != "" {
		a.Events = r.ring.Causes(a.Events)
	}
	if a.Events == nil {
		a.Events = []event.Event{}
	}
	return a
}

// seeBundle notes changes of the own roots. The caller holds mu.
func (r *Recorder) seeBundle(b mesh.Bundle) {
	before := r.bundle
	r.bundle = b
	if len(before.Roots) == 0 || before.Generation == b.Generation {
		return
	}
	added, gone := 0, 0
	for _, c := range b.Roots {
		if !slices.ContainsFunc(before.Roots, func(o []byte) bool { return slices.Equal(o, c) }) {
			added++
		}
	}
	for _, c := range before.Roots {
		if !slices.ContainsFunc(b.Roots, func(o []byte) bool { return slices.Equal(o, c) }) {
			gone++
		}
	}
	r.write(event.Event{Kind: event.Trust, Subject: string(b.TrustDomain), Reason: "roots_changed",
		Cause:  "the authority changed its roots: " + count(added, "root") + " came, " + count(gone, "root") + " went",
		Effect: "proxies and peers are told to believe " + count(len(b.Roots), "root") + "; requests go on"})
}

// Authority takes what was done to the certificate authority, or found of it.
func (r *Recorder) Authority(td mesh.TrustDomain, reason, cause, effect string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.write(event.Event{Kind: event.Trust, Subject: string(td), Reason: reason, Cause: cause, Effect: effect})
}

// seeEpoch notes that the history began anew. The caller holds mu.
func (r *Recorder) seeEpoch(e mesh.Epoch) {
	before := r.epoch
	if e == before || e == (mesh.Epoch{}) {
		return
	}
	if r.epoch = e; before == (mesh.Epoch{}) {
		return
	}
	r.write(event.Event{Kind: event.Store, Subject: string(r.cfg.Cluster), Reason: "history_began_anew",
		Cause:  "the store was lost, or put back to an earlier state: its history " + before.ID + " is not continued",
		Effect: "history " + e.ID + " counts from now on; peers hold over what the one before stated until it is stated again"})
}

// Recalled takes how many policies were in force here and are written back to a store that had lost them. Of nobody it is nothing.
func (r *Recorder) Recalled(policies int) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.write(event.Event{Kind: event.Store, Subject: string(r.cfg.Cluster), Reason: "policies_recalled",
		Cause:  "the store was lost, or put back to an earlier state, and did not know the policies, or deletions of policies, that were in force here",
		Effect: fmt.Sprintf("they are written back as they were (%d), and were in force all the while", policies)})
}

// Delivered takes how many proxies refuse a resource, after a change of that, and what one of them said.
func (r *Recorder) Delivered(resource string, nodes int, message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before, was := r.refused[resource]
	e := event.Event{Kind: event.Config, Subject: resource}
	switch {
	case nodes > 0 && !was && len(r.refused) < refusedMax:
		e.Reason, e.Cause = "config_refused", fmt.Sprintf("proxies refused it (%d): %s", nodes, message)
		e.Effect = "who refused goes on with the one before; requests go on"
		r.refused[resource] = r.write(e)
	case nodes == 0 && was:
		delete(r.refused, resource)
		e.Reason, e.Cause, e.Effect, e.Because = "config_accepted", "no proxy refuses it any longer", "all act by the newest", before
		r.write(e)
	}
}
