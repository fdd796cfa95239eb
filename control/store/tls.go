package store

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// credentials are those of c, nil for none; what a handshake fails by is remembered as the reason of the last
// attempt to connect. They come after those that etcd's client would choose, and so replace them.
func (d *dialer) credentials(c *tls.Config) credentials.TransportCredentials {
	if c == nil {
		return insecure.NewCredentials()
	}
	return handshake{credentials.NewTLS(c), d}
}

// handshake remembers why one failed; gRPC reports the text at most.
type handshake struct {
	credentials.TransportCredentials
	dialer *dialer
}

func (h handshake) ClientHandshake(ctx context.Context, authority string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := h.TransportCredentials.ClientHandshake(ctx, authority, c)
	if err != nil {
		if advice := advise(err); advice != nil {
			err = fmt.Errorf("%s: %w", c.RemoteAddr(), advice)
			h.dialer.refuse(err)
		}
		return conn, info, err
	}
	return &alerted{Conn: conn, dialer: h.dialer}, info, nil
}

func (h handshake) Clone() credentials.TransportCredentials {
	return handshake{h.TransportCredentials.Clone(), h.dialer}
}

// alerted is a connection by which the server may yet say that it does not take our certificate: in TLS 1.3 the client
// has finished its handshake by then (RFC 8446 §4.4.2.4).
type alerted struct {
	net.Conn
	dialer *dialer
	heard  bool // gRPC reads from one goroutine
}

func (a *alerted) Read(b []byte) (int, error) {
	n, err := a.Conn.Read(b)
	if a.heard {
		return n, err
	}
	if n > 0 {
		a.heard = true
		a.dialer.refuse(nil)
	} else if advice := advise(err); advice != nil {
		a.dialer.refuse(fmt.Errorf("%s: %w", a.RemoteAddr(), advice))
	}
	return n, err
}

// advise says what to do about a handshake that failed; nil where the certificates are not to blame.
func advise(err error) error {
	unknown, isUnknown := errors.AsType[x509.UnknownAuthorityError](err)
	_, isName := errors.AsType[x509.HostnameError](err)
	_, isInvalid := errors.AsType[x509.CertificateInvalidError](err)
	alert, isAlert := errors.AsType[*net.OpError](err)
	switch {
	case isUnknown:
		issuer := ""
		if unknown.Cert != nil {
			issuer = fmt.Sprintf(" (issuer %q)", unknown.Cert.Issuer)
		}
		return fmt.Errorf("%w: etcd's certificate%s was signed by no CA that is believed here: give the PEM file of etcd's CA with --etcd-ca: %w", ErrRefused, issuer, err)
	case isName:
		return fmt.Errorf("%w: etcd's certificate is of another address: write --etcd-endpoints as the certificate does, or issue one with this address: %w", ErrRefused, err)
	case isInvalid:
		return fmt.Errorf("%w: etcd's certificate cannot be used: issue another one, and look at the clocks: %w", ErrRefused, err)
	case isAlert && alert.Op == "remote error":
		return fmt.Errorf("%w: etcd does not take the certificate that it was shown: give one that etcd's --trusted-ca-file signed, with --etcd-cert and --etcd-key: %w", ErrRefused, err)
	}
	return nil
}

// TLSFiles names PEM files. Without CA the system's roots are believed; Certificate and
// Key, given together, are what is shown to the store.
type TLSFiles struct {
	CA          string `json:"ca,omitempty"`
	Certificate string `json:"certificate,omitempty"`
	Key         string `json:"key,omitempty"`
}

// Load reads the files; nil if none is named.
func (t TLSFiles) Load() (*tls.Config, error) {
	if t == (TLSFiles{}) {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("the store's CA: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("the store's CA: %s holds no PEM certificate", t.CA)
		}
	}
	if t.Certificate != "" {
		cert, err := tls.LoadX509KeyPair(t.Certificate, t.Key)
		if err != nil {
			return nil, fmt.Errorf("the certificate for the store: %w", err)
		}
		c.Certificates = []tls.Certificate{cert}
	}
	return c, nil
}
