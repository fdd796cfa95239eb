// Package events is what isthmus events does when its flags are read: it asks clusters what they did by themselves, puts the
// answers in one order, and goes on asking if it is told to. Its one idea is that each cluster is asked after the last that was
// heard of it, so that nothing is shown twice, and what was lost meanwhile is said.
//
// It knows no flags and finds no cluster (package cli does). Read Run.
package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/api/events"
	"github.com/isthmus-mesh/isthmus/core/event"
)

// Every is how often clusters are asked while they are followed.
const Every = time.Second

// Answer is what a cluster says.
type Answer = events.Answer

// KindNames are the kinds of events, for people.
func KindNames() string { return events.KindNames() }

// Check reports every fault of what is asked for.
func Check(f event.Filter, since string, now time.Time) error {
	if _, faults := events.Parse(events.Query(f, since), now); len(faults) > 0 {
		return fmt.Errorf("list events: %s", strings.Join(faults, "; "))
	}
	return nil
}

// Said is what a cluster answered, or why it did not.
type Said struct {
	Cluster string
	Answer
	Err error
	// Problem is Err for machines; Run sets it.
	Problem string
}

// Terms are what the command works with. All are required.
type Terms struct {
	Out, Err io.Writer
	// Plain says that people read Out; else Value prints what is for machines.
	Plain bool
	Value func(any) error
	// Ask asks every cluster that is wanted, each with a query of its own.
	Ask func(context.Context, func(cluster string) url.Values) []Said
	// Follow goes on until the context ends.
	Follow bool
}

// ErrFindings ends a command that has printed which clusters did not answer.
var ErrFindings = errors.New("findings")

// Run prints what is wanted, the oldest first. It is ErrFindings when a cluster did not answer: what it did is missing then.
func Run(ctx context.Context, t *Terms, f event.Filter, since string) error {
	known := map[string]*follower{}
	said := t.Ask(ctx, func(string) url.Values { return events.Query(f, since) })
	missing := t.hear(known, said)
	if !t.Follow && !t.Plain {
		return errors.Join(t.Value(struct {
			Events   []event.Event `json:"events"`
			Clusters []remembers   `json:"clusters"`
		}{merged(said), beside(said)}), missing)
	}
	if err := t.print(merged(said)); err != nil || !t.Follow {
		return errors.Join(err, missing)
	}
	tick := time.NewTicker(Every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		said := t.Ask(ctx, func(cluster string) url.Values {
			own := f
			if k := known[cluster]; k != nil {
				if own.After = k.last; k.met {
					return events.Query(own, "")
				}
			}
			return events.Query(own, since)
		})
		if ctx.Err() != nil {
			return nil
		}
		_ = t.hear(known, said)
		if err := t.print(merged(said)); err != nil {
			return err
		}
	}
}

// follower is what was heard of one cluster.
type follower struct {
	met     bool
	started time.Time
	last    uint64
	problem string
}

// hear notes how far clusters are, says what is missing, and takes out what was shown already. The error is ErrFindings when a
// cluster did not answer.
func (t *Terms) hear(known map[string]*follower, said []Said) (missing error) {
	for i := range said {
		s := &said[i]
		k := known[s.Cluster]
		if k == nil {
			k = &follower{}
			known[s.Cluster] = k
		}
		if s.Err != nil {
			missing, s.Problem = ErrFindings, s.Err.Error()
			if k.problem == "" { // once until it answers again
				fmt.Fprintf(t.Err, "%s: %v\n", s.Cluster, s.Err)
			}
			k.problem = s.Problem
			continue
		}
		switch {
		case k.problem != "" && k.met:
			fmt.Fprintf(t.Err, "%s: it answers again\n", s.Cluster)
		case s.Cut:
			fmt.Fprintf(t.Err, "%s: there are older ones than are shown; ask for a later --since\n", s.Cluster)
		}
		if k.met && !k.started.Equal(s.Started) {
			// Its numbers began anew; what was asked for after the old ones is not all.
			s.Events, s.Last = nil, 0
			fmt.Fprintf(t.Err, "%s: its control plane, or the replica that answers, is another process: events of the one before are gone\n", s.Cluster)
		} else if k.met && k.last > 0 && s.Oldest > k.last+1 {
			fmt.Fprintf(t.Err, "%s: %d events were too fast to be shown\n", s.Cluster, s.Oldest-k.last-1)
		}
		*k = follower{met: true, started: s.Started, last: s.Last}
	}
	return missing
}

func merged(said []Said) []event.Event {
	lists := [][]event.Event{{}} // none is an empty list for machines
	for i := range said {
		lists = append(lists, said[i].Events)
	}
	return event.Merge(lists...)
}

// remembers is what is to be said of a cluster beside its events.
type remembers struct {
	Cluster string    `json:"cluster"`
	Started time.Time `json:"started,omitzero"`
	Oldest  uint64    `json:"oldest,omitempty"`
	Last    uint64    `json:"last,omitempty"`
	Cut     bool      `json:"cut,omitempty"`
	Problem string    `json:"problem,omitempty"`
}

func beside(said []Said) (out []remembers) {
	for _, s := range said {
		out = append(out, remembers{s.Cluster, s.Started, s.Oldest, s.Last, s.Cut, s.Problem})
	}
	return out
}

// print writes events: for machines, who follow, a JSON object a line.
func (t *Terms) print(all []event.Event) error {
	for i := range all {
		e := &all[i]
		if !t.Plain {
			enc := json.NewEncoder(t.Out)
			enc.SetEscapeHTML(false)
			if err := enc.Encode(e); err != nil {
				return err
			}
			continue
		}
		if _, err := io.WriteString(t.Out, Text(e)); err != nil {
			return err
		}
	}
	return nil
}

// Text is an event for people, on three lines or four.
func Text(e *event.Event) string {
	text := fmt.Sprintf("%s  %s #%d  %s %s: %s\n    because  %s\n    so       %s\n", e.Time.UTC().Format("2006-01-02 15:04:05.000Z"), e.Cluster, e.Seq, e.Kind, e.Subject, e.Reason, e.Cause, e.Effect)
	if e.Because > 0 {
		text = fmt.Sprintf("%s    follows  #%d of %s\n", text, e.Because, e.Cluster)
	}
	if e.Unwritten > 0 {
		text = fmt.Sprintf("%s    before   %d like it came too fast to be written down\n", text, e.Unwritten)
	}
	return text
}
