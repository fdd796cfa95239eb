package ca

import (
	"errors"
	"fmt"
	"time"
)

// Phase is how far the replacement of a root has come.
type Phase string

// The phases, in their order. From Stable on, each is left by one event.
const (
	// PhaseStable: one root, which issues.
	PhaseStable Phase = "stable"
	// PhaseIntroduced: the bundle holds the old and the new root, the old one issues.
	PhaseIntroduced Phase = "introduced"
	// PhaseIssuing: the bundle holds both, the new one issues.
	PhaseIssuing Phase = "issuing"
)

// Rotation is the state of the replacement of a root. It is a value: its methods
// return the next state and change nothing. A root's number is the generation of
// the bundle that first held it, so that no two roots of a history share one.
type Rotation struct {
	Phase Phase
	// Generation is that of the bundle. It grows when the bundle changes.
	Generation uint64
	// Issuer is the root that signs. Other is the one beside it in the bundle: the next
	// one while introduced, the last one while issuing, 0 when stable.
	Issuer, Other uint64
	// Older is one more in the bundle, and goes with the last one: its replacement's key was lost before it could go. 0 is none.
	Older uint64
	// OldUntil is when the last certificate ends that Other signed; set while issuing.
	OldUntil time.Time
}

// NewRotation is the state of a new authority: root 1, bundle generation 1.
func NewRotation() Rotation { return Rotation{Phase: PhaseStable, Generation: 1, Issuer: 1} }

// Roots are the numbers of the roots in the bundle, the issuer first.
func (r Rotation) Roots() []uint64 {
	out := []uint64{r.Issuer}
	for _, n := range []uint64{r.Other, r.Older} {
		if n != 0 {
			out = append(out, n)
		}
	}
	return out
}

// ErrPhase refuses a step that the phase does not have.
var ErrPhase = errors.New("not in this phase")

// GateError says what a step is waiting for.
type GateError struct {
	Phase Phase
	Wait  string
}

func (e *GateError) Error() string {
	return fmt.Sprintf("root rotation, phase %s: waiting: %s", e.Phase, e.Wait)
}

// Seen is what the control planes of the whole mesh have observed of those who
// verify this cluster's certificates.
type Seen struct {
	// Complete is false while anybody who should be heard has not been: a cluster that
	// is unreachable, a proxy that has not reported. Then no gate opens, for silence is
	// not consent.
	Complete bool
	// Missing names one of those, for people.
	Missing string
	// Generation is the lowest bundle generation that any of them believes.
	Generation uint64
	// Anyway says that a person will not have it wait: whoever is not ready fails.
	Anyway bool
}

// Introduce puts a new root into the bundle beside the one that issues.
func (r Rotation) Introduce() (Rotation, error) {
	if r.Phase != PhaseStable {
		return r, fmt.Errorf("root rotation, phase %s: introduce a root: %w", r.Phase, ErrPhase)
	}
	r.Generation++
	r.Phase, r.Other = PhaseIntroduced, r.Generation
	return r, nil
}

// replace is Introduce where the issuer's key is lost, in whatever phase that happens. otherLost says that the introduced root's key
// is too: that has signed nothing and goes. The last one, which has, stays as Older.
func (r Rotation) replace(otherLost bool) (Rotation, error) {
	switch {
	case r.Phase == PhaseIntroduced && !otherLost, r.Phase == PhaseIssuing && r.Older != 0:
		return r, fmt.Errorf("root rotation, phase %s: introduce a root: %w", r.Phase, ErrPhase)
	case r.Phase == PhaseIssuing:
		r.Older = r.Other
	}
	r.Generation++
	r.Phase, r.Other = PhaseIntroduced, r.Generation
	return r, nil
}

// Abandon takes the introduced root out again; it has signed nothing.
func (r Rotation) Abandon() (Rotation, error) {
	if r.Phase != PhaseIntroduced {
		return r, fmt.Errorf("root rotation, phase %s: abandon the introduced root: %w", r.Phase, ErrPhase)
	}
	r.Phase, r.Other = PhaseStable, 0
	r.Generation++
	return r, nil
}

// Switch lets the new root issue. Its gate: every verifier has been seen to believe
// the bundle that holds it; otherwise the first certificate from it would be refused
// somewhere. lastOldEnd is the latest end of any certificate that the old root has
// signed or may still be signing.
func (r Rotation) Switch(seen Seen, lastOldEnd time.Time) (Rotation, error) {
	if r.Phase != PhaseIntroduced {
		return r, fmt.Errorf("root rotation, phase %s: issue from the new root: %w", r.Phase, ErrPhase)
	}
	if err := r.gate(seen); err != nil {
		return r, err
	}
	r.Phase, r.OldUntil = PhaseIssuing, lastOldEnd
	r.Issuer, r.Other = r.Other, r.Issuer
	return r, nil
}

// Retire drops the old root from the bundle. Its gate: no certificate from it is
// still valid on any tolerable clock, slow being how far one may be behind, and every verifier believes the new root.
func (r Rotation) Retire(seen Seen, now time.Time, slow time.Duration) (Rotation, error) {
	if r.Phase != PhaseIssuing {
		return r, fmt.Errorf("root rotation, phase %s: retire the old root: %w", r.Phase, ErrPhase)
	}
	if err := r.gate(seen); err != nil {
		return r, err
	}
	// A peer whose clock is slow still accepts a certificate after its end.
	if until := r.OldUntil.Add(slow); now.Before(until) && !seen.Anyway {
		return r, &GateError{r.Phase, fmt.Sprintf("certificates of the old root are valid until %s", until.UTC().Format(time.RFC3339))}
	}
	r.Phase, r.Other, r.Older, r.OldUntil = PhaseStable, 0, 0, time.Time{}
	r.Generation++
	return r, nil
}

func (r Rotation) gate(seen Seen) error {
	if seen.Anyway {
		return nil
	}
	if !seen.Complete {
		return &GateError{r.Phase, fmt.Sprintf("not everybody who verifies has been heard: %s", seen.Missing)}
	}
	if seen.Generation < r.Generation {
		return &GateError{r.Phase, fmt.Sprintf("some still believe bundle generation %d, want %d", seen.Generation, r.Generation)}
	}
	return nil
}
