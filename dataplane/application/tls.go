package application

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/socket"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// places are how to make connections to the places that are spoken to by TLS. It is immutable.
type places struct {
	now, before map[string]*secured
}

// secured is a place that is spoken to by TLS.
type secured struct {
	address string
	policy  string // which object says so
	config  *tls.Config
	invalid string // why nobody can be verified there
}

func (p *places) find(place string) *secured {
	if t := p.now[place]; t != nil {
		return t
	}
	return p.before[place]
}

// next are the places of the ports that are served. What was made for one that stays is kept; where all stay, so does what
// was before.
func (p *places) next(served []ir.Inbound, now func() time.Time) *places {
	out := &places{now: map[string]*secured{}, before: p.now}
	for _, in := range served {
		for _, port := range in.Ports {
			if port.TLS == nil {
				continue
			}
			place := port.Place()
			if out.now[place] = p.find(place); out.now[place] == nil {
				out.now[place] = secure(port, now)
			}
		}
	}
	if maps.Equal(out.now, p.now) {
		return p
	}
	return out
}

// secure is how the application at a port is spoken to.
func secure(p ir.InboundPort, now func() time.Time) *secured {
	roots, invalid := authorities(p.TLS)
	t := &secured{address: p.Target.String(), policy: p.TLS.Object, invalid: invalid}
	if invalid != "" {
		return t
	}
	if p.TLS.System {
		system, err := x509.SystemCertPool()
		if err != nil {
			t.invalid = "the authorities that this host trusts cannot be read: " + err.Error()
			return t
		}
		if roots = system; p.TLS.Roots != "" {
			roots.AppendCertsFromPEM([]byte(p.TLS.Roots))
		}
	}
	t.config = &tls.Config{ServerName: p.TLS.Hostname, RootCAs: roots, MinVersion: tls.VersionTLS12, Time: now}
	if names := p.TLS.Names; len(names) > 0 {
		// The names take the place of the host name, which crypto/tls knows no words for: the chain is verified here, in
		// VerifyConnection, which resumption does not skip.
		t.config.InsecureSkipVerify = true
		t.config.VerifyConnection = func(s tls.ConnectionState) error { return verify(s, roots, names, now()) }
	}
	return t
}

// authorities reads those that a policy names itself, or says why nobody can be verified.
func authorities(p *ir.BackendTLS) (roots *x509.CertPool, invalid string) {
	if p.Invalid != "" {
		return nil, p.Invalid
	}
	roots = x509.NewCertPool()
	if p.Roots != "" && !roots.AppendCertsFromPEM([]byte(p.Roots)) {
		return nil, "no authority of the policy is a certificate that this proxy can read"
	}
	return roots, ""
}

// Terms are what an application that is spoken to by TLS is asked for, and held against.
type Terms struct {
	// ServerName is asked for (SNI), and so is one of ALPN; HTTP/2 is not spoken without it.
	ServerName string
	ALPN       []string
	// MustBe are names of which the certificate must be for one.
	MustBe []mesh.SubjectName
	// Refused, if not empty, is why nobody is spoken to.
	Refused string
}

// TermsOf are the terms of a port when p is spoken; false if that is in the clear. The authorities that the proxy's host trusts are
// not looked at.
func TermsOf(port ir.InboundPort, p mesh.Protocol) (Terms, bool) {
	if port.TLS == nil {
		return Terms{}, false
	}
	t := Terms{ServerName: port.TLS.Hostname, ALPN: asksFor(p), MustBe: port.TLS.Names}
	if len(t.MustBe) == 0 {
		t.MustBe = []mesh.SubjectName{{Kind: mesh.SubjectHostname, Value: t.ServerName}}
	}
	_, t.Refused = authorities(port.TLS)
	return t, true
}

// asksFor is what a protocol is called in ALPN (RFC 7301 §6, RFC 9113 §3.2); bytes have no name.
func asksFor(p mesh.Protocol) []string {
	switch {
	case p.IsHTTP2():
		return []string{"h2"}
	case p.IsHTTP():
		return []string{"http/1.1"}
	}
	return nil
}

// verify holds the chain of the application's certificate against roots, and what it is for against names, of which one is
// enough (Gateway API, BackendTLSPolicyValidation.subjectAltNames).
func verify(s tls.ConnectionState, roots *x509.CertPool, names []mesh.SubjectName, now time.Time) error {
	if len(s.PeerCertificates) == 0 {
		return errors.New("no certificate was shown")
	}
	leaf, between := s.PeerCertificates[0], x509.NewCertPool()
	for _, c := range s.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	if err != nil {
		return err
	}
	if slices.ContainsFunc(names, func(n mesh.SubjectName) bool { return isFor(leaf, n) }) {
		return nil
	}
	return fmt.Errorf("the certificate is for none of the policy's subjectAltNames: it is for DNS names %q and URIs %q", leaf.DNSNames, leaf.URIs)
}

// isFor reports whether a certificate is for a name. A kind that is not known matches nothing.
func isFor(c *x509.Certificate, n mesh.SubjectName) bool {
	switch n.Kind {
	case mesh.SubjectHostname:
		if strings.HasPrefix(n.Value, "*.") { // the same wildcard, and not what it covers
			return slices.ContainsFunc(c.DNSNames, func(d string) bool { return strings.EqualFold(d, n.Value) })
		}
		return c.VerifyHostname(n.Value) == nil
	case mesh.SubjectURI:
		for _, u := range c.URIs {
			if u.String() == n.Value {
				return true
			}
		}
	}
	return false
}

// failure is why an application could not be spoken to by TLS.
type failure struct {
	policy string
	err    error
}

func (f *failure) Error() string { return "by TLS, as " + f.policy + " says: " + f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// Reason is the mesh's word for it.
func (f *failure) Reason() mesh.Reason { return mesh.ReasonTLS }

// dial connects and has the application prove who it is.
func (t *secured) dial(ctx context.Context, s *Streams, p mesh.Protocol) (net.Conn, error) {
	if t.invalid != "" {
		return nil, &failure{t.policy, errors.New(t.invalid)}
	}
	c, err := socket.Dial(ctx, s.cfg.Guard, s.cfg.Local, t.address)
	if err != nil {
		return nil, err // nobody is there: no matter of TLS
	}
	config := t.config.Clone()
	config.NextProtos = asksFor(p)
	tc := tls.Client(c, config)
	err = tc.HandshakeContext(ctx)
	if err == nil && p.IsHTTP2() && tc.ConnectionState().NegotiatedProtocol != "h2" {
		err = errors.New("the application does not agree to HTTP/2 (ALPN h2), which its port is declared to speak")
	}
	if err != nil {
		c.Close()
		return nil, &failure{t.policy, err}
	}
	return tc, nil
}
