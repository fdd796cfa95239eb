package trust_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"io"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

const (
	west = mesh.TrustDomain("eu-west.isthmus.local")
	east = mesh.TrustDomain("us-east.isthmus.local")
)

var (
	shop   = mesh.Identity{TrustDomain: west, Namespace: "default", ServiceAccount: "shop"}
	orders = mesh.Identity{TrustDomain: west, Namespace: "default", ServiceAccount: "orders"}
	clerk  = mesh.Identity{TrustDomain: east, Namespace: "default", ServiceAccount: "clerk"}
)

// pair is a certificate and its key; parents leads to a root.
type pair struct {
	cert    *x509.Certificate
	key     crypto.Signer
	parents []*x509.Certificate // to show beside cert, the nearest first
}

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func serial(t testing.TB) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	return n.Add(n, big.NewInt(1))
}

// make signs template with parent, or with itself if parent is nil.
func (parent *pair) make(t testing.TB, template *x509.Certificate, key crypto.Signer) *pair {
	t.Helper()
	if template.SerialNumber == nil {
		template.SerialNumber = serial(t)
	}
	signer, signerCert := key, template
	var parents []*x509.Certificate
	if parent != nil {
		signer, signerCert = parent.key, parent.cert
		parents = append([]*x509.Certificate{parent.cert}, parent.parents...)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signerCert, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("the test's own certificate does not parse: %v", err)
	}
	return &pair{cert, key, parents}
}

func caTemplate(td mesh.TrustDomain, name string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		Subject:   pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(48 * time.Hour),
		BasicConstraintsValid: true, IsCA: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		URIs:     []*url.URL{{Scheme: "spiffe", Host: string(td)}},
	}
}

func newRoot(t testing.TB, td mesh.TrustDomain) *pair {
	t.Helper()
	return (*pair)(nil).make(t, caTemplate(td, "root of "+string(td)), ecKey(t))
}

func leafTemplate(id mesh.Identity) *x509.Certificate {
	now := time.Now()
	u, _ := url.Parse(id.String())
	return &x509.Certificate{
		NotBefore: now.Add(-trust.Backdate), NotAfter: now.Add(24 * time.Hour),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:                  []*url.URL{u},
	}
}

func (p *pair) leaf(t testing.TB, id mesh.Identity) *pair {
	t.Helper()
	return p.make(t, leafTemplate(id), ecKey(t))
}

// sanExtension is a subject alternative name of exactly these names, tags and
// bytes: what net/url would tidy up stays as it is.
func sanExtension(t testing.TB, names ...asn1.RawValue) pkix.Extension {
	t.Helper()
	der, err := asn1.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: der}
}

func uriName(s string) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(s)}
}

// chain is what p shows: its own certificate and, without the root, its parents.
func (p *pair) chain() [][]byte {
	out := [][]byte{p.cert.Raw}
	for i, c := range p.parents {
		if i < len(p.parents)-1 {
			out = append(out, c.Raw)
		}
	}
	return out
}

func (p *pair) tls() *tls.Certificate {
	return &tls.Certificate{Certificate: p.chain(), PrivateKey: p.key, Leaf: p.cert}
}

func bundle(td mesh.TrustDomain, generation uint64, roots ...*pair) mesh.Bundle {
	b := mesh.Bundle{TrustDomain: td, Generation: generation}
	for _, r := range roots {
		b.Roots = append(b.Roots, r.cert.Raw)
	}
	return b
}

func mustBundles(t testing.TB, bs ...mesh.Bundle) *trust.Bundles {
	t.Helper()
	set, err := trust.NewBundles(bs...)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// svid is a certificate of id by root with a key of ours.
func svid(t testing.TB, root *pair, id mesh.Identity, change func(*x509.Certificate)) *trust.SVID {
	t.Helper()
	key, err := trust.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	template := leafTemplate(id)
	if change != nil {
		change(template)
	}
	p := root.make(t, template, key)
	s, err := trust.NewSVID(key, p.chain())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newSource(t testing.TB, s *trust.SVID, b *trust.Bundles) *trust.Source {
	t.Helper()
	source := trust.NewSource(clock.Real{})
	if err := source.Update(s, b); err != nil {
		t.Fatal(err)
	}
	return source
}

// publicOnly stands for the key of a subject that is not here.
type publicOnly struct{ public crypto.PublicKey }

func (k publicOnly) Public() crypto.PublicKey { return k.public }
func (k publicOnly) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("the subject's key is not here")
}
