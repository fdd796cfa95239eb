// Package termination ends the TLS of clients outside the mesh at a listener of a Gateway, of HTTPS or of bytes. Its one idea is that a listener with its
// certificates is one immutable value: another certificate is another Server, which takes the connections that come from then on, and
// those that are open go on with the one that took them. Tickets are the Server's too, so that nobody resumes a session that began
// under a certificate which is no longer shown.
//
// It accepts no connection, chooses no listener (dataplane/ingress does) and serves no request. It asks clients for no certificate.
// Read Server.
package termination

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/socket"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// handshakeMax bounds a handshake after its ClientHello has come.
const handshakeMax = 5 * time.Second

// Server ends TLS for one listener. It is safe for concurrent use.
type Server struct {
	chains  []string // what it shows, to know whether another shows the same
	problem string
	config  *tls.Config // nil with a problem
	ends    time.Time
	// counts are the listener's, whatever it shows.
	counts *counts
}

// counts are handshakes by what became of them.
type counts struct{ done, failed, refused atomic.Int64 }

// New makes the Server of a listener, or returns the former one of the listener if that shows the same certificates. A certificate
// that cannot be read is left out; where none is left no handshake succeeds.
func New(t *ir.Termination, former *Server) *Server {
	s := &Server{problem: t.Invalid, counts: new(counts)}
	if former != nil {
		s.counts = former.counts
	}
	for i := range t.Certificates {
		s.chains = append(s.chains, t.Certificates[i].Chain)
	}
	if former != nil && former.config != nil && slices.Equal(former.chains, s.chains) {
		return former
	}
	var shown []tls.Certificate
	for i := range t.Certificates {
		c, err := read(&t.Certificates[i])
		if err != nil {
			s.problem = err.Error()
			continue
		}
		shown = append(shown, c)
		if s.ends.IsZero() || c.Leaf.NotAfter.Before(s.ends) {
			s.ends = c.Leaf.NotAfter
		}
	}
	if len(shown) == 0 {
		if s.problem == "" {
			s.problem = "it has no certificate"
		}
		return s
	}
	s.config = &tls.Config{
		MinVersion: tls.VersionTLS12,
		// Of TLS 1.2 those with forward secrecy and authenticated encryption, which HTTP/2 allows (RFC 9113 §9.2.2). Those of 1.3 are
		// all so.
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return choose(shown, h), nil },
	}
	if t.Protocol == mesh.ListenerHTTPS { // what bytes are is between their ends
		s.config.NextProtos = []string{"h2", "http/1.1"}
	}
	return s
}

// read parses a certificate and its key. No error quotes either.
func read(c *ir.Certificate) (tls.Certificate, error) {
	out, err := tls.X509KeyPair([]byte(c.Chain), c.Key.Reveal())
	if err == nil && out.Leaf == nil {
		out.Leaf, err = x509.ParseCertificate(out.Certificate[0])
	}
	if err != nil {
		return out, fmt.Errorf("%s: certificate and key cannot be used together", c.Object)
	}
	return out, nil
}

// choose picks the certificate that names the server precisely before one by a wildcard, of those the first that the client can
// verify; where none is for the name, the first: a client that wants another says so.
func choose(all []tls.Certificate, h *tls.ClientHelloInfo) *tls.Certificate {
	var wild *tls.Certificate
	for i := range all {
		c := &all[i]
		if len(all) == 1 {
			return c
		}
		if h.SupportsCertificate(c) != nil {
			continue
		}
		if slices.ContainsFunc(c.Leaf.DNSNames, func(n string) bool { return strings.EqualFold(n, h.ServerName) }) {
			return c
		}
		if wild == nil {
			wild = c
		}
	}
	if wild != nil {
		return wild
	}
	return &all[0]
}

// Problem says why some of what it is to show cannot be used; empty if all can.
func (s *Server) Problem() string { return s.problem }

// Ends is when the first of its certificates does; zero where it has none.
func (s *Server) Ends() time.Time { return s.ends }

// Handshakes are those of the listener that were made, that failed by the client or its time, and that were refused for want of a
// certificate.
func (s *Server) Handshakes() (done, failed, refused int64) {
	return s.counts.done.Load(), s.counts.failed.Load(), s.counts.refused.Load()
}

// ErrUnusable is returned for every handshake of a listener that has no certificate which can be used.
var ErrUnusable = errors.New("the listener has no certificate that can be used")

// refusal is a fatal alert, internal_error, in the clear (RFC 8446 §6.2): a client is told that it is not its fault.
var refusal = []byte{21, 3, 3, 0, 2, 2, 80}

// Shake makes the handshake on a connection of which first has been read, until ctx ends or the time for it is over. It closes the
// connection where that fails.
func (s *Server) Shake(ctx context.Context, c net.Conn, first []byte) (net.Conn, error) {
	ctx, stop := context.WithTimeout(ctx, handshakeMax)
	defer stop()
	if s.config == nil {
		s.counts.refused.Add(1)
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = c.Write(refusal)
		_ = c.Close()
		return nil, fmt.Errorf("%w: %s", ErrUnusable, s.problem)
	}
	socket.Unhoard(c) // who asks for more than he takes waits for himself
	t := tls.Server(socket.Replay(c, first), s.config)
	if err := t.HandshakeContext(ctx); err != nil {
		s.counts.failed.Add(1)
		_ = c.Close()
		return nil, err
	}
	s.counts.done.Add(1)
	return t, nil
}
