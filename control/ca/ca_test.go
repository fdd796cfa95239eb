package ca_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/isthmus-mesh/isthmus/control/ca"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const west = mesh.TrustDomain("eu-west.isthmus.local")

var (
	shop    = mesh.Identity{TrustDomain: west, Namespace: "default", ServiceAccount: "shop"}
	control = mesh.Identity{TrustDomain: west, Namespace: "isthmus-system", ServiceAccount: "control"}
)

// place is where an authority is kept.
type place struct {
	path string
	seal trust.SealKey
}

func newPlace(t testing.TB) place {
	return place{filepath.Join(t.TempDir(), "ca"), trust.NewSealKey()}
}

func (p place) config() ca.Config {
	return ca.Config{
		TrustDomain: west, Clock: clock.Real{}, Log: slog.New(slog.DiscardHandler),
		Keys: ca.NewSealedKeys(p.path, p.seal, clock.Real{}),
	}
}

func (p place) open(t testing.TB) *ca.CA {
	t.Helper()
	c, err := ca.Open(context.Background(), p.config())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newCSR(t testing.TB) (trust.PrivateKey, []byte) {
	t.Helper()
	key, err := trust.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := key.CSR()
	if err != nil {
		t.Fatal(err)
	}
	return key, csr
}

func attested(id mesh.Identity) ca.Attested { return ca.Attested{Identity: id, By: "test"} }

func sign(t testing.TB, c *ca.CA, id mesh.Identity) *trust.SVID {
	t.Helper()
	key, csr := newCSR(t)
	issued, err := c.Sign(csr, attested(id))
	if err != nil {
		t.Fatal(err)
	}
	s, err := trust.NewSVID(key, issued.Chain)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func verify(t testing.TB, b mesh.Bundle, s *trust.SVID) error {
	t.Helper()
	set, err := trust.NewBundles(b)
	if err != nil {
		t.Fatal(err)
	}
	_, err = set.VerifyPeer([]*x509.Certificate{s.Leaf}, time.Now(), trust.AcceptServers(s.Identity.TrustDomain, s.Identity))
	return err
}

func TestACertificateSaysWhatAttestationSaid(t *testing.T) {
	c := newPlace(t).open(t)
	s := sign(t, c, shop)
	if err := verify(t, c.Bundle(), s); err != nil {
		t.Error(err)
	}
	leaf := s.Leaf
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != shop.String() {
		t.Errorf("URIs %v, want %v", leaf.URIs, shop)
	}
	if n := len(leaf.DNSNames) + len(leaf.IPAddresses) + len(leaf.EmailAddresses); n != 0 || leaf.Subject.String() != "" {
		t.Errorf("%d other names, subject %q", n, leaf.Subject)
	}
	if life := leaf.NotAfter.Sub(leaf.NotBefore); life != ca.TTLDefault+trust.Backdate {
		t.Errorf("valid for %v, want 24h and 10 min", life)
	}
	if back := trust.Skew(leaf.NotBefore, time.Now()); back < 0 || back > time.Minute {
		t.Errorf("not back-dated by 10 minutes: off by %v", back)
	}
	if leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.ExtKeyUsage) != 2 {
		t.Errorf("CA %v, usage %v, extended %v", leaf.IsCA, leaf.KeyUsage, leaf.ExtKeyUsage)
	}
	if leaf.SerialNumber.BitLen() > 128 || leaf.SerialNumber.BitLen() < 64 || leaf.SerialNumber.Cmp(sign(t, c, shop).Leaf.SerialNumber) == 0 {
		t.Errorf("serial number %x", leaf.SerialNumber)
	}
	root, err := x509.ParseCertificate(c.Bundle().Roots[0])
	if err != nil {
		t.Fatal(err)
	}
	if !root.IsCA || !root.MaxPathLenZero || root.MaxPathLen != 0 || root.NotAfter.Sub(root.NotBefore) != ca.RootLife+trust.Backdate {
		t.Errorf("root: CA %v, path length %d, life %v", root.IsCA, root.MaxPathLen, root.NotAfter.Sub(root.NotBefore))
	}
	if trust.PinOf(root) != c.Pin() {
		t.Error("the pin is not the root's")
	}
}

// greedy is a request that asks for everything.
func greedy(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	basic, err := asn1.Marshal(struct{ CA bool }{true})
	if err != nil {
		t.Fatal(err)
	}
	evil, err := url.Parse("spiffe://eu-west.isthmus.local/ns/isthmus-system/sa/control")
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: "admin"},
		URIs:     []*url.URL{evil},
		DNSNames: []string{"*.isthmus.local"}, EmailAddresses: []string{"root@isthmus.local"}, IPAddresses: []net.IP{net.IPv4zero},
		ExtraExtensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: basic},
			{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: []byte{3, 2, 1, 6}}, // keyCertSign, cRLSign
		},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestWhatARequestAsksForIsIgnored(t *testing.T) {
	c := newPlace(t).open(t)
	key, err := trust.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	issued, err := c.Sign(greedy(t, key), attested(shop))
	if err != nil {
		t.Fatal(err)
	}
	s, err := trust.NewSVID(key, issued.Chain)
	if err != nil {
		t.Fatal(err)
	}
	plain := sign(t, c, shop).Leaf
	if s.Identity != shop || len(s.Leaf.Extensions) != len(plain.Extensions) || s.Leaf.Subject.String() != "" || s.Leaf.IsCA {
		t.Errorf("the request showed through: %v, subject %q, %d extensions, want %d", s.Identity, s.Leaf.Subject, len(s.Leaf.Extensions), len(plain.Extensions))
	}
	if bytes.Contains(s.Leaf.Raw, []byte("control")) || bytes.Contains(s.Leaf.Raw, []byte("*.")) {
		t.Error("the request's names are somewhere in the certificate")
	}
}

