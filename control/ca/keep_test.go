package ca_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/control/ca"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// recordOf is what is kept apart from the keys.
func recordOf(t testing.TB, c *ca.CA) []byte {
	t.Helper()
	b, err := c.Record()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// lose takes the keys away, as a disk does that lost a file, and opens what is left.
func (p place) lose(t *testing.T, config ca.Config, record []byte) *ca.CA {
	t.Helper()
	for _, path := range []string{p.path, p.path + ".prev"} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	config.Record = record
	return p.openWith(t, config)
}

func mustNotSign(t *testing.T, c *ca.CA) {
	t.Helper()
	_, csr := newCSR(t)
	if _, err := c.Sign(csr, attested(shop)); !errors.Is(err, ca.ErrKeyLost) || !errors.Is(c.Signs(), ca.ErrKeyLost) {
		t.Errorf("without a key: %v, %v", err, c.Signs())
	}
	if _, err := c.Backup(); !errors.Is(err, ca.ErrKeyLost) {
		t.Errorf("backed up without a key: %v", err)
	}
}

// TestALostKeyLosesNoTrust: the bundle stays, what was signed is good, nothing is signed. Its control is the same loss without the
// record: a stranger's root, in whose eyes all who hold certificates are strangers.
func TestALostKeyLosesNoTrust(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"deleted":   os.Remove,
		"truncated": func(path string) error { return os.Truncate(path, 60) },
		"garbage":   func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte("x"), 500), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			c := p.open(t)
			before, held := c.Bundle(), sign(t, c, shop)
			record := recordOf(t, c)
			if key, err := c.Backup(); err != nil || !bytes.Contains(key.Reveal(), []byte(`"Key"`)) || bytes.Contains(record, []byte(`"Key"`)) {
				t.Fatal("the record holds what a backup holds", err)
			}
			if err := spoil(p.path); err != nil {
				t.Fatal(err)
			}
			config := p.config()
			config.Record = record
			c = p.openWith(t, config)
			if err := verify(t, c.Bundle(), held); err != nil || c.Bundle().Generation != before.Generation {
				t.Errorf("generation %d, want %d: %v", c.Bundle().Generation, before.Generation, err)
			}
			mustNotSign(t, c)
			if name == "deleted" {
				stranger := p.open(t)
				if err := verify(t, stranger.Bundle(), held); trust.FaultOf(err) != trust.FaultChain {
					t.Errorf("without the record: %v; then this test shows nothing", err)
				}
			}
		})
	}
}

