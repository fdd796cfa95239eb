// Package drain is what isthmus drain and undrain do when their flags are read: they ask for a plan, say it, begin, and follow
// to the end. Its one idea is that the drain is not theirs: they look at it, and may be stopped and come again.
//
// It knows no flags and finds no cluster (package cli does), and decides nothing about the mesh. Read Run.
package drain

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/api"
	"github.com/isthmus-mesh/isthmus/api/drains"
	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Every is how often a drain that is followed is looked at.
const Every = 500 * time.Millisecond

// Terms are what a command works with. All are required.
type Terms struct {
	Out, Err io.Writer
	// Progress says that Err is a terminal.
	Progress bool
	// Plain says that people read Out; else Value prints what is for machines.
	Plain bool
	Value func(any) error
	// Table prints a head and rows; a cell that begins with Bad is marked.
	Table func(head []string, rows [][]string) error
	Bad   string
	Now   func() time.Time
	// Timeout is how long a call may take, and how long nothing may be heard of a drain that is followed.
	Timeout time.Duration
}

// Keeper is the cluster that is asked.
type Keeper struct {
	Cluster string
	Client  *api.Client
}

// ErrFindings ends a command that has printed why it came to nothing.
var ErrFindings = errors.New("findings")

// Run asks for it, says who takes over, and follows it.
func Run(ctx context.Context, a *Terms, t Keeper, ask drains.Ask, wait bool) error {
	plan, err := a.askDrain(ctx, t, drains.Ask{Target: ask.Target, Goal: ask.Goal, Over: ask.Over, Force: ask.Force, DryRun: true})
	if err != nil {
		return err
	}
	refused := plan.Plan != nil && len(plan.Plan.Problems) > 0 && !ask.Force
	if a.Plain {
		if err := a.printPlan(plan, ask); err != nil {
			return err
		}
	} else if ask.DryRun || refused {
		if err := a.Value(plan); err != nil {
			return err
		}
	}
	switch {
	case refused && ask.DryRun:
		fmt.Fprintf(a.Err, "%s would not be drained\n", plan.State.Target)
		return ErrFindings
	case refused:
		fmt.Fprintf(a.Err, "%s is not drained; add capacity, or drain with --force\n", plan.State.Target)
		return ErrFindings
	case ask.DryRun:
		return nil
	}
	begun, err := a.askDrain(ctx, t, ask)
	if err != nil {
		return err
	}
	if wait && !settled(begun) {
		begun.State, err = a.followDrain(ctx, t, begun.State)
	}
	return a.drainEnd(begun, ask, err)
}

// settled reports whether there is nothing to follow.
func settled(d *drains.Answer) bool { return d.State.Done || d.Attached && d.State.Share >= 1 }

// drainEnd says how it ended.
func (a *Terms) drainEnd(d *drains.Answer, ask drains.Ask, failed error) error {
	s := d.State
	if !a.Plain && (failed == nil || errors.Is(failed, ErrFindings)) {
		if err := a.Value(d); err != nil {
			return err
		}
		return failed
	}
	switch {
	case errors.Is(failed, ErrFindings):
		fmt.Fprintf(a.Err, "%s: %s\n", s.Target, s.Reason)
	case failed != nil:
	case !settled(d):
		fmt.Fprintf(a.Out, "%s: %s\n", s.Target, Text(s, a.Now()))
	case ask.Goal == mesh.GoalDrained:
		fmt.Fprintf(a.Out, "%s is drained: nothing is sent there while another can serve. isthmus undrain %s takes it back\n", s.Target, s.Target)
	default:
		fmt.Fprintf(a.Out, "%s serves its whole part\n", s.Target)
	}
	return failed
}

func (a *Terms) askDrain(ctx context.Context, t Keeper, ask drains.Ask) (*drains.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, a.Timeout)
	defer cancel()
	body, err := json.Marshal(ask)
	if err != nil {
		return nil, err
	}
	out := &drains.Answer{}
	if err := t.Client.Do(ctx, http.MethodPost, "/v1/drains", bytes.NewReader(body), "application/json", out); err != nil {
		return nil, fmt.Errorf("cluster %s: %w", t.Cluster, err)
	}
	return out, nil
}

// followDrain returns when a drain has reached its goal. The error is ErrFindings when it was turned round or taken away.
func (a *Terms) followDrain(ctx context.Context, t Keeper, s drains.State) (drains.State, error) {
	tick := time.NewTicker(Every)
	defer tick.Stop()
	heard, missed := a.Now(), 0
	clear := func() {}
	if a.Progress {
		clear = func() { fmt.Fprint(a.Err, "\r\x1b[K") }
	}
	defer func() { clear() }()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			clear()
			fmt.Fprintf(a.Err, "%s: this goes on; the same command follows it again\n", s.Target)
			return s, fmt.Errorf("stopped while %s", Text(s, a.Now()))
		}
		all, err := List(ctx, t.Client)
		if err != nil {
			if a.Now().Sub(heard) > a.Timeout && ctx.Err() == nil {
				return s, fmt.Errorf("follow %s: %w; it goes on", s.Target, err)
			}
			continue
		}
		heard = a.Now()
		i := slices.IndexFunc(all, func(d drains.State) bool { return d.Target == s.Target })
		if i < 0 {
			if missed++; missed <= missedMax {
				continue // it was written and is not read yet
			}
			s.Reason = "its Drain object was deleted: it gets its whole part"
			return s, ErrFindings
		}
		missed = missedMax
		now := all[i]
		switch {
		case now.Since.Before(s.Since):
			continue // what was before it
		case now.Goal != s.Goal:
			if s = now; s.Reason == "" {
				s.Reason = "somebody turned it round"
			}
			return s, ErrFindings
		case now.Done:
			return now, nil
		}
		s = now
		if a.Progress {
			clear()
			fmt.Fprintf(a.Err, "%s: %s", s.Target, Text(s, a.Now()))
		}
	}
}

