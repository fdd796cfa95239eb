// Package issued makes certificates of servers for tests: an authority and what it signs, in PEM, as a person would get them. It
// keeps nothing and trusts nobody. Read Authority.
package issued

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"testing"
	"time"
)

// Authority signs certificates.
type Authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  crypto.Signer
	last int64
}

// Pair is a certificate and its key, in PEM.
type Pair struct{ Certificate, Key []byte }

// NewAuthority makes one with a key of its own.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{t: t, key: newKey(t, false)}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority of a test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.last = 1
	return a
}

// PEM is the authority's own certificate.
func (a *Authority) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// Pool is what a client believes that trusts the authority.
func (a *Authority) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// For is a certificate for names, which holds from an hour ago for two.
func (a *Authority) For(names ...string) Pair {
	return a.sign(newKey(a.t, false), time.Now().Add(-time.Hour), 2*time.Hour, names)
}

// RSA is For with an RSA key.
func (a *Authority) RSA(names ...string) Pair {
	return a.sign(newKey(a.t, true), time.Now().Add(-time.Hour), 2*time.Hour, names)
}

// Until is For that ended, or will end, at a time.
func (a *Authority) Until(end time.Time, names ...string) Pair {
	return a.sign(newKey(a.t, false), end.Add(-2*time.Hour), 2*time.Hour, names)
}

func (a *Authority) sign(key crypto.Signer, from time.Time, life time.Duration, names []string) Pair {
	a.t.Helper()
	a.last++
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(a.last), NotBefore: from, NotAfter: from.Add(life), DNSNames: names,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	b, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return Pair{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b})}
}

func newKey(t testing.TB, ofRSA bool) crypto.Signer {
	t.Helper()
	var k crypto.Signer
	var err error
	if ofRSA {
		k, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Secret is the pair as a manifest.
func (p Pair) Secret(namespace, name string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: %s, namespace: %s}\ntype: kubernetes.io/tls\ndata:\n  tls.crt: %s\n  tls.key: %s\n",
		name, namespace, base64.StdEncoding.EncodeToString(p.Certificate), base64.StdEncoding.EncodeToString(p.Key))
}

// Traces are forms in which the key would be found where it leaked: pieces of its PEM, of that in base64, and its bytes.
func (p Pair) Traces() []string {
	block, _ := pem.Decode(p.Key)
	lines := base64.StdEncoding.EncodeToString(block.Bytes)
	again := base64.StdEncoding.EncodeToString(p.Key)
	return []string{lines[64:104], again[120:180], string(block.Bytes[len(block.Bytes)-40:]), fmt.Sprintf("%x", block.Bytes[len(block.Bytes)-40:])}
}
