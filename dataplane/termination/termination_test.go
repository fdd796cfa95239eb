package termination_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/termination"
	"github.com/isthmus-mesh/isthmus/internal/issued"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// listener shows pairs.
func listener(pairs ...issued.Pair) *ir.Termination {
	t := &ir.Termination{Listener: ir.Listener{Name: "https", Port: 443, Protocol: mesh.ListenerHTTPS}}
	for _, p := range pairs {
		t.Certificates = append(t.Certificates, ir.Certificate{Object: "Secret shop/web", Chain: string(p.Certificate), Key: mesh.Hide(p.Key)})
	}
	return t
}

// shake has a client meet a Server over a connection of TCP, half of whose ClientHello was read ahead.
func shake(t *testing.T, s *termination.Server, client *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	done := make(chan error, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			done <- err
			return
		}
		defer c.Close()
		first := make([]byte, 60)
		if _, err := io.ReadFull(c, first); err != nil {
			done <- err
			return
		}
		conn, err := s.Shake(t.Context(), c, first)
		if err == nil {
			_, err = io.WriteString(conn, "hello")
			_ = conn.Close()
		}
		done <- err
	}()
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", ln.Addr().String(), client)
	var state tls.ConnectionState
	if err == nil {
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		_, err = io.ReadAll(c) // and with it the ticket
		state = c.ConnectionState()
		c.Close()
	}
	if served := <-done; err == nil {
		err = served
	} else if served != nil {
		err = errors.Join(err, served)
	}
	return state, err
}

// TestEachNameHasItsCertificate draws names and what clients can verify: the certificate that names the server precisely comes
// before that of a wildcard, and one that the client can verify before one that it cannot.
func TestEachNameHasItsCertificate(t *testing.T) {
	ca := issued.NewAuthority(t)
	wild, exact, exactRSA := ca.For("*.example"), ca.For("shop.example"), ca.RSA("shop.example")
	s := termination.New(listener(wild, exact, exactRSA), nil)
	onlyRSA := &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}}
	for _, c := range []struct {
		name  string
		with  *tls.Config
		names string
		kind  x509.PublicKeyAlgorithm
	}{
		{"shop.example", &tls.Config{}, "shop.example", x509.ECDSA}, {"a.example", &tls.Config{}, "*.example", x509.ECDSA}, {"shop.example", onlyRSA, "shop.example", x509.RSA},
		{"shop.test", &tls.Config{InsecureSkipVerify: true}, "*.example", x509.ECDSA},
	} {
		config := c.with.Clone()
		config.ServerName, config.RootCAs, config.NextProtos = c.name, ca.Pool(), []string{"h2", "http/1.1"}
		state, err := shake(t, s, config)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if leaf := state.PeerCertificates[0]; leaf.DNSNames[0] != c.names || leaf.PublicKeyAlgorithm != c.kind || state.NegotiatedProtocol != "h2" {
			t.Errorf("%s: %s %s, %q", c.name, leaf.DNSNames, leaf.PublicKeyAlgorithm, state.NegotiatedProtocol)
		}
	}
}

// TestOldTLSIsRefused offers what is not to be had any more. The control of each is what is.
func TestOldTLSIsRefused(t *testing.T) {
	ca := issued.NewAuthority(t)
	s := termination.New(listener(ca.RSA("shop.example")), nil)
	for _, c := range []struct {
		what string
		with *tls.Config
		ok   bool
	}{
		{"TLS 1.1", &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, false},
		{"no forward secrecy", &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}}, false},
		{"CBC", &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA}}, false},
		{"a protocol that nobody speaks", &tls.Config{NextProtos: []string{"spdy/3"}}, false},
		{"TLS 1.2", &tls.Config{MaxVersion: tls.VersionTLS12}, true},
		{"TLS 1.3", &tls.Config{MinVersion: tls.VersionTLS13}, true},
		{"HTTP/1.1", &tls.Config{NextProtos: []string{"http/1.1"}}, true},
	} {
		c.with.ServerName, c.with.RootCAs = "shop.example", ca.Pool()
		if _, err := shake(t, s, c.with); (err == nil) != c.ok {
			t.Errorf("%s: %v, want served %v", c.what, err, c.ok)
		}
	}
}

// TestTicketsEndWithTheCertificate resumes a session: at a Server that was made anew of the same certificate it goes on, at one of
// another it does not.
func TestTicketsEndWithTheCertificate(t *testing.T) {
	ca := issued.NewAuthority(t)
	pair, next := ca.For("shop.example"), ca.For("shop.example")
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		config := &tls.Config{ServerName: "shop.example", RootCAs: ca.Pool(), MinVersion: version, MaxVersion: version, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
		s := termination.New(listener(pair), nil)
		for step, want := range []bool{false, true, true, false} {
			switch step {
			case 2:
				s = termination.New(listener(pair), s)
			case 3:
				s = termination.New(listener(next), s)
			}
			state, err := shake(t, s, config)
			if err != nil || state.DidResume != want {
				t.Errorf("version %x, step %d: resumed %v, %v, want %v", version, step, state.DidResume, err, want)
			}
		}
	}
}

// TestWhatCannotBeUsedRefuses is a listener whose certificate is missing, or not that of its key; none of what is said holds the key.
func TestWhatCannotBeUsedRefuses(t *testing.T) {
	ca := issued.NewAuthority(t)
	good, other := ca.For("shop.example"), ca.For("shop.example")
	mixed := issued.Pair{Certificate: good.Certificate, Key: other.Key}
	gone := listener()
	gone.Invalid = "Secret shop/web: there is none"
	for _, c := range []struct {
		what    string
		of      *ir.Termination
		ok      bool
		problem string
	}{
		{"good", listener(good), true, ""},
		{"mixed", listener(mixed), false, "Secret shop/web: certificate and key cannot be used together"},
		{"one of two", listener(mixed, good), true, "Secret shop/web: certificate and key cannot be used together"},
		{"none", gone, false, "Secret shop/web: there is none"},
		{"nothing at all", listener(), false, "it has no certificate"},
	} {
		s := termination.New(c.of, nil)
		_, err := shake(t, s, &tls.Config{ServerName: "shop.example", RootCAs: ca.Pool()})
		if (err == nil) != c.ok || s.Problem() != c.problem || !c.ok && (!errors.Is(err, termination.ErrUnusable) || !strings.Contains(err.Error(), "internal error")) {
			t.Errorf("%s: %v, problem %q", c.what, err, s.Problem())
		}
	}
}

// TestASilentClientIsLetGo is one that begins a handshake and says no more.
func TestASilentClientIsLetGo(t *testing.T) {
	s := termination.New(listener(issued.NewAuthority(t).For("shop.example")), nil)
	client, server := net.Pipe()
	defer client.Close()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { _, err := s.Shake(ctx, server, []byte{22, 3, 1}); done <- err }()
	stop() // as the bound of time does, which the context is given
	if err := <-done; err == nil {
		t.Error("half a ClientHello was a handshake")
	}
	if _, err := client.Read(make([]byte, 1)); err == nil {
		t.Error("its connection is open")
	}
}