// TestARecordOfAnotherDoesNotOpen: nor does one that is no record.
func TestARecordOfAnotherDoesNotOpen(t *testing.T) {
	p := newPlace(t)
	p.open(t)
	other := newPlace(t).config()
	other.TrustDomain = "us-east.isthmus.local"
	theirs, err := ca.Open(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(p.path, 60); err != nil {
		t.Fatal(err)
	}
	for _, record := range [][]byte{recordOf(t, theirs), []byte("{}"), []byte("x")} {
		config := p.config()
		config.Record = record
		if _, err := ca.Open(t.Context(), config); err == nil {
			t.Errorf("opened by the record %.40s", record)
		}
	}
}

// TestABackupBringsTheKeyBack, to the roots in force, and survives the next start.
func TestABackupBringsTheKeyBack(t *testing.T) {
	p := newPlace(t)
	c := p.open(t)
	backup, err := c.Backup()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Restore(t.Context(), backup); !errors.Is(err, ca.ErrNothingLost) {
		t.Errorf("restored over a key that is there: %v", err)
	}
	bundle, record := c.Bundle(), recordOf(t, c)
	c = p.lose(t, p.config(), record)
	if err := c.Restore(t.Context(), trust.NewSecret([]byte("{}"))); err == nil {
		t.Error("restored from rubbish")
	}
	mustNotSign(t, c)
	if err := c.Restore(t.Context(), backup); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*ca.CA{c, p.open(t)} {
		if err := verify(t, bundle, sign(t, c, shop)); err != nil || c.Signs() != nil {
			t.Errorf("after the restore: %v, %v", err, c.Signs())
		}
	}
}

// TestABackupDoesNotUndoANewerRoot: of each phase of a rotation a backup of before it.
func TestABackupDoesNotUndoANewerRoot(t *testing.T) {
	now := &shiftable{}
	p := newPlace(t)
	config := p.config()
	config.Clock, config.TTL = now, time.Hour
	c := p.openWith(t, config)
	backup, err := c.Backup()
	if err != nil {
		t.Fatal(err)
	}
	all := func() ca.Seen { return ca.Seen{Complete: true, Generation: c.Bundle().Generation} }
	if err := c.Introduce(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The old root still signs: its key is of use.
	c = p.lose(t, config, recordOf(t, c))
	if err := c.Restore(t.Context(), backup); err != nil {
		t.Fatalf("introduced: %v", err)
	}
	if err := c.Switch(t.Context(), all()); err == nil {
		t.Fatal("a root signs whose key is lost")
	}
	if err := c.Introduce(t.Context()); err != nil { // in its place
		t.Fatal(err)
	}
	if err := c.Switch(t.Context(), all()); err != nil {
		t.Fatal(err)
	}
	newest, err := c.Backup()
	if err != nil {
		t.Fatal(err)
	}
	c = p.lose(t, config, recordOf(t, c))
	if err := c.Restore(t.Context(), backup); !errors.Is(err, ca.ErrUndoes) {
		t.Errorf("issuing: %v", err)
	}
	if err := c.Restore(t.Context(), newest); err != nil {
		t.Fatal(err)
	}
	now.by = time.Hour + 6*time.Minute
	if err := c.Retire(t.Context(), all()); err != nil {
		t.Fatal(err)
	}
	c = p.lose(t, config, recordOf(t, c))
	if err := c.Restore(t.Context(), backup); !errors.Is(err, ca.ErrUndoes) {
		t.Errorf("retired: %v", err)
	}
	mustNotSign(t, c)
	// A disk that was put back to the backup is no better.
	if err := ca.NewSealedKeys(p.path, p.seal, now).Save(t.Context(), backup); err != nil {
		t.Fatal(err)
	}
	config.Record = recordOf(t, c)
	mustNotSign(t, p.openWith(t, config))
}

// TestANewRootTakesOverFromALostOne, in whatever phase its key is lost: each certificate that is good is verified by what is
// believed at each step, and at the end the new root is alone.
func TestANewRootTakesOverFromALostOne(t *testing.T) {
	for phase, steps := range map[ca.Phase]int{ca.PhaseStable: 0, ca.PhaseIntroduced: 1, ca.PhaseIssuing: 2} {
		t.Run(string(phase), func(t *testing.T) {
			now := &shiftable{}
			p := newPlace(t)
			config := p.config()
			config.Clock, config.TTL = now, time.Hour
			c := p.openWith(t, config)
			all := func() ca.Seen { return ca.Seen{Complete: true, Generation: c.Bundle().Generation} }
			held := []*trust.SVID{sign(t, c, shop)}
			check := func(step string, b mesh.Bundle) {
				t.Helper()
				set, err := trust.NewBundles(b)
				if err != nil {
					t.Fatal(err)
				}
				for i, s := range held {
					if now.Now().After(s.Leaf.NotAfter) {
						continue
					}
					if _, err := set.VerifyPeer([]*x509.Certificate{s.Leaf}, now.Now(), trust.AcceptKnownClients()); err != nil {
						t.Errorf("%s, certificate %d: %v", step, i, err)
					}
				}
			}
			do := func(step string, err error) {
				t.Helper()
				if err != nil {
					t.Fatalf("%s: %v", step, err)
				}
				check(step, c.Bundle())
			}
			if steps > 0 {
				do("introduce", c.Introduce(t.Context()))
			}
			if steps > 1 {
				do("switch", c.Switch(t.Context(), all()))
				held = append(held, sign(t, c, shop))
			}
			c = p.lose(t, config, recordOf(t, c))
			check("lost", c.Bundle())
			if err := c.Abandon(t.Context()); err == nil {
				t.Error("what alone can sign was abandoned")
			}
			do("introduce a new one", c.Introduce(t.Context()))
			late := c.Bundle()
			mustNotSign(t, c)
			config.Record = nil
			c = p.openWith(t, config) // what was saved opens by itself, and still has no key of the issuer
			mustNotSign(t, c)
			if err := c.Switch(t.Context(), ca.Seen{Complete: true, Generation: late.Generation - 1}); err == nil {
				t.Error("it signs before all believe it")
			}
			do("switch to it", c.Switch(t.Context(), all()))
			held = append(held, sign(t, c, shop))
			check("a late verifier", late)
			if err := c.Retire(t.Context(), all()); err == nil {
				t.Error("the lost root went while its certificates lived")
			}
			now.by = time.Hour + 6*time.Minute
			do("retire", c.Retire(t.Context(), all()))
			if n := len(c.Bundle().Roots); n != 1 || c.Signs() != nil {
				t.Errorf("%d roots at the end, %v", n, c.Signs())
			}
		})
	}
}

// TestForcingWaitsForNobody, and only that.
func TestForcingWaitsForNobody(t *testing.T) {
	c := newPlace(t).open(t)
	anyway := ca.Seen{Anyway: true}
	if err := c.Switch(t.Context(), anyway); !errors.Is(err, ca.ErrPhase) {
		t.Errorf("switched to nothing: %v", err)
	}
	if err := errors.Join(c.Introduce(t.Context()), c.Switch(t.Context(), anyway)); err != nil {
		t.Fatal(err)
	}
	if n := len(c.Bundle().Roots); n != 2 {
		t.Errorf("%d roots", n)
	}
	if err := c.Retire(t.Context(), anyway); err != nil || len(c.Bundle().Roots) != 1 {
		t.Errorf("%d roots, %v", len(c.Bundle().Roots), err)
	}
}

// TestRootsSayWhatIsInUse: a renewal takes the place of what it renews.
func TestRootsSayWhatIsInUse(t *testing.T) {
	c := newPlace(t).open(t)
	first := sign(t, c, shop)
	sign(t, c, shop)
	if err := errors.Join(c.Introduce(t.Context()), c.Switch(t.Context(), ca.Seen{Anyway: true})); err != nil {
		t.Fatal(err)
	}
	_, csr := newCSR(t)
	renewing := attested(shop)
	renewing.Replaces = first.Leaf.SerialNumber.Text(16)
	if _, err := c.Sign(csr, renewing); err != nil {
		t.Fatal(err)
	}
	roots := c.Roots()
	if len(roots) != 2 || !roots[0].Issues || roots[0].Live != 1 || roots[1].Issues || roots[1].Live != 1 {
		t.Errorf("%+v, want one of each root", roots)
	}
}

// objects is a store in memory.
type objects map[store.Key]store.Object

func (o objects) Get(_ context.Context, k store.Key) (store.Object, error) {
	v, ok := o[k]
	if !ok {
		return v, store.ErrNotFound
	}
	return v, nil
}

func (o objects) Put(_ context.Context, v store.Object, pre store.Precondition) (int64, error) {
	had, ok := o[v.Key]
	if pre == store.MustNotExist() && ok || !ok && pre != store.MustNotExist() || ok && pre != store.AtRevision(had.Revision) {
		return 0, store.ErrConflict
	}
	v.Revision = had.Revision + 1
	o[v.Key] = v
	return v.Revision, nil
}

// TestADamagedStoreGetsTheCopy, and a replica without a copy opens by it then; a replica that runs takes up what another did.
func TestADamagedStoreGetsTheCopy(t *testing.T) {
	kept, seal := objects{}, trust.NewSealKey()
	open := func(path string) *ca.CA {
		t.Helper()
		c, err := ca.Open(t.Context(), ca.Config{TrustDomain: west, Clock: clock.Real{}, Log: slog.New(slog.DiscardHandler),
			Keys: ca.NewSharedKeys(ca.SharedConfig{Objects: kept, Key: seal, Copy: ca.NewSealedKeys(path, seal, clock.Real{}), Clock: clock.Real{}, Log: slog.New(slog.DiscardHandler)})})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	here := newPlace(t).path
	first := open(here)
	for k, o := range kept {
		o.Value = []byte("isthseal, but no more than its first words")
		kept[k] = o
	}
	again := open(here)
	other := open(newPlace(t).path)
	for _, c := range []*ca.CA{again, other} {
		if err := verify(t, first.Bundle(), sign(t, c, shop)); err != nil {
			t.Error(err)
		}
	}
	if err := again.Introduce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := other.Introduce(t.Context()); !errors.Is(err, ca.ErrMoved) {
		t.Errorf("two replicas introduced a root each: %v", err)
	}
	if news, err := other.Reload(t.Context()); err != nil || !news || other.Rotation() != again.Rotation() {
		t.Errorf("%v, %v: %+v", news, err, other.Rotation())
	}
	if news, err := other.Reload(t.Context()); err != nil || news {
		t.Errorf("again: %v, %v", news, err)
	}
	if err := other.Switch(t.Context(), ca.Seen{Complete: true, Generation: 2}); err != nil {
		t.Errorf("what was taken up cannot be gone on with: %v", err)
	}
}
