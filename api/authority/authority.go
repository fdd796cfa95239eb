// Package authority is the door to a cluster's certificate authority: the paths /v1/trust of the API, and the metrics beside them.
// Its one idea is that no key passes it in clear: a backup leaves sealed to a recipient that who asks names, and comes back sealed
// to one that the control plane made for itself.
//
// It decides nothing (control/authority does) and lets nobody in (package api does). Read Status, then Handlers.
package authority

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
	"github.com/isthmus-mesh/isthmus/control/authority"
	"github.com/isthmus-mesh/isthmus/control/ca"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Keeper is the cluster's authority; *authority.Authority is one.
type Keeper interface {
	State() authority.State
	Recipient() string
	Begin(context.Context) error
	Abandon(context.Context) error
	Force(context.Context) error
	Backup(recipient string) ([]byte, error)
	Restore(ctx context.Context, sealed []byte) error
}

// Status is how the authority of one cluster stands, the answer to GET /v1/trust.
type Status struct {
	Cluster     mesh.ClusterName `json:"cluster"`
	TrustDomain mesh.TrustDomain `json:"trustDomain"`
	// Phase is that of the replacement of the root: stable, introduced (sent to all, does not sign yet) or issuing (signs, the one
	// before is still believed). Generation is that of the bundle.
	Phase      ca.Phase `json:"phase"`
	Generation uint64   `json:"generation"`
	// Waits is what the next step waits for.
	Waits string `json:"waits,omitempty"`
	// OldUntil is when the last certificate ends that the root before signed.
	OldUntil *time.Time `json:"oldUntil,omitempty"`
	// Signs says that certificates can be signed; Problem is why not.
	Signs   bool   `json:"signs"`
	Problem string `json:"problem,omitempty"`
	Roots   []Root `json:"roots"`
	// Recipient is to whom a backup is sealed that is restored here.
	Recipient string `json:"recipient"`
}

// Root is one of the roots in force.
type Root struct {
	Number uint64 `json:"number"`
	// Fingerprint is the SHA-256 of the public key.
	Fingerprint string `json:"fingerprint"`
	// Role is signs, next or last.
	Role    string    `json:"role"`
	Expires time.Time `json:"expires"`
	// Key says that its key is here.
	Key bool `json:"key"`
	// Certificates are those in use that this control plane signed with it since it was started.
	Certificates int `json:"certificates"`
}

// Ask is the body of a POST. Of /v1/trust/rotate: Abandon takes the introduced root back, Force takes the next step without waiting.
// Of /v1/trust/backup: Recipient. Of /v1/trust/restore: Sealed.
type Ask struct {
	Abandon   bool   `json:"abandon,omitempty"`
	Force     bool   `json:"force,omitempty"`
	Recipient string `json:"recipient,omitempty"`
	Sealed    []byte `json:"sealed,omitempty"`
}

// Sealed is the answer to POST /v1/trust/backup.
type Sealed struct {
	Status
	Sealed []byte `json:"sealed"`
}

const askMax = 2 << 20

// Of is how the authority stands.
func Of(cluster mesh.ClusterName, td mesh.TrustDomain, k Keeper) Status {
	s := k.State()
	r := s.Rotation
	out := Status{Cluster: cluster, TrustDomain: td, Phase: r.Phase, Generation: r.Generation, Waits: s.Waits, Signs: s.Lost == nil, Recipient: k.Recipient()}
	if !r.OldUntil.IsZero() {
		until := r.OldUntil.UTC()
		out.OldUntil = &until
	}
	if s.Lost != nil {
		out.Problem = s.Lost.Error()
	}
	for _, x := range s.Roots {
		role := "last"
		switch {
		case x.Issues && x.Key:
			role = "signs"
		case x.Issues:
			role = "lost"
		case r.Phase == ca.PhaseIntroduced && x.Number == r.Other:
			role = "next"
		}
		out.Roots = append(out.Roots, Root{x.Number, x.Pin.String(), role, x.Ends.UTC(), x.Key, x.Live})
	}
	return out
}

