package trust

import (
	"crypto/tls"
	"crypto/x509"

	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// JoinClientConfig is the configuration of the first contact of a process that
// holds a token and nothing else. The server must show the authority that the token
// pins, and a certificate that this authority vouches for, of the token's trust
// domain and one of servers. Only on such a connection may the token's secret be
// sent. servers is kept, not copied.
func JoinClientConfig(c clock.Clock, token Token, sni string, servers []mesh.Identity, alpn ...string) *tls.Config {
	accept := AcceptServers(token.Identity.TrustDomain, servers...)
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		MaxVersion:             tls.VersionTLS13,
		ServerName:             sni,
		NextProtos:             alpn,
		Time:                   c.Now,
		InsecureSkipVerify:     true, // replaced by VerifyConnection; see ClientConfig
		SessionTicketsDisabled: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			bundles, err := pinned(state.PeerCertificates, token)
			if err != nil {
				return err
			}
			_, err = bundles.VerifyConnection(state, c.Now(), accept, alpn)
			return err
		},
	}
}

// pinned believes, for the token's trust domain, the one authority of chain that the
// token pins.
func pinned(chain []*x509.Certificate, token Token) (*Bundles, error) {
	if err := checkSize(chain); err != nil {
		return nil, err
	}
	for _, c := range chain[1:] {
		if PinOf(c) != token.CAPin {
			continue
		}
		b, err := NewBundles(mesh.Bundle{TrustDomain: token.Identity.TrustDomain, Roots: [][]byte{c.Raw}})
		if err != nil {
			return nil, &Error{Fault: FaultPin, Detail: "the pinned certificate is no authority", Err: err}
		}
		return b, nil
	}
	return nil, refuse(FaultPin, "no certificate of the %d shown has the key %s", len(chain), token.CAPin)
}

// JoinServerConfig is the configuration of the listener for first contacts: it
// shows source's certificate, whose chain must hold the root, and asks for none. What
// a caller may do is decided by its token; nothing else may be served there.
func JoinServerConfig(source *Source, alpn ...string) *tls.Config {
	c := serverBase(source, alpn, nil)
	c.ClientAuth = tls.NoClientCert
	c.VerifyConnection = func(state tls.ConnectionState) error {
		return checkTransport(state, alpn)
	}
	return c
}
