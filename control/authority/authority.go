// Package authority runs a cluster's certificate authority as a part of its control plane: it opens it, keeps the process's own
// certificate, signs for proxies, and takes the replacement of a root through its phases. Its one idea is that no step waits for a
// person and none is taken on silence: a root signs when all who verify have been seen to believe it.
//
// The own certificate and the public half of the authority are kept apart from the authority's keys, sealed, so that a control plane
// whose keys are lost still serves, and can roll out a new root.
//
// It speaks to no person (package api/authority does), and does not know who verifies: see Mesh. Read Open, then Authority.Run.
package authority

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"filippo.io/age"

	"github.com/isthmus-mesh/isthmus/control/ca"
	"github.com/isthmus-mesh/isthmus/control/peer"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
	"github.com/isthmus-mesh/isthmus/xds"
)

// Config is what an Authority is opened with. All fields but Objects and Tokens are required.
type Config struct {
	Cluster     mesh.ClusterName
	TrustDomain mesh.TrustDomain
	// TTL is the life of certificates; 0 is ca.TTLDefault.
	TTL time.Duration
	// StateDir holds the sealed files, SealKey seals them.
	StateDir string
	SealKey  trust.SealKey
	// Objects and Tokens are a store that replicas share; nil keeps both here.
	Objects ca.Objects
	Tokens  ca.TokenObjects
	Clock   clock.Clock
	Log     *slog.Logger
}

// Mesh is what an Authority sees of those who verify. All fields are required.
type Mesh struct {
	// Proxies are those that follow this control plane, or another replica of it.
	Proxies func() []xds.ClientStatus
	// Believed is the digest of the bundles that a proxy holds which has taken all of them (xds.TypeStatus.AckedDigest).
	Believed func() string
	// Workloads are the proxies that there should be, by their IDs; Clusters the other clusters of the mesh.
	Workloads func() []string
	Clusters  func() []mesh.ClusterName
	// Changed states the own bundle anew.
	Changed func(context.Context) error
	// Wrote takes what was done, for people.
	Wrote func(Act)
}

// Act is one thing that was done or found, as events tell it.
type Act struct{ Reason, Cause, Effect string }

// Authority is the cluster's. It is safe for concurrent use.
type Authority struct {
	CA     *ca.CA
	Tokens *ca.JoinTokens
	// Source is this process's own identity, and whom it believes.
	Source *trust.Source

	cfg  Config
	file *trust.SealedFile
	mesh Mesh
	// began is when this process did; see young.
	began time.Time
	// escrow opens what is sent here to be restored.
	escrow *age.X25519Identity
	wake   chan struct{}

	// beliefs is what this cluster believes, newest.
	beliefs atomic.Pointer[[]split.Belief]

	// acting lets one at a time change the authority.
	acting sync.Mutex

	mu sync.Mutex
	// published is the generation of each trust domain's bundle that proxies are sent.
	published map[mesh.TrustDomain]uint64
	// several are the trust domains with more than one root.
	several map[mesh.TrustDomain]bool
	// heard is what other clusters said of the own trust domain.
	heard map[mesh.ClusterName]split.Belief
	// met are the proxies that have been connected, and when that was seen last.
	met map[string]time.Time
	// waits is what the next step waits for; signs is what Signs said last.
	waits string
	signs error
}

// authorityTries bounds how often replicas that start at once read again what another was first to write.
const authorityTries = 5

// identityLife is how old the own certificate's file may be: its ends are looked at when it is read.
const identityLife = 10 * 365 * 24 * time.Hour

// record is the section of the own certificate's file that holds ca.CA.Record.
const record = "authority"

