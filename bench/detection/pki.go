package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

const (
	nearDomain = mesh.TrustDomain("near.isthmus.local")
	farDomain  = mesh.TrustDomain("far.isthmus.local")
)

var (
	observerIdentity = mesh.Identity{TrustDomain: nearDomain, Namespace: "isthmus-system", ServiceAccount: "control"}
	gatewayIdentity  = mesh.Identity{TrustDomain: farDomain, Namespace: "isthmus-system", ServiceAccount: "gateway"}
)

// material is what a child needs to prove who it is. It crosses a pipe, and the keys in it
// are worth nothing outside of this run.
type material struct {
	Key     []byte // as trust.ParsePrivateKey reads it
	Chain   [][]byte
	Bundles []mesh.Bundle
}

func (m material) source() (*trust.Source, error) {
	key, err := trust.ParsePrivateKey(m.Key)
	if err != nil {
		return nil, err
	}
	svid, err := trust.NewSVID(key, m.Chain)
	if err != nil {
		return nil, err
	}
	bundles, err := trust.NewBundles(m.Bundles...)
	if err != nil {
		return nil, err
	}
	s := trust.NewSource(clock.Real{})
	return s, s.Update(svid, bundles)
}

// newMaterial makes both sides' authorities and certificates.
func newMaterial() (near, far material, err error) {
	nearRoot, near, err := issue(observerIdentity)
	if err != nil {
		return near, far, err
	}
	farRoot, far, err := issue(gatewayIdentity)
	bundles := []mesh.Bundle{
		{TrustDomain: nearDomain, Generation: 1, Roots: [][]byte{nearRoot}},
		{TrustDomain: farDomain, Generation: 1, Roots: [][]byte{farRoot}},
	}
	near.Bundles, far.Bundles = bundles, bundles
	return near, far, err
}

// issue makes an authority of an identity's domain and a certificate by it.
func issue(id mesh.Identity) (root []byte, m material, err error) {
	now := time.Now()
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, m, err
	}
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root of " + string(id.TrustDomain)},
		NotBefore: now.Add(-trust.Backdate), NotAfter: now.Add(24 * time.Hour),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		URIs: []*url.URL{{Scheme: "spiffe", Host: string(id.TrustDomain)}},
	}
	if root, err = x509.CreateCertificate(rand.Reader, authority, authority, rootKey.Public(), rootKey); err != nil {
		return nil, m, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, m, err
	}
	name, err := url.Parse(id.String())
	if err != nil {
		return nil, m, err
	}
	leaf, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: authority.NotBefore, NotAfter: authority.NotAfter,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, URIs: []*url.URL{name},
	}, authority, key.Public(), rootKey)
	if err != nil {
		return nil, m, err
	}
	m.Chain = [][]byte{leaf}
	m.Key, err = x509.MarshalPKCS8PrivateKey(key)
	return root, m, err
}
