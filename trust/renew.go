package trust

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Backdate is how far issuers of the mesh set NotBefore back, so that a clock a few
// minutes slow still accepts a fresh certificate.
const Backdate = 10 * time.Minute

// RenewAt is when to renew a certificate: at 40 ± 5 % of its life, placed by
// random, drawn from [0, 1). Life runs from the issue, Backdate after notBefore; a
// certificate that lives no longer than Backdate was not back-dated, and its life is
// all of it. At the latest 55 % remain: of 24 h, the 13 for which an issuer may be
// away.
func RenewAt(notBefore, notAfter time.Time, random float64) time.Time {
	issued := notBefore.Add(Backdate)
	if !issued.Before(notAfter) {
		issued = notBefore
	}
	share := 0.35 + 0.10*random
	return issued.Add(time.Duration(float64(notAfter.Sub(issued)) * share))
}

// RetryAfter is how long to wait after the given number of failures in a row, at
// least 1: doubling from half a second, at most a twentieth of what remains of the
// certificate's life and never more than 5 minutes, halved at most by random, drawn
// from [0, 1). Without a valid certificate it is 10 s at most.
func RetryAfter(failures int, remaining time.Duration, random float64) time.Duration {
	const first, least, most = 500 * time.Millisecond, 100 * time.Millisecond, 5 * time.Minute
	limit := min(remaining/20, most)
	if remaining <= 0 {
		limit = 10 * time.Second
	}
	limit = max(limit, least)
	wait := limit
	if n := max(failures, 1) - 1; n < 20 {
		wait = min(first<<n, limit)
	}
	return time.Duration(float64(wait) * (0.5 + 0.5*random))
}

// Signer gets a certificate for a certificate signing request: over a control
// stream, from a CA in the process, from an external issuer. It returns the chain,
// DER and leaf first, and the bundles to believe from now on; nil keeps those in
// force.
type Signer interface {
	Sign(ctx context.Context, csrDER []byte) (chain [][]byte, bundles *Bundles, err error)
}

// RenewerConfig configures a Renewer; all fields but Identity are required.
type RenewerConfig struct {
	Source *Source
	Signer Signer
	Clock  clock.Clock
	// Random returns numbers of [0, 1); it is called by Run only.
	Random func() float64
	Log    *slog.Logger
	// Identity is whom the first certificate must be for, when Source has none; the
	// zero Identity takes what the signer gives.
	Identity mesh.Identity
}

// Validate reports all faults.
func (c RenewerConfig) Validate() error {
	var errs []error
	for name, missing := range map[string]bool{
		"Source": c.Source == nil, "Signer": c.Signer == nil, "Clock": c.Clock == nil,
		"Random": c.Random == nil, "Log": c.Log == nil,
	} {
		if missing {
			errs = append(errs, fmt.Errorf("renewer: %s is required", name))
		}
	}
	return errors.Join(errs...)
}

// Renewer keeps a Source's certificate fresh: each certificate with a new key, made here.
// Connections that live are not touched.
type Renewer struct {
	c RenewerConfig
	// next is the key of the next certificate: kept until there is an answer, since a
	// join token whose answer was lost is good again for the same key only.
	next PrivateKey
}

// NewRenewer returns a Renewer, which does nothing until Run.
func NewRenewer(c RenewerConfig) (*Renewer, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return &Renewer{c: c}, nil
}

const (
	signWait = 15 * time.Second
	// lookAgain bounds each wait, because a timer runs on the monotonic clock and the
	// wall clock may be set, or the host suspended, meanwhile.
	lookAgain = time.Minute
	// skewTolerated is the error of a clock that is nobody's alarm.
	skewTolerated = 5 * time.Minute
)

// Run renews until ctx ends and returns its error. It renews at once if Source has
// no certificate.
func (r *Renewer) Run(ctx context.Context) error {
	failures := 0
	for {
		if err := r.waitUntilDue(ctx); err != nil {
			return err
		}
		err := r.renew(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			failures = 0
			continue
		}
		failures++
		wait := r.report(failures, err)
		if err := clock.Wait(ctx, r.c.Clock, wait); err != nil {
			return err
		}
	}
}

