package authority

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"filippo.io/age"

	"github.com/isthmus-mesh/isthmus/codec/wire"
	"github.com/isthmus-mesh/isthmus/control/ca"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
	"github.com/isthmus-mesh/isthmus/xds"
)

const west = mesh.TrustDomain("eu-west.isthmus.local")

// cluster is an authority among proxies and clusters that say what a test has them say.
type cluster struct {
	*Authority
	config   Config
	proxies  []xds.ClientStatus
	expected []string
	others   []mesh.ClusterName
	digest   string
	acts     []Act
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{digest: "all", config: Config{Cluster: "eu-west", TrustDomain: west, TTL: time.Hour, StateDir: t.TempDir(), SealKey: trust.NewSealKey(), Clock: clock.Real{}, Log: slog.New(slog.DiscardHandler)}}
	c.start(t)
	return c
}

// start is what the process does when it begins.
func (c *cluster) start(t *testing.T) {
	t.Helper()
	a, err := Open(t.Context(), c.config)
	if err != nil {
		t.Fatal(err)
	}
	c.Authority = a
	a.Attach(Mesh{Proxies: func() []xds.ClientStatus { return c.proxies }, Believed: func() string { return c.digest }, Workloads: func() []string { return c.expected },
		Clusters: func() []mesh.ClusterName { return c.others }, Changed: func(context.Context) error { c.publish(t); return nil }, Wrote: func(x Act) { c.acts = append(c.acts, x) }})
	c.publish(t)
}

// publish is what the loop does with the bundle.
func (c *cluster) publish(t *testing.T) {
	t.Helper()
	b := c.CA.Bundle()
	typ, body := wire.Encode(&b)
	c.Published([]xds.Update{{Type: string(ir.TypeBundle), Name: string(west), Resource: &xds.Resource{Type: string(typ), Name: string(west), Body: body}}})
}

func proxyThatHas(id, digest string) xds.ClientStatus {
	return xds.ClientStatus{Node: xds.Node{ID: id}, Types: []xds.TypeStatus{{Type: string(ir.TypeBundle), Wildcard: true, AckedDigest: digest, InSync: true}}}
}

// phase is where it is after a look.
func (c *cluster) after(t *testing.T) (ca.Phase, string) {
	t.Helper()
	c.look(t.Context())
	return c.CA.Rotation().Phase, c.Waits()
}

// TestARootSignsWhenAllBelieveIt names each of those it waits for, one after the other.
func TestARootSignsWhenAllBelieveIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.proxies = []xds.ClientStatus{proxyThatHas("shop/a", "all"), proxyThatHas("shop/b", "before")}
		c.expected, c.others = []string{"shop/a", "shop/c"}, []mesh.ClusterName{"us-east"}
		if err := c.Begin(t.Context()); err != nil {
			t.Fatal(err)
		}
		wants := func(what string) {
			t.Helper()
			phase, waits := c.after(t)
			if phase != ca.PhaseIntroduced || !strings.Contains(waits, what) {
				t.Fatalf("phase %s, waits %q, want %q", phase, waits, what)
			}
		}
		wants("was started")
		if b := c.Beliefs(); len(b) != 1 || b[0].Generation != 0 || b[0].Missing == "" {
			t.Errorf("others are told %+v", b)
		}
		time.Sleep(young)
		wants("shop/c@eu-west is not connected")
		c.expected = nil // its workload was deleted
		c.met = map[string]time.Time{}
		wants("shop/b@eu-west has not acknowledged")
		c.proxies[1] = proxyThatHas("shop/b", "all")
		c.proxies[1].Types[0].Refused = []xds.Refusal{{Name: string(west)}}
		wants("shop/b@eu-west has not acknowledged")
		c.proxies[1] = proxyThatHas("shop/b", "all")
		gone := c.proxies[:1]
		all := c.proxies
		wants("us-east has not said")
		if b := c.Beliefs(); len(b) != 1 || b[0].Generation != 2 || b[0].Missing != "" {
			t.Errorf("others are told %+v", b)
		}
		c.Believes("us-east", []split.Belief{{TrustDomain: west, Generation: 0, Missing: "proxy shop/z@us-east is not connected"}})
		wants("shop/z@us-east")
		c.Believes("us-east", []split.Belief{{TrustDomain: west, Generation: 1}})
		wants("generation 1, want 2")
		c.Believes("us-east", []split.Belief{{TrustDomain: "us-east.isthmus.local", Generation: 2}})
		wants("us-east has not said")
		c.Believes("us-east", []split.Belief{{TrustDomain: west, Generation: 2}})
		c.proxies = gone // one that was there
		wants("shop/b@eu-west is not connected")
		c.proxies = all
		if phase, waits := c.after(t); phase != ca.PhaseIssuing {
			t.Fatalf("phase %s, waits %q", phase, waits)
		}
		if _, waits := c.after(t); !strings.Contains(waits, "certificates of the old root are valid until") {
			t.Errorf("waits %q", waits)
		}
		time.Sleep(time.Hour + 6*time.Minute)
		if phase, waits := c.after(t); phase != ca.PhaseStable || len(c.CA.Bundle().Roots) != 1 {
			t.Errorf("phase %s, waits %q", phase, waits)
		}
		if g, _ := c.Source.Current().Bundles.Generation(west); g != 3 || len(c.acts) != 3 {
			t.Errorf("this process believes generation %d; %+v", g, c.acts)
		}
	})
}

