package mesh

import (
	"bytes"
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
	"time"
)

// SecretTypeTLS is the type of Secrets that hold a certificate and its key, in PEM under CertificateKey and PrivateKeyKey.
const (
	SecretTypeTLS  = "kubernetes.io/tls"
	CertificateKey = "tls.crt"
	PrivateKeyKey  = "tls.key"
)

// Certificate is a Secret of type SecretTypeTLS: what a server shows, and the key by which it proves that. It never leaves its
// cluster, and of the cluster's proxies those get it that serve a Gateway which names it.
type Certificate struct {
	Namespace, Name string
	// Chain is in PEM, the server's own certificate first.
	Chain string
	Key   Hidden
	// Names are those that the certificate is for; it holds from NotBefore to NotAfter.
	Names               []string
	NotBefore, NotAfter time.Time
	// Problem says why it cannot be used: then Chain and Key are empty.
	Problem string
}

// Dated says why the certificate does not hold at a time; empty if it does.
func (c *Certificate) Dated(now time.Time) string {
	switch {
	case now.After(c.NotAfter):
		return "the certificate ended on " + c.NotAfter.Format(time.RFC3339)
	case now.Before(c.NotBefore):
		return "the certificate begins on " + c.NotBefore.Format(time.RFC3339)
	}
	return ""
}

// Hidden is a string of bytes that no way of printing, logging or marshalling shows; only Reveal does, so that its uses can be
// found. It is immutable; the zero Hidden is empty. Digests leave it out: what it belongs to determines it.
type Hidden struct{ reveal func() []byte }

// Hide takes a copy of b.
func Hide(b []byte) Hidden {
	if len(b) == 0 {
		return Hidden{}
	}
	c := bytes.Clone(b)
	return Hidden{func() []byte { return c }}
}

// Reveal returns the bytes themselves, which the caller does not change.
func (h Hidden) Reveal() []byte {
	if h.reveal == nil {
		return nil
	}
	return h.reveal()
}

// Equal compares in time that depends on the lengths only.
func (h Hidden) Equal(o Hidden) bool { return subtle.ConstantTimeCompare(h.Reveal(), o.Reveal()) == 1 }

const hiddenText = "(hidden)"

// Format shows that there is something, whatever the verb.
func (h Hidden) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hiddenText) }

// String is Format's.
func (h Hidden) String() string { return hiddenText }

// MarshalText is String, also to encoding/json.
func (h Hidden) MarshalText() ([]byte, error) { return []byte(hiddenText), nil }

// LogValue is String.
func (h Hidden) LogValue() slog.Value { return slog.StringValue(hiddenText) }