func TestRequestsThatMustNotBeGranted(t *testing.T) {
	p := newPlace(t)
	config := p.config()
	config.Admit = func(id mesh.Identity) error {
		if id.ServiceAccount == "gone" {
			return errors.New("the account does not exist")
		}
		return nil
	}
	c, err := ca.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	_, csr := newCSR(t)
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	forged := bytes.Clone(csr)
	forged[len(forged)-1] ^= 1
	foreign, upper := shop, shop
	foreign.TrustDomain, upper.Namespace = "us-east.isthmus.local", "Default"
	gone := shop
	gone.ServiceAccount = "gone"
	for name, r := range map[string]struct {
		csr []byte
		who ca.Attested
	}{
		"no request":            {nil, attested(shop)},
		"rubbish":               {[]byte("rubbish"), attested(shop)},
		"trailing rubbish":      {append(bytes.Clone(csr), 0), attested(shop)},
		"a wrong signature":     {forged, attested(shop)},
		"RSA":                   {greedy(t, weak), attested(shop)},
		"P-384":                 {greedy(t, p384), attested(shop)},
		"too large":             {make([]byte, ca.CSRBytesMax+1), attested(shop)},
		"nobody":                {csr, ca.Attested{}},
		"an attestor unnamed":   {csr, ca.Attested{Identity: shop}},
		"another trust domain":  {csr, attested(foreign)},
		"no Kubernetes name":    {csr, attested(upper)},
		"an account that is no": {csr, attested(gone)},
	} {
		var refused *ca.RefusedError
		if _, err := c.Sign(r.csr, r.who); !errors.As(err, &refused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.Attest(foreign); err == nil {
		t.Error("a certificate of another domain renewed here")
	}
	if _, err := c.Attest(mesh.Identity{}); err == nil {
		t.Error("nobody renewed")
	}
	who, err := c.Attest(shop)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Sign(csr, who); err != nil {
		t.Errorf("a lawful renewal: %v", err)
	}
}

// TestTheAuthoritysOwnKeyGetsNoCertificate asks with the key read from the sealed
// state, as nobody else could.
func TestTheAuthoritysOwnKeyGetsNoCertificate(t *testing.T) {
	p := newPlace(t)
	c := p.open(t)
	sealed, err := (&trust.SealedFile{Path: p.path, Key: p.seal, Purpose: "certificate authority"}).Read()
	if err != nil {
		t.Fatal(err)
	}
	var kept struct{ Roots []struct{ Key []byte } }
	if err := json.Unmarshal(sealed.Payload, &kept); err != nil || len(kept.Roots) != 1 {
		t.Fatalf("%d roots, %v", len(kept.Roots), err)
	}
	key, err := trust.ParsePrivateKey(kept.Roots[0].Key)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := key.CSR()
	if err != nil {
		t.Fatal(err)
	}
	var refused *ca.RefusedError
	if _, err := c.Sign(csr, attested(shop)); !errors.As(err, &refused) {
		t.Errorf("signed the authority's own key: %v", err)
	}
}

func TestAnAuthorityOutlivesItsProcess(t *testing.T) {
	p := newPlace(t)
	first := p.open(t)
	before := sign(t, first, shop)
	again := p.open(t)
	if first.Pin() != again.Pin() || again.Bundle().Generation != 1 {
		t.Error("another root after a restart")
	}
	if err := verify(t, again.Bundle(), before); err != nil {
		t.Error(err)
	}
	if err := verify(t, first.Bundle(), sign(t, again, shop)); err != nil {
		t.Error(err)
	}
	data, err := os.ReadFile(p.path)
	if err != nil || bytes.Contains(data, []byte("isthmus")) || bytes.Contains(data, []byte("Roots")) {
		t.Errorf("the state stands in plain text (%v)", err)
	}
	if info, err := os.Stat(p.path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestADamagedAuthorityIsNeverReplacedByANewOne(t *testing.T) {
	p := newPlace(t)
	p.open(t)
	if _, err := ca.Open(t.Context(), place{p.path, trust.NewSealKey()}.config()); err == nil {
		t.Error("opened with another seal key")
	}
	other := p.config()
	other.TrustDomain = "us-east.isthmus.local"
	if _, err := ca.Open(t.Context(), other); err == nil {
		t.Error("opened as another trust domain")
	}
	if err := os.Truncate(p.path, 100); err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Open(t.Context(), p.config()); err == nil {
		t.Error("a damaged authority was opened or replaced")
	}
}

func TestAnAuthorityThatFellBackOneStepGoesOn(t *testing.T) {
	p := newPlace(t)
	c := p.open(t)
	old := sign(t, c, shop)
	if err := c.Introduce(t.Context()); err != nil {
		t.Fatal(err)
	}
	seen := c.Bundle()
	if err := os.Truncate(p.path, 100); err != nil {
		t.Fatal(err)
	}
	again := p.open(t)
	if again.Rotation().Phase != ca.PhaseStable {
		t.Errorf("phase %v", again.Rotation().Phase)
	}
	// Whoever saw the lost bundle takes the one in force now.
	believed, err := trust.NewBundles(seen)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := believed.With(again.Bundle()); err != nil {
		t.Errorf("bundle after the fall-back: %v", err)
	}
	if err := verify(t, again.Bundle(), old); err != nil {
		t.Error(err)
	}
	if again.Rotation() != p.open(t).Rotation() {
		t.Error("the fall-back was not saved")
	}
}

// failingKeys fails each Save while down.
type failingKeys struct {
	ca.KeyStore
	down bool
}

var errDown = errors.New("disk is gone")

func (k *failingKeys) Save(ctx context.Context, s trust.Secret) error {
	if k.down {
		return errDown
	}
	return k.KeyStore.Save(ctx, s)
}

func TestARootThatCouldNotBeSavedIsNotPublished(t *testing.T) {
	p := newPlace(t)
	config := p.config()
	keys := &failingKeys{KeyStore: config.Keys, down: true}
	config.Keys = keys
	if _, err := ca.Open(t.Context(), config); !errors.Is(err, errDown) {
		t.Errorf("a first root that could not be saved: %v", err)
	}
	keys.down = false
	c, err := ca.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	keys.down = true
	before := c.Bundle()
	if err := c.Introduce(t.Context()); !errors.Is(err, errDown) {
		t.Errorf("introduce: %v", err)
	}
	if c.Bundle().Generation != before.Generation || len(c.Bundle().Roots) != 1 {
		t.Error("published what was not saved")
	}
	sign(t, c, shop) // signing needs no store
}

// TestARotationNeverRefusesALawfulCertificate walks through a rotation with
// verifiers that are as late as the gates allow.
func TestARotationNeverRefusesALawfulCertificate(t *testing.T) {
	now := &shiftable{}
	p := newPlace(t)
	config := p.config()
	config.Clock, config.TTL = now, time.Hour
	c, err := ca.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	everybody := func() ca.Seen { return ca.Seen{Complete: true, Generation: c.Bundle().Generation} }
	check := func(step string, b mesh.Bundle, s *trust.SVID) {
		t.Helper()
		set, err := trust.NewBundles(b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := set.VerifyPeer([]*x509.Certificate{s.Leaf}, now.Now(), trust.AcceptKnownClients()); err != nil {
			t.Errorf("%s: %v", step, err)
		}
	}
	gated := func(step string, err error) {
		t.Helper()
		var gate *ca.GateError
		if !errors.As(err, &gate) {
			t.Errorf("%s: %v, want a closed gate", step, err)
		}
	}

	b1, s1 := c.Bundle(), sign(t, c, shop)
	if err := c.Introduce(t.Context()); err != nil {
		t.Fatal(err)
	}
	b2 := c.Bundle()
	check("introduced: an early verifier, the old root", b2, s1)
	check("introduced: a late verifier, a new certificate", b1, sign(t, c, shop))
	gated("switch with a late verifier", c.Switch(t.Context(), ca.Seen{Complete: true, Generation: b1.Generation}))
	gated("switch with somebody unheard", c.Switch(t.Context(), ca.Seen{Generation: b2.Generation, Missing: "cluster ap-south"}))
	if err := c.Retire(t.Context(), everybody()); !errors.Is(err, ca.ErrPhase) {
		t.Errorf("retire before switch: %v", err)
	}
	s2 := sign(t, c, shop) // the last of the old root
	if err := c.Switch(t.Context(), everybody()); err != nil {
		t.Fatal(err)
	}
	s3 := sign(t, c, shop)
	check("issuing: the last certificate of the old root", c.Bundle(), s2)
	check("issuing: the first of the new", b2, s3)
	gated("retire at once", c.Retire(t.Context(), everybody()))
	now.by = time.Hour
	gated("retire within a slow clock of the end", c.Retire(t.Context(), everybody()))
	check("issuing: an old verifier, a fresh certificate", b2, sign(t, c, shop))
	now.by = time.Hour + 6*time.Minute
	if err := c.Retire(t.Context(), everybody()); err != nil {
		t.Fatal(err)
	}
	if b := c.Bundle(); len(b.Roots) != 1 || b.Generation != 3 {
		t.Errorf("at the end %d roots, generation %d", len(b.Roots), b.Generation)
	}
	check("retired: a late verifier", b2, sign(t, c, shop))
	check("retired: everybody", c.Bundle(), sign(t, c, shop))
	if err := verify(t, c.Bundle(), s1); trust.FaultOf(err) != trust.FaultChain {
		t.Errorf("a certificate of the retired root: %v", err)
	}
	if c.Rotation() != p.openWith(t, config).Rotation() {
		t.Error("the rotation is not what was saved")
	}
}

func (p place) openWith(t *testing.T, config ca.Config) *ca.CA {
	t.Helper()
	c, err := ca.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

type shiftable struct {
	clock.Real
	by time.Duration
}

func (s *shiftable) Now() time.Time { return s.Real.Now().Add(s.by) }

func TestARestartWithAShorterLifeRemembersTheLongerOnes(t *testing.T) {
	p := newPlace(t)
	config := p.config()
	config.TTL = 100 * time.Hour
	last := sign(t, p.openWith(t, config), shop).Leaf.NotAfter
	config.TTL = time.Minute
	c := p.openWith(t, config)
	if err := c.Introduce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Switch(t.Context(), ca.Seen{Complete: true, Generation: 2}); err != nil {
		t.Fatal(err)
	}
	if until := p.openWith(t, config).Rotation().OldUntil; until.Before(last) {
		t.Errorf("the old root may go at %v, its last certificate ends %v", until, last)
	}
}

func TestAnAbandonedRootIsNotUsedAgain(t *testing.T) {
	c := newPlace(t).open(t)
	if err := c.Abandon(t.Context()); !errors.Is(err, ca.ErrPhase) {
		t.Errorf("abandon nothing: %v", err)
	}
	seen := map[string]bool{}
	for range 3 {
		if err := c.Introduce(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := c.Introduce(t.Context()); !errors.Is(err, ca.ErrPhase) {
			t.Errorf("introduce twice: %v", err)
		}
		for _, r := range c.Bundle().Roots {
			seen[string(r)] = true
		}
		if err := c.Abandon(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(seen) != 4 || len(c.Bundle().Roots) != 1 || c.Bundle().Generation != 7 {
		t.Errorf("%d roots seen, %d left, generation %d", len(seen), len(c.Bundle().Roots), c.Bundle().Generation)
	}
}

// TestRotationUnderSigning rotates while others sign: every certificate verifies
// against the bundle of its moment.
func TestRotationUnderSigning(t *testing.T) {
	c := newPlace(t).open(t)
	if err := c.Introduce(t.Context()); err != nil {
		t.Fatal(err)
	}
	b := c.Bundle()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 25 {
				if err := verify(t, b, sign(t, c, shop)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	if err := c.Switch(t.Context(), ca.Seen{Complete: true, Generation: b.Generation}); err != nil {
		t.Error(err)
	}
	wg.Wait()
}

func TestAConfigurationReportsAllFaults(t *testing.T) {
	err := ca.Config{TrustDomain: "Upper", TTL: time.Millisecond}.Validate()
	for _, want := range []string{"Upper", "1ms", "required"} {
		if err == nil || !bytes.Contains([]byte(err.Error()), []byte(want)) {
			t.Errorf("%v, want %q in it", err, want)
		}
	}
}

// TestControlPlaneAndProxyMeet is a whole first contact and the traffic after it.
func TestControlPlaneAndProxyMeet(t *testing.T) {
	c := newPlace(t).open(t)
	key, err := trust.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	own, err := c.SelfIssue(key, control)
	if err != nil {
		t.Fatal(err)
	}
	set, err := trust.NewBundles(c.Bundle())
	if err != nil {
		t.Fatal(err)
	}
	plane := trust.NewSource(clock.Real{})
	if err := plane.Update(own, set); err != nil {
		t.Fatal(err)
	}
	tokens := ca.NewJoinTokens(c, &ca.MemoryTokens{})
	made, err := tokens.Issue(t.Context(), shop, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	token, err := trust.ParseToken(made.Text())
	if err != nil {
		t.Fatal(err)
	}
	shake := func(client, server *tls.Config) {
		t.Helper()
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		deadline := time.Now().Add(time.Minute)
		_, _ = a.SetDeadline(deadline), b.SetDeadline(deadline)
		done := make(chan error, 1)
		go func() { done <- tls.Server(b, server).Handshake() }()
		if err := tls.Client(a, client).Handshake(); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	shake(trust.JoinClientConfig(clock.Real{}, token, "control.test", []mesh.Identity{control}, "isthmus-join/1"),
		trust.JoinServerConfig(plane, "isthmus-join/1"))
	proxyKey, csr := newCSR(t)
	issued, err := tokens.Join(t.Context(), token.ID, token.Secret, csr)
	if err != nil {
		t.Fatal(err)
	}
	svid, err := trust.NewSVID(proxyKey, issued.Chain)
	if err != nil {
		t.Fatal(err)
	}
	proxy := trust.NewSource(clock.Real{})
	if err := proxy.Update(svid, set); err != nil {
		t.Fatal(err)
	}
	shake(trust.ClientConfig(proxy, trust.AcceptServers(west, control), "control.test"),
		trust.ServerConfig(plane, trust.ServerOptions{Accept: trust.AcceptClients(west)}))
}

func FuzzSign(f *testing.F) {
	c := newPlace(f).open(f)
	_, csr := newCSR(f)
	key, err := trust.NewPrivateKey()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(csr)
	f.Add(greedy(f, key))
	f.Add([]byte{0x30, 0})
	set, err := trust.NewBundles(c.Bundle())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		issued, err := c.Sign(der, attested(shop))
		if err != nil {
			return
		}
		leaf, err := x509.ParseCertificate(issued.Chain[0])
		if err != nil {
			t.Fatal(err)
		}
		csr, err := x509.ParseCertificateRequest(der)
		if err != nil || !slices.Equal(csr.RawSubjectPublicKeyInfo, leaf.RawSubjectPublicKeyInfo) {
			t.Errorf("signed another key than the request's (%v)", err)
		}
		if id, err := set.VerifyPeer([]*x509.Certificate{leaf}, time.Now(), trust.AcceptServers(west, shop)); err != nil {
			t.Errorf("signed as %v: %v", id, err)
		}
	})
}

func BenchmarkSign(b *testing.B) {
	c := newPlace(b).open(b)
	_, csr := newCSR(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Sign(csr, attested(shop)); err != nil {
			b.Fatal(err)
		}
	}
}