// TestAProxyThatIsGoneForALifeOfCertificatesIsNotWaitedFor, and no sooner.
func TestAProxyThatIsGoneForALifeOfCertificatesIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.expected = []string{"shop/a"}
		if err := c.Begin(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(59 * time.Minute)
		if phase, waits := c.after(t); phase != ca.PhaseIntroduced || !strings.Contains(waits, "shop/a") {
			t.Fatalf("phase %s, waits %q", phase, waits)
		}
		time.Sleep(2 * time.Minute)
		if phase, waits := c.after(t); phase != ca.PhaseIssuing {
			t.Errorf("phase %s, waits %q", phase, waits)
		}
	})
}

// lose deletes the authority's keys.
func (c *cluster) lose(t *testing.T) {
	t.Helper()
	for _, end := range []string{"", ".prev"} {
		_ = os.Remove(filepath.Join(c.config.StateDir, "authority.sealed"+end)) // there may be none
	}
}

// TestAControlPlaneWithoutItsKeyServes: by the certificate of before, which the same trust verifies, until the key is restored or
// another root signs. The controls are the same loss without the file that is kept apart, and without a certificate that is good.
func TestAControlPlaneWithoutItsKeyServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		own, bundle := c.Source.Current().SVID, c.CA.Bundle()
		user, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := c.Backup(user.Recipient().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Backup("age1nobody"); !errors.Is(err, ErrRecipient) {
			t.Errorf("sealed to nobody: %v", err)
		}
		c.lose(t)
		c.start(t)
		if now := c.Source.Current().SVID; now == nil || !bytes.Equal(now.Chain[0], own.Chain[0]) || c.CA.Bundle().Generation != bundle.Generation {
			t.Fatalf("its certificate is %v", now)
		}
		c.after(t)
		c.after(t)
		if len(c.acts) != 2 || c.acts[1].Reason != "authority_cannot_sign" || !errors.Is(c.State().Lost, ca.ErrKeyLost) {
			t.Errorf("%+v, %v; want one alarm", c.acts, c.State().Lost)
		}
		if err := c.Restore(t.Context(), sealed); !errors.Is(err, ErrBackup) {
			t.Errorf("what is sealed to another was opened: %v", err)
		}
		if err := c.Restore(t.Context(), resealed(t, sealed, user, c.Recipient())); err != nil {
			t.Fatal(err)
		}
		c.after(t)
		if last := c.acts[len(c.acts)-1]; last.Reason != "authority_signs" || c.State().Lost != nil {
			t.Errorf("%+v, %v", last, c.State().Lost)
		}

		c.lose(t)
		time.Sleep(2 * time.Hour)
		c.start(t)
		if c.Source.Current().SVID != nil {
			t.Error("it serves with a certificate that has ended")
		}
		if err := c.Restore(t.Context(), resealed(t, sealed, user, c.Recipient())); err != nil || c.Source.Current().SVID == nil {
			t.Errorf("restored, it has no certificate: %v", err)
		}

		c.lose(t)
		if err := os.Remove(filepath.Join(c.config.StateDir, "identity.sealed")); err != nil {
			t.Fatal(err)
		}
		_ = os.Remove(filepath.Join(c.config.StateDir, "identity.sealed.prev"))
		c.start(t)
		if bytes.Equal(c.CA.Bundle().Roots[0], bundle.Roots[0]) {
			t.Error("the root came from nowhere: this test shows nothing")
		}
	})
}

func resealed(t *testing.T, sealed []byte, from age.Identity, recipient string) []byte {
	t.Helper()
	to, err := age.ParseX25519Recipient(recipient)
	if err != nil {
		t.Fatal(err)
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), from)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, to)
	if err == nil {
		_, err = w.Write(plain)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestALostKeyIsReplacedByANewRoot of a control plane that serves on.
func TestALostKeyIsReplacedByANewRoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.proxies = []xds.ClientStatus{proxyThatHas("shop/a", "all")}
		own := c.Source.Current().SVID
		c.lose(t)
		c.start(t)
		if err := c.Begin(t.Context()); err != nil {
			t.Fatal(err)
		}
		if now := c.Source.Current().SVID; now != own && !bytes.Equal(now.Chain[0], own.Chain[0]) {
			t.Error("its certificate is of a root that nobody believes yet")
		}
		time.Sleep(young)
		if phase, waits := c.after(t); phase != ca.PhaseIssuing || c.State().Lost != nil {
			t.Fatalf("phase %s, waits %q, %v", phase, waits, c.State().Lost)
		}
		ctx, stop := context.WithTimeout(t.Context(), time.Hour)
		defer stop()
		_ = c.KeepCertificate(ctx, func() float64 { return 0.5 })
		if now := c.Source.Current().SVID; now.Leaf.AuthorityKeyId == nil || bytes.Equal(now.Leaf.AuthorityKeyId, own.Leaf.AuthorityKeyId) {
			t.Error("its certificate was not renewed by the new root")
		}
	})
}
