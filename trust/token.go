package trust

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Token is what a process shows at its first contact with a control plane: for one
// key, within the hour, for one identity. It names the authority that the control plane
// must prove to be of, so that the secret is shown to nobody else.
type Token struct {
	ID       TokenID
	Secret   Secret // TokenSecretBytes
	CAPin    Pin
	Identity mesh.Identity
	Expires  time.Time // whole seconds
}

// TokenSecretBytes is the length of a token's secret: 256 bits of chance.
const TokenSecretBytes = 32

// TokenID names a token in logs and stores; it is no secret.
type TokenID [16]byte

// String is the ID in hexadecimal.
func (t TokenID) String() string { return hex.EncodeToString(t[:]) }

// Pin is the SHA-256 of an authority's SubjectPublicKeyInfo (RFC 7469 §2.4).
type Pin [sha256.Size]byte

// String is the pin in hexadecimal.
func (p Pin) String() string { return hex.EncodeToString(p[:]) }

// PinOf is the pin of a certificate's key.
func PinOf(c *x509.Certificate) Pin { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// The text of a token is the prefix and, in unpadded base64url (RFC 4648 §5), its
// parts and the first four bytes of their SHA-256, which tell a token cut by a
// terminal from a wrong one.
const (
	tokenPrefix  = "isthmus-join-1."
	tokenFixed   = 16 + TokenSecretBytes + sha256.Size + 8
	tokenSum     = 4
	tokenTextMax = 4096
)

// Text is the token as it is handed over. It holds the secret.
func (t Token) Text() string {
	b := make([]byte, 0, tokenFixed+len(t.Identity.String())+tokenSum)
	b = append(b, t.ID[:]...)
	b = append(b, t.Secret.Reveal()...)
	b = append(b, t.CAPin[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(t.Expires.Unix()))
	b = append(b, t.Identity.String()...)
	sum := sha256.Sum256(b)
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(append(b, sum[:tokenSum]...))
}

// ParseToken reads the form of Text, white space around it ignored. Its errors do
// not quote the text.
func ParseToken(text string) (Token, error) {
	text = strings.TrimSpace(text)
	rest, ok := strings.CutPrefix(text, tokenPrefix)
	if !ok || len(text) > tokenTextMax {
		return Token{}, fmt.Errorf("join token: want %q and then at most %d characters", tokenPrefix, tokenTextMax)
	}
	// The decoder skips line breaks; a token has none.
	b, err := base64.RawURLEncoding.Strict().DecodeString(rest)
	if err != nil || strings.ContainsAny(rest, "\r\n") {
		return Token{}, errors.New("join token: not base64url")
	}
	if len(b) < tokenFixed+tokenSum {
		return Token{}, errors.New("join token: cut short")
	}
	b, sum := b[:len(b)-tokenSum], b[len(b)-tokenSum:]
	if want := sha256.Sum256(b); string(want[:tokenSum]) != string(sum) {
		return Token{}, errors.New("join token: damaged or cut short: its check sum is wrong")
	}
	var t Token
	b = b[copy(t.ID[:], b):]
	t.Secret, b = NewSecret(b[:TokenSecretBytes]), b[TokenSecretBytes:]
	b = b[copy(t.CAPin[:], b):]
	t.Expires, b = time.Unix(int64(binary.BigEndian.Uint64(b)), 0), b[8:]
	id, fault := identityOf(string(b))
	if fault != nil {
		return Token{}, fmt.Errorf("join token: identity: %w", fault)
	}
	t.Identity = id
	return t, nil
}
