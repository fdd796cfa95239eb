package cli_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/api/drains"
	"github.com/isthmus-mesh/isthmus/control/drain"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// keeper is what answers for a control plane: what it was asked, what it says of the plan, and what it lists, one look
// after the other.
type keeper struct {
	mu       sync.Mutex
	asked    []drain.Request
	plan     drain.Plan
	attached bool
	looks    [][]drains.State
}

func (k *keeper) Begin(_ context.Context, q drain.Request) (*drain.Answer, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked = append(k.asked, q)
	out := &drain.Answer{State: state(q.Goal, 1), Attached: k.attached}
	if q.Goal == mesh.GoalDrained {
		p := k.plan
		p.Target = q.Target.String()
		out.Plan = &p
		if len(p.Problems) > 0 && !q.DryRun && !q.Force {
			return nil, &drain.RefusedError{Plan: &p}
		}
	}
	return out, nil
}

func (k *keeper) List() []drains.State {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.looks) == 0 {
		return []drains.State{}
	}
	now := k.looks[0]
	if len(k.looks) > 1 {
		k.looks = k.looks[1:]
	}
	return now
}

// state is of the drain of eu-west, that began at noon.
func state(goal mesh.DrainGoal, share float64) drains.State {
	return drains.State{Name: "eu-west", Target: "eu-west", Goal: goal, Share: share, Since: noon, Ends: noon.Add(5*time.Minute + 20*time.Second), Done: goal == mesh.GoalDrained && share == 0}
}

// TestDrains are planned, begun, followed, refused, given up and completed as the control plane says.
func TestDrains(t *testing.T) {
	takesOver := drain.Plan{Receivers: []drain.Receiver{{Service: "shop/catalog", Cluster: "us-east", Now: 60, Then: 160, UtilisationNow: 0.15, UtilisationThen: 0.4},
		{Service: "shop/cart", Cluster: "us-east", Now: 1, Then: 2, UtilisationNow: -1, UtilisationThen: -1}}}
	tooMuch := drain.Plan{Problems: []string{"shop/catalog in us-east would be at 90%"}}
	given := state(mesh.GoalServing, 0.7)
	given.Reason = "the drain was given up: shop/catalog in us-east is at 91% of what it can serve"
	for _, c := range []struct {
		name, line string
		keeper     *keeper
		out, errs  []string
		code       int
		// real is how often it was asked for, and not only for a plan.
		real int
	}{
		{"it is followed to its end", "drain eu-west --over 5s", &keeper{plan: takesOver, looks: [][]drains.State{{}, {state(mesh.GoalDrained, 0.4)}, {state(mesh.GoalDrained, 0)}}},
			[]string{"shop/catalog   us-east   60.0         160.0   15%           40%", "-             -", "eu-west is drained"}, nil, 0, 1},
		{"it is only asked", "drain eu-west --dry-run -o json", &keeper{plan: takesOver}, []string{`"utilisationThen": 0.4`}, nil, 0, 0},
		{"it is not followed", "drain eu-west --wait=false", &keeper{plan: takesOver}, []string{"being drained, 100% of its part, 20s left"}, nil, 0, 1},
		{"it is refused", "drain eu-west", &keeper{plan: tooMuch}, nil, []string{"would be at 90%", "add capacity, or drain with --force"}, 1, 0},
		{"asked, it would be refused", "drain eu-west --dry-run", &keeper{plan: tooMuch}, nil, []string{"would be at 90%", "would not be drained"}, 1, 0},
		{"it is forced", "drain eu-west --force", &keeper{plan: tooMuch, looks: [][]drains.State{{state(mesh.GoalDrained, 0)}}}, []string{"eu-west is drained"}, []string{"would be at 90%"}, 0, 1},
		{"it is given up", "drain eu-west", &keeper{plan: takesOver, looks: [][]drains.State{{state(mesh.GoalDrained, 0.7)}, {given}}}, nil, []string{"given up: shop/catalog in us-east is at 91%"}, 1, 1},
		{"it is found", "drain eu-west", &keeper{attached: true, looks: [][]drains.State{{state(mesh.GoalDrained, 0)}}}, []string{"already", "eu-west is drained"}, nil, 0, 1},
		{"it is taken back", "undrain eu-west", &keeper{attached: true}, []string{"eu-west serves its whole part"}, nil, 0, 1},
		{"it is nothing", "drain zone/@eu-west", &keeper{}, nil, []string{"there are zone/ and gateway/; write CLUSTER"}, 2, 0},
		{"the cluster is not there", "drain mars", &keeper{}, nil, []string{`no cluster "mars"; write one of eu-west, us-east`}, 2, 0},
	} {
		g := newGround(t)
		g.drains = keeper{plan: c.keeper.plan, attached: c.keeper.attached, looks: c.keeper.looks}
		out, errs, code := g.run("", strings.Fields(c.line)...)
		if code != c.code {
			t.Errorf("%s: exit %d, want %d", c.name, code, c.code)
		}
		for _, want := range c.out {
			if !strings.Contains(out, want) {
				t.Errorf("%s: %q is not in the output:\n%s", c.name, want, out)
			}
		}
		for _, want := range c.errs {
			if !strings.Contains(errs, want) {
				t.Errorf("%s: %q is not in the errors:\n%s", c.name, want, errs)
			}
		}
		if strings.Contains(errs, "\x1b") {
			t.Errorf("%s: progress where there is no terminal: %q", c.name, errs)
		}
		real := 0
		for _, q := range g.drains.asked {
			if !q.DryRun {
				real++
			}
		}
		if real != c.real {
			t.Errorf("%s: asked for %d times, want %d", c.name, real, c.real)
		}
	}
}