// Handlers are the paths, for api.Config.More.
func Handlers(cluster mesh.ClusterName, td mesh.TrustDomain, k Keeper) map[string]func(http.ResponseWriter, *http.Request) error {
	post := func(op string, do func(context.Context, *Ask) (any, error)) func(http.ResponseWriter, *http.Request) error {
		return func(w http.ResponseWriter, r *http.Request) error {
			fail := func(status int, err error, remedy string) error {
				return &api.Error{Status: status, Op: op, Object: "trust of " + string(cluster), Problem: err.Error(), Remedy: remedy}
			}
			var ask Ask
			d := json.NewDecoder(io.LimitReader(r.Body, askMax))
			d.DisallowUnknownFields()
			if err := d.Decode(&ask); err != nil {
				return fail(http.StatusBadRequest, fmt.Errorf("read the request: %w", err), "")
			}
			out, err := do(r.Context(), &ask)
			if status, remedy := refusal(err); status != 0 {
				return fail(status, err, remedy)
			}
			if err != nil {
				return err
			}
			return write(w, out)
		}
	}
	status := func(err error) (any, error) { return Of(cluster, td, k), err }
	return map[string]func(http.ResponseWriter, *http.Request) error{
		"GET /v1/trust": func(w http.ResponseWriter, _ *http.Request) error { return write(w, Of(cluster, td, k)) },
		"POST /v1/trust/rotate": post("rotate", func(ctx context.Context, ask *Ask) (any, error) {
			switch {
			case ask.Abandon:
				return status(k.Abandon(ctx))
			case ask.Force:
				return status(k.Force(ctx))
			}
			return status(k.Begin(ctx))
		}),
		"POST /v1/trust/backup": post("back up", func(_ context.Context, ask *Ask) (any, error) {
			sealed, err := k.Backup(ask.Recipient)
			return Sealed{Of(cluster, td, k), sealed}, err
		}),
		"POST /v1/trust/restore": post("restore", func(ctx context.Context, ask *Ask) (any, error) {
			return status(k.Restore(ctx, ask.Sealed))
		}),
	}
}

// refusal is the status of an error that asking again would not change, 0 of another, and what to do.
func refusal(err error) (status int, remedy string) {
	var gate *ca.GateError
	switch {
	case err == nil:
		return 0, ""
	case errors.Is(err, authority.ErrRecipient):
		return http.StatusBadRequest, "give a recipient that begins with age1"
	case errors.Is(err, authority.ErrBackup):
		return http.StatusBadRequest, "restore with isthmus trust restore, which seals it to the control plane that runs"
	case errors.Is(err, ca.ErrUndoes):
		return http.StatusConflict, "give a newer backup, or roll out a new root with isthmus trust rotate"
	case errors.Is(err, ca.ErrNothingLost):
		return http.StatusConflict, "nothing has to be restored"
	case errors.Is(err, ca.ErrKeyLost):
		return http.StatusConflict, "restore the key with isthmus trust restore, or roll out a new root with isthmus trust rotate"
	case errors.Is(err, ca.ErrPhase):
		return http.StatusConflict, "see isthmus trust status for the phase"
	case errors.As(err, &gate):
		return http.StatusConflict, ""
	}
	return 0, ""
}

func write(w http.ResponseWriter, v any) error {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // a caller who left is no error
	return nil
}

// Metrics is what /metrics says of the authority.
func Metrics(cluster mesh.ClusterName, k Keeper) string {
	s := k.State()
	signs := 0
	if s.Lost == nil {
		signs = 1
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# HELP isthmus_ca_signs Whether the certificate authority can sign: 0 is an alarm, certificates in use end and none is renewed.\n# TYPE isthmus_ca_signs gauge\n"+
		"isthmus_ca_signs{cluster=%q} %d\n", string(cluster), signs)
	b.WriteString("# HELP isthmus_ca_rotation_phase Phase of the replacement of the root.\n# TYPE isthmus_ca_rotation_phase gauge\n")
	for _, p := range []ca.Phase{ca.PhaseStable, ca.PhaseIntroduced, ca.PhaseIssuing} {
		in := 0
		if p == s.Rotation.Phase {
			in = 1
		}
		fmt.Fprintf(&b, "isthmus_ca_rotation_phase{cluster=%q,phase=%q} %d\n", string(cluster), string(p), in)
	}
	return b.String()
}