// List is what a control plane knows of drains.
func List(ctx context.Context, c *api.Client) ([]drains.State, error) {
	ctx, cancel := context.WithTimeout(ctx, answerMax)
	defer cancel()
	var out struct{ Drains []drains.State }
	err := c.Do(ctx, http.MethodGet, "/v1/drains", nil, "", &out)
	return out.Drains, err
}

// Known is List for who can do without: an older control plane has none.
func Known(ctx context.Context, c *api.Client) []drains.State {
	out, err := List(ctx, c)
	if err != nil {
		return nil
	}
	return out
}

// Text is where a drain stands, in words.
func Text(s drains.State, now time.Time) string {
	left := ""
	if !s.Done {
		left = ", " + s.Ends.Sub(now).Round(time.Second).String() + " left"
	}
	switch {
	case s.Goal == mesh.GoalDrained && s.Done:
		return "drained"
	case s.Goal == mesh.GoalDrained:
		return fmt.Sprintf("being drained, %.0f%% of its part%s", 100*s.Share, left)
	case s.Done:
		return "serves its whole part"
	}
	return fmt.Sprintf("coming back, %.0f%% of its part%s", 100*s.Share, left)
}

// Lines say what is drained, each target once: as the cluster says that knows the newest.
func Lines(w io.Writer, all []drains.State, now time.Time) {
	newest := map[string]drains.State{}
	for _, d := range all {
		if o, ok := newest[d.Target]; !ok || d.Since.After(o.Since) {
			newest[d.Target] = d
		}
	}
	var lines []string
	for _, d := range newest {
		if d.Goal == mesh.GoalServing && d.Done {
			continue
		}
		line := d.Target + ": " + Text(d, now)
		if d.Reason != "" {
			line += " (" + d.Reason + ")"
		}
		lines = append(lines, line)
	}
	if slices.Sort(lines); len(lines) > 0 {
		fmt.Fprintf(w, "\n%s\n", strings.Join(lines, "\n"))
	}
}

// printPlan says who takes over.
func (a *Terms) printPlan(d *drains.Answer, ask drains.Ask) error {
	if d.Attached && !(ask.Goal == mesh.GoalServing && d.State.Share >= 1) {
		fmt.Fprintf(a.Out, "%s: %s already\n", d.State.Target, Text(d.State, a.Now()))
		return nil
	}
	p := d.Plan
	if p == nil {
		return nil
	}
	if len(p.Receivers) > 0 {
		var rows [][]string
		for _, r := range p.Receivers {
			then := percentText(r.UtilisationThen)
			if r.UtilisationThen > drains.Full {
				then = a.Bad + then
			}
			if r.Source != "" && r.Source != mesh.CapacityDeclared.String() && r.UtilisationThen >= 0 {
				then += " (" + r.Source + ")"
			}
			rows = append(rows, []string{r.Service, r.Cluster, fmt.Sprintf("%.1f", r.Now), fmt.Sprintf("%.1f", r.Then), percentText(r.UtilisationNow), then})
		}
		if err := a.Table([]string{"SERVICE", "CLUSTER", "REQUESTS/S", "THEN", "UTILISATION", "THEN"}, rows); err != nil {
			return err
		}
	} else if len(p.Problems) == 0 {
		fmt.Fprintln(a.Out, "nobody gets more to do that is known of")
	}
	for _, w := range p.Warnings {
		fmt.Fprintln(a.Err, "warning: "+w)
	}
	for _, x := range p.Problems {
		fmt.Fprintln(a.Err, x)
	}
	return nil
}

func percentText(rho float64) string {
	if rho < 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f%%", 100*rho)
}

// missedMax is in how many looks a drain may not be there yet that was begun.
const missedMax = 10

// answerMax is how long one look may take.
const answerMax = 2 * time.Second

// Of says of a Drain object what it is of, and the part that the target gets now; false if it is none.
func Of(text json.RawMessage, now time.Time) (target, share string, ok bool) {
	r := manifest.Parse("drain", text, manifest.Options{Stored: true})
	if len(r.Objects) != 1 {
		return "", "", false
	}
	d, ok := r.Objects[0].Value.(*mesh.Drain)
	if !ok {
		return "", "", false
	}
	ramp := d.Ramp()
	return d.Target.String(), percentText(ramp.At(now.UnixNano())), true
}
