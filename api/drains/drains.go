// Package drains is the door to what takes things out of use: the paths /v1/drains of the API, and the metric beside them.
// Its one idea is that it says what the keeper says: plans, refusals and shares are computed when asked.
//
// It decides nothing (control/drain does) and lets nobody in (package api does). Read Handlers, then Ask.
package drains

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/api"
	"github.com/isthmus-mesh/isthmus/control/drain"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// What the keeper says, for who may not know it.
type (
	Plan     = drain.Plan
	Receiver = drain.Receiver
	State    = drain.State
	Answer   = drain.Answer
)

// DefaultOver is how long a drain takes unless somebody says otherwise.
const DefaultOver = drain.DefaultOver

// Full is the utilisation that who takes over must not pass.
const Full = drain.Full

// ParseTarget reads what people type.
func ParseTarget(s string) (mesh.DrainTarget, error) { return drain.ParseTarget(s) }

// Keeper takes things out of use; *drain.Keeper is one.
type Keeper interface {
	List() []State
	Begin(context.Context, drain.Request) (*Answer, error)
}

// Ask is the body of POST /v1/drains.
type Ask struct {
	// Target is as people type it.
	Target string `json:"target"`
	// Goal is Drained or Serving.
	Goal mesh.DrainGoal `json:"goal"`
	// Over is a duration such as 30s; "" is the default.
	Over   string `json:"over,omitempty"`
	Force  bool   `json:"force,omitempty"`
	DryRun bool   `json:"dryRun,omitempty"`
}

const askMax = 64 << 10

// Handlers are the paths, for api.Config.More.
func Handlers(k Keeper) map[string]func(http.ResponseWriter, *http.Request) error {
	return map[string]func(http.ResponseWriter, *http.Request) error{
		"GET /v1/drains": func(w http.ResponseWriter, _ *http.Request) error {
			return write(w, http.StatusOK, struct {
				Drains []State `json:"drains"`
			}{k.List()})
		},
		"POST /v1/drains": func(w http.ResponseWriter, r *http.Request) error { return begin(k, w, r) },
	}
}

func begin(k Keeper, w http.ResponseWriter, r *http.Request) error {
	var ask Ask
	fail := func(status int, problem, remedy string) error {
		return &api.Error{Status: status, Op: verb(ask.Goal), Object: ask.Target, Problem: problem, Remedy: remedy}
	}
	d := json.NewDecoder(io.LimitReader(r.Body, askMax))
	d.DisallowUnknownFields()
	if err := d.Decode(&ask); err != nil {
		return fail(http.StatusBadRequest, "read the request: "+err.Error(), "")
	}
	q := drain.Request{Goal: ask.Goal, Force: ask.Force, DryRun: ask.DryRun}
	var err error
	if q.Target, err = drain.ParseTarget(ask.Target); err != nil {
		return fail(http.StatusBadRequest, err.Error(), "")
	}
	if ask.Goal != mesh.GoalDrained && ask.Goal != mesh.GoalServing {
		return fail(http.StatusBadRequest, fmt.Sprintf("goal %q is not known", ask.Goal), "write Drained or Serving")
	}
	if ask.Over != "" {
		if q.Over, err = time.ParseDuration(ask.Over); err != nil || q.Over <= 0 || q.Over > drain.OverMax {
			return fail(http.StatusBadRequest, fmt.Sprintf("over %q is not a time up to %v", ask.Over, drain.OverMax), "write one such as 30s")
		}
	}
	answer, err := k.Begin(r.Context(), q)
	var refused *drain.RefusedError
	switch {
	case errors.As(err, &refused):
		return fail(http.StatusConflict, strings.Join(refused.Plan.Problems, "; "), "add capacity, or drain with --force")
	case errors.Is(err, drain.ErrUnknown):
		return fail(http.StatusNotFound, err.Error(), "")
	case err != nil:
		return err
	}
	return write(w, http.StatusOK, answer)
}

func verb(g mesh.DrainGoal) string {
	if g == mesh.GoalServing {
		return "undrain"
	}
	return "drain"
}

func write(w http.ResponseWriter, status int, v any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // a caller who left is no error
	return nil
}

// Metrics is what /metrics says of drains: the share of each target that is or was drained.
func Metrics(cluster mesh.ClusterName, k Keeper) string {
	all := k.List()
	if len(all) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("# HELP isthmus_drain_share_ratio Part of its requests that a target gets which is drained, or comes back.\n# TYPE isthmus_drain_share_ratio gauge\n")
	for _, d := range all {
		fmt.Fprintf(&b, "isthmus_drain_share_ratio{cluster=%q,target=%q,goal=%q} %g\n", string(cluster), d.Target, string(d.Goal), d.Share)
	}
	return b.String()
}