// Open loads or makes the authority, and this process's own certificate. Where the authority's keys are lost the own certificate is
// the one before, if it is still good; without that nobody is served until the keys are restored.
func Open(ctx context.Context, cfg Config) (*Authority, error) {
	escrow, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, fmt.Errorf("make a key to receive backups: %w", err)
	}
	a := &Authority{cfg: cfg, began: cfg.Clock.Now(), escrow: escrow, wake: make(chan struct{}, 1), Source: trust.NewSource(cfg.Clock),
		file:      &trust.SealedFile{Path: filepath.Join(cfg.StateDir, "identity.sealed"), Key: cfg.SealKey, Purpose: "control plane identity"},
		published: map[mesh.TrustDomain]uint64{}, several: map[mesh.TrustDomain]bool{}, heard: map[mesh.ClusterName]split.Belief{}, met: map[string]time.Time{}}
	kept, err := trust.ReadSnapshot(a.file, cfg.Clock.Now(), identityLife)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		cfg.Log.Warn("the control plane's own certificate of before cannot be read: it is made anew", "error", err)
	}
	if err := a.open(ctx, kept.Sections[record]); err != nil {
		return nil, err
	}
	bundles, err := trust.NewBundles(a.CA.Bundle())
	if err != nil {
		return nil, err
	}
	if err := a.Source.Update(nil, bundles); err != nil {
		return nil, err
	}
	if a.CA.Signs() == nil {
		return a, a.issueOwn()
	}
	svid, err := kept.SVID()
	if err == nil && cfg.Clock.Now().Before(svid.Leaf.NotAfter) && svid.Identity == peer.IdentityOf(cfg.TrustDomain) {
		return a, a.Source.Update(svid, nil)
	}
	cfg.Log.Error("the control plane has neither a certificate nor a key to make one: nobody is served until the key of the certificate authority is restored", "error", err)
	return a, nil
}

// open opens the authority where it is kept: in the store, where that is shared by replicas.
func (a *Authority) open(ctx context.Context, known []byte) (err error) {
	file := ca.NewSealedKeys(filepath.Join(a.cfg.StateDir, "authority.sealed"), a.cfg.SealKey, a.cfg.Clock)
	c := ca.Config{TrustDomain: a.cfg.TrustDomain, TTL: a.cfg.TTL, Clock: a.cfg.Clock, Log: a.cfg.Log, Keys: file, Record: known}
	if a.cfg.Objects == nil {
		if a.CA, err = ca.Open(ctx, c); err != nil {
			return err
		}
		// Tokens live in memory: a restart spoils those not used, and who needs one asks again.
		a.Tokens = ca.NewJoinTokens(a.CA, &ca.MemoryTokens{})
		return nil
	}
	for range authorityTries {
		c.Keys = ca.NewSharedKeys(ca.SharedConfig{Objects: a.cfg.Objects, Key: a.cfg.SealKey, Copy: file, Clock: a.cfg.Clock, Log: a.cfg.Log})
		if a.CA, err = ca.Open(ctx, c); !errors.Is(err, ca.ErrMoved) {
			break
		}
	}
	if err != nil {
		return err
	}
	a.Tokens = ca.NewJoinTokens(a.CA, ca.NewSharedTokens(a.cfg.Tokens))
	return nil
}

// Attach says what there is to see. It is called once, before Run and before anybody asks.
func (a *Authority) Attach(m Mesh) { a.mesh = m }

func (a *Authority) issueOwn() error {
	key, err := trust.NewPrivateKey()
	if err != nil {
		return err
	}
	svid, err := a.CA.SelfIssue(key, peer.IdentityOf(a.cfg.TrustDomain))
	if err != nil {
		return err
	}
	if err := a.Source.Update(svid, nil); err != nil {
		return err
	}
	a.keep()
	return nil
}

// keep writes the own certificate and the public half of the authority. Without it only a loss of the keys is worse.
func (a *Authority) keep() {
	m := a.Source.Current()
	public, err := a.CA.Record()
	if err == nil && m.SVID != nil {
		_, err = trust.WriteSnapshot(a.file, trust.Snapshot{Key: m.SVID.Key, Chain: m.SVID.Chain, Sections: map[string][]byte{record: public}}, a.cfg.Clock.Now())
	}
	if err != nil {
		a.cfg.Log.Error("the control plane's own certificate could not be kept", "error", err)
	}
}

// KeepCertificate renews the own certificate at the same point of its life as proxies do. It returns when ctx ends.
func (a *Authority) KeepCertificate(ctx context.Context, random func() float64) error {
	for {
		wait := time.Duration(0)
		if svid := a.Source.Current().SVID; svid != nil {
			wait = trust.RenewAt(svid.Leaf.NotBefore, svid.Leaf.NotAfter, random()).Sub(a.cfg.Clock.Now())
		}
		// In short looks, because the wall clock may be set meanwhile.
		if wait > 0 {
			if err := clock.Wait(ctx, a.cfg.Clock, min(wait, time.Minute)); err != nil {
				return err
			}
			continue
		}
		if err := a.issueOwn(); err != nil {
			a.cfg.Log.Error("the control plane's own certificate could not be renewed", "error", err)
			if err := clock.Wait(ctx, a.cfg.Clock, ownRetry); err != nil {
				return err
			}
		}
	}
}

// ownRetry is how long after a failure the own certificate is tried again.
const ownRetry = time.Second
