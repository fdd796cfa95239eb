package trust

import (
	"crypto/tls"
	"slices"
)

// ClientConfig is the configuration of one connection to the server that asks for
// the name sni: it presents source's certificate and verifies the server against
// source's bundles and accept. It costs a few hundred bytes; make one for each
// connection, since accept and sni belong to the connection. alpn is kept, not
// copied; when it is not empty the server must choose one of it.
func ClientConfig(source *Source, accept Accept, sni string, alpn ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		MaxVersion: tls.VersionTLS13,
		ServerName: sni,
		NextProtos: alpn,
		Time:       source.now,
		// The library's verification compares host names and takes one pool of roots for
		// all; ours takes one per trust domain and compares identities. It replaces the
		// library's wholly, and VerifyConnection runs on resumed connections too, which
		// VerifyPeerCertificate does not.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			_, err := source.Current().Bundles.VerifyConnection(state, source.now(), accept, alpn)
			return err
		},
		GetClientCertificate: source.getClient,
		// No ClientSessionCache: a resumed session would outlive the roots and the identity
		// it was made under.
		SessionTicketsDisabled: true,
	}
}

// ServerOptions are what a server chooses. The zero Accept admits nobody.
type ServerOptions struct {
	Accept Accept
	// ALPN is what the server speaks, the preferred first. When it is not empty a
	// client must ask for one of it.
	ALPN []string
	// Serves, if not nil, is asked for the client's SNI, empty if it sent none, and for
	// the protocol of ALPN that will be spoken, before any certificate is shown; false
	// ends the handshake with the alert unrecognized_name (RFC 6066 §3). It is called
	// concurrently and must not block.
	Serves func(sni, protocol string) bool
}

// ServerConfig is the configuration of a listener, shared by its connections: it
// presents source's certificate, requires one of the client and verifies it against
// source's bundles and o.Accept.
func ServerConfig(source *Source, o ServerOptions) *tls.Config {
	c := serverBase(source, o.ALPN, o.Serves)
	// Any, not Verify: the library would verify against one pool for all trust
	// domains. VerifyConnection does, per domain; a client without a certificate has
	// been refused by then.
	c.ClientAuth = tls.RequireAnyClientCert
	c.VerifyConnection = func(state tls.ConnectionState) error {
		_, err := source.Current().Bundles.VerifyConnection(state, source.now(), o.Accept, o.ALPN)
		return err
	}
	return c
}

func serverBase(source *Source, alpn []string, serves func(sni, protocol string) bool) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		MaxVersion: tls.VersionTLS13,
		NextProtos: alpn,
		Time:       source.now,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if serves != nil && !serves(hello.ServerName, chosen(alpn, hello.SupportedProtos)) {
				return nil, nil // crypto/tls answers unrecognized_name
			}
			return source.certificate()
		},
		// A ticket would let a client in whose root or cluster was expelled meanwhile.
		SessionTicketsDisabled: true,
	}
}

// chosen is what crypto/tls agrees to: the first of ours that the client speaks (RFC 7301
// §3.2), or nothing.
func chosen(ours, theirs []string) string {
	for _, p := range ours {
		if slices.Contains(theirs, p) {
			return p
		}
	}
	return ""
}
