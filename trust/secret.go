package trust

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// redacted makes a type that embeds it print as redactedText by every common way.
//
// fmt reaches around methods when the value stands in an unexported field of
// somebody else's struct. So a type that embeds redacted holds its secret inside a
// closure, which every verb prints as an address. A pointer is not enough: "%s" of
// one is a bad verb, and fmt shows what a bad verb points at.
type redacted struct{}

const redactedText = "[redacted]"

func (redacted) String() string               { return redactedText }
func (redacted) GoString() string             { return redactedText }
func (redacted) Format(f fmt.State, _ rune)   { _, _ = io.WriteString(f, redactedText) }
func (redacted) MarshalText() ([]byte, error) { return []byte(redactedText), nil }
func (redacted) MarshalJSON() ([]byte, error) { return []byte(`"` + redactedText + `"`), nil }
func (redacted) LogValue() slog.Value         { return slog.StringValue(redactedText) }

// Secret is a string of bytes that cannot be printed, logged or marshalled; only
// Reveal gives it away, so that its uses can be found. The zero Secret is empty.
// It is immutable.
type Secret struct {
	redacted
	reveal func() []byte // nil for the zero Secret
}

// NewSecret takes a copy of b.
func NewSecret(b []byte) Secret {
	c := bytes.Clone(b)
	return Secret{reveal: func() []byte { return c }}
}

// RandomSecret returns n random bytes.
func RandomSecret(n int) Secret {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return Secret{reveal: func() []byte { return b }}
}

// Reveal returns the bytes themselves. The caller neither changes nor keeps them.
func (s Secret) Reveal() []byte {
	if s.reveal == nil {
		return nil
	}
	return s.reveal()
}

// Equal compares in time that depends on the lengths only.
func (s Secret) Equal(o Secret) bool {
	return subtle.ConstantTimeCompare(s.Reveal(), o.Reveal()) == 1
}

// PrivateKey is an ECDSA P-256 key that cannot be printed. It is a crypto.Signer,
// so that crypto/tls and crypto/x509 use it without holding the bare key. The zero
// PrivateKey is no key.
type PrivateKey struct {
	redacted
	reveal func() *ecdsa.PrivateKey // nil for no key
}

var _ crypto.Signer = PrivateKey{}

// NewPrivateKey makes a key.
func NewPrivateKey() (PrivateKey, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("make a P-256 key: %w", err)
	}
	return holding(k), nil
}

func holding(k *ecdsa.PrivateKey) PrivateKey {
	return PrivateKey{reveal: func() *ecdsa.PrivateKey { return k }}
}

// ParsePrivateKey reads what Reveal returned. Its errors do not quote der.
func ParsePrivateKey(der []byte) (PrivateKey, error) {
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return PrivateKey{}, errors.New("read private key: not PKCS #8")
	}
	e, ok := k.(*ecdsa.PrivateKey)
	if !ok || e.Curve != elliptic.P256() {
		return PrivateKey{}, errors.New("read private key: not ECDSA P-256")
	}
	return holding(e), nil
}

// Reveal returns the key as PKCS #8 DER, for a sealed file and nothing else.
func (k PrivateKey) Reveal() ([]byte, error) {
	if k.IsZero() {
		return nil, errNoKey
	}
	return x509.MarshalPKCS8PrivateKey(k.reveal())
}

var errNoKey = errors.New("no private key")

// IsZero reports whether k is no key.
func (k PrivateKey) IsZero() bool { return k.reveal == nil }

// Public is the *ecdsa.PublicKey, or nil for no key.
func (k PrivateKey) Public() crypto.PublicKey {
	if k.IsZero() {
		return nil
	}
	return k.reveal().Public()
}

// Sign signs a digest as ecdsa.PrivateKey.Sign does.
func (k PrivateKey) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if k.IsZero() {
		return nil, errNoKey
	}
	return k.reveal().Sign(random, digest, opts)
}

// Matches reports whether public is k's public half.
func (k PrivateKey) Matches(public crypto.PublicKey) bool {
	return !k.IsZero() && k.reveal().PublicKey.Equal(public)
}

// CSR is a certificate signing request (RFC 2986) that proves possession of k and
// asks for nothing: the issuer knows who asks from attestation alone.
func (k PrivateKey) CSR() ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, k)
	if err != nil {
		return nil, fmt.Errorf("make a certificate signing request: %w", err)
	}
	return der, nil
}