// waitUntilDue returns when the certificate in force is due. Each certificate gets
// one drawn moment; a certificate that somebody else puts in force starts anew.
func (r *Renewer) waitUntilDue(ctx context.Context) error {
	var svid *SVID
	var due time.Time
	for {
		m, changed := r.c.Source.Watch()
		if m.SVID == nil {
			return ctx.Err()
		}
		if m.SVID != svid {
			svid = m.SVID
			due = RenewAt(svid.Leaf.NotBefore, svid.Leaf.NotAfter, r.c.Random())
		}
		wait := due.Sub(r.c.Clock.Now())
		if wait <= 0 {
			return ctx.Err()
		}
		timer := r.c.Clock.NewTimer(min(wait, lookAgain))
		select {
		case <-timer.C():
		case <-changed:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func (r *Renewer) renew(ctx context.Context) error {
	if r.next.IsZero() {
		k, err := NewPrivateKey()
		if err != nil {
			return err
		}
		r.next = k
	}
	key := r.next
	csr, err := key.CSR()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, signWait)
	defer cancel()
	chain, bundles, err := r.c.Signer.Sign(ctx, csr)
	if err != nil {
		return fmt.Errorf("ask for a certificate: %w", err)
	}
	r.next = PrivateKey{}
	svid, err := NewSVID(key, chain)
	if err != nil {
		return err
	}
	if want := r.c.Identity; !want.IsZero() && svid.Identity != want {
		return fmt.Errorf("certificate of %s instead of %s: %w", svid.Identity, want, ErrIdentityChanged)
	}
	// An issuer that answers with a certificate already past its end is a failure to
	// retry with back-off, not a success to repeat at once.
	now := r.c.Clock.Now()
	if !now.Before(svid.Leaf.NotAfter) {
		return fmt.Errorf("certificate of %s is expired on arrival: ends %s, this clock reads %s",
			svid.Identity, svid.Leaf.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	if err := r.c.Source.Update(svid, bundles); err != nil {
		return err
	}
	r.c.Log.Info("certificate renewed", "identity", svid.Identity.String(), "notAfter", svid.Leaf.NotAfter)
	if skew := Skew(svid.Leaf.NotBefore, now); skew.Abs() > skewTolerated {
		r.c.Log.Error("clock differs from the issuer's", "identity", svid.Identity.String(), "ahead", skew)
	}
	// It is in force, since it is better than none, but with a clock this far ahead the
	// loop would renew without a pause.
	if !now.Before(RenewAt(svid.Leaf.NotBefore, svid.Leaf.NotAfter, 1)) {
		return fmt.Errorf("certificate of %s was due for renewal on arrival: ends %s, this clock reads %s",
			svid.Identity, svid.Leaf.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}

// Skew is how far this clock is ahead of the issuer's, told by a certificate of the
// mesh's own CA that has just been issued.
func Skew(notBefore, now time.Time) time.Duration { return now.Sub(notBefore.Add(Backdate)) }

// report logs a failure and returns how long to wait. It is an alarm when no more
// than a fifth of the certificate's life remains: of 24 h, more than 4 h before the
// end.
func (r *Renewer) report(failures int, err error) time.Duration {
	var remaining time.Duration
	level := slog.LevelWarn
	if svid := r.c.Source.Current().SVID; svid != nil {
		remaining = svid.Leaf.NotAfter.Sub(r.c.Clock.Now())
		if remaining < svid.Leaf.NotAfter.Sub(svid.Leaf.NotBefore)/5 {
			level = slog.LevelError
		}
	}
	wait := RetryAfter(failures, remaining, r.c.Random())
	r.c.Log.Log(context.Background(), level, "certificate not renewed", "failures", failures, "remaining", remaining, "retryIn", wait, "err", err)
	return wait
}