// TestDrainsStandInStatus and are completed.
func TestDrainsStandInStatus(t *testing.T) {
	g := newGround(t)
	g.drains.looks = [][]drains.State{{state(mesh.GoalDrained, 0.4)}}
	if out, _, _ := g.run("", "status"); !strings.Contains(out, "\neu-west: being drained, 40% of its part, 20s left\n") {
		t.Errorf("status: %s", out)
	}
	var rows []struct{ Drains []drains.State }
	out, _, _ := g.run("", "status", "-o", "json")
	if err := json.Unmarshal([]byte(out), &rows); err != nil || len(rows) != 2 || len(rows[0].Drains) != 1 {
		t.Errorf("status -o json: %v: %s", err, out)
	}
	if out, _, _ := g.run("", "__complete", "undrain", ""); !strings.HasPrefix(out, "eu-west\n") {
		t.Errorf("undrain completes %q", out)
	}
	cluster := "apiVersion: isthmus.dev/v1alpha1\nkind: Cluster\nmetadata: {name: eu-west}\nspec: {zones: [a], gateways: ['127.0.0.1:15443']}\n"
	if _, errs, code := g.run(cluster, "apply", "-f", "-"); code != 0 {
		t.Fatal(errs)
	}
	out, _, _ = g.run("", "__complete", "drain", "")
	for _, want := range []string{"eu-west", "zone/a@eu-west", "gateway/0@eu-west", "catalog-0.shop@us-east"} {
		if !slices.Contains(strings.Split(out, "\n"), want) {
			t.Errorf("drain completes %q without %s", out, want)
		}
	}
	drained := "apiVersion: isthmus.dev/v1alpha1\nkind: Drain\nmetadata: {name: eu-west}\nspec: {target: {cluster: eu-west, zone: a}, reason: disks}\n"
	if _, errs, code := g.run(drained, "apply", "-f", "-"); code != 0 {
		t.Fatal(errs)
	}
	if out, _, _ := g.run("", "get", "drains", "-o", "wide"); !strings.Contains(out, "zone/a@eu-west   Drained   <none>   30s    0%      disks") {
		t.Errorf("get drains: %s", out)
	}
}

// TestProgressIsForATerminal: there alone where it stands is said again and again.
func TestProgressIsForATerminal(t *testing.T) {
	g := newGround(t)
	g.drains.looks = [][]drains.State{{state(mesh.GoalDrained, 0.4)}, {state(mesh.GoalDrained, 0.4)}, {state(mesh.GoalDrained, 0)}}
	out, errs, code := g.runOnTerminal("drain", "eu-west")
	if code != 0 || !strings.Contains(errs, "eu-west: being drained, 40% of its part") || strings.Contains(out, "40%") {
		t.Errorf("exit %d, out %q, errors %q", code, out, errs)
	}
}
