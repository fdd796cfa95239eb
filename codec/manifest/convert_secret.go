//house:exempt a parser: the content of Secrets

package manifest

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/isthmus-mesh/isthmus/mesh"
)

func (s *scope) secret(in *secret) *Secret {
	out := &Secret{Namespace: s.namespace, Name: s.name, Type: in.Type, data: make(map[string][]byte, len(in.Data)+len(in.StringData))}
	for k, v := range in.Data {
		out.data[k], _ = base64.StdEncoding.DecodeString(v)
	}
	for k, v := range in.StringData { // stringData wins, as in Kubernetes
		out.data[k] = []byte(v)
	}
	if in.Type == mesh.SecretTypeTLS {
		out.certificate = s.certificate(out, in)
	}
	return out
}

// certificate reads what a Secret of type kubernetes.io/tls is to hold. What is wrong is a fault of what its author sends; of what
// is stored already it is the value's problem, so that who names it is told.
func (s *scope) certificate(in *Secret, written *secret) *mesh.Certificate {
	out := &mesh.Certificate{Namespace: in.Namespace, Name: in.Name}
	fault := func(key, problem, remedy string) {
		if out.Problem == "" {
			out.Problem = key + ": " + problem
		}
		if s.parser.options.Stored {
			return
		}
		field := "data"
		if _, plain := written.StringData[key]; plain {
			field = "stringData"
		}
		s.fault((*path)(nil).field(field, key), problem, remedy)
	}
	chain, leaf, err := chainOf(in.data[mesh.CertificateKey])
	if err != nil {
		fault(mesh.CertificateKey, err.Error(), "write the server's certificate in PEM, and below it those between it and its authority")
	}
	key, err := keyOf(in.data[mesh.PrivateKeyKey])
	if err != nil {
		fault(mesh.PrivateKeyKey, err.Error(), "write the private key in PEM, unencrypted: PKCS #8, PKCS #1 or SEC 1")
	}
	if out.Problem != "" {
		return out
	}
	if _, err := tls.X509KeyPair(chain, key); err != nil {
		if !strings.Contains(err.Error(), "match") {
			fault(mesh.PrivateKeyKey, "the private key cannot be read", "write one of RSA, ECDSA or Ed25519: PKCS #8, PKCS #1 or SEC 1")
			return out
		}
		fault(mesh.PrivateKeyKey, "is not the key of the first certificate in "+mesh.CertificateKey, "write the two that belong together, the server's own certificate first")
		return out
	}
	out.Chain, out.Key, out.NotBefore, out.NotAfter = string(chain), mesh.Hide(key), leaf.NotBefore.UTC(), leaf.NotAfter.UTC()
	out.Names = append(out.Names, leaf.DNSNames...)
	for _, a := range leaf.IPAddresses {
		out.Names = append(out.Names, a.String())
	}
	s.dated(out, written)
	return out
}

// dated warns of a certificate that does not hold when it is written: clients refuse it.
func (s *scope) dated(c *mesh.Certificate, written *secret) {
	if s.parser.options.Stored || s.parser.options.Now.IsZero() {
		return
	}
	field := "data"
	if _, plain := written.StringData[mesh.CertificateKey]; plain {
		field = "stringData"
	}
	if problem := c.Dated(s.parser.options.Now); problem != "" {
		s.warn((*path)(nil).field(field, mesh.CertificateKey), problem+": clients refuse it", "apply one that holds")
	}
}

var errNoPEM = errors.New("missing")

// chainOf returns the certificates of a text in PEM, as PEM and nothing else, with the first of them read.
func chainOf(text []byte) ([]byte, *x509.Certificate, error) {
	if len(text) == 0 {
		return nil, nil, errNoPEM
	}
	all, err := authorities(string(text))
	if err != nil {
		return nil, nil, err
	}
	b, _ := pem.Decode([]byte(all))
	leaf, err := x509.ParseCertificate(b.Bytes)
	return []byte(all), leaf, err
}

// keyOf returns the one private key of a text in PEM, as PEM and nothing else. No error quotes it.
func keyOf(text []byte) ([]byte, error) {
	if len(text) == 0 {
		return nil, errNoPEM
	}
	var found *pem.Block
	for n := 1; ; n++ {
		var b *pem.Block
		if b, text = pem.Decode(text); b == nil {
			break
		}
		switch {
		case b.Type == "EC PARAMETERS": // which openssl writes before the key
		case b.Type == "ENCRYPTED PRIVATE KEY", b.Headers["DEK-Info"] != "":
			return nil, fmt.Errorf("block %d is encrypted", n)
		case !strings.HasSuffix(b.Type, "PRIVATE KEY"):
			return nil, fmt.Errorf("block %d is no private key", n)
		case found != nil:
			return nil, errors.New("holds two private keys")
		default:
			found = b
		}
	}
	if found == nil {
		return nil, errors.New("holds no private key in PEM")
	}
	return pem.EncodeToMemory(&pem.Block{Type: found.Type, Bytes: found.Bytes}), nil
}
