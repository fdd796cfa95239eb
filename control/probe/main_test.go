package probe

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
	"go.uber.org/goleak"
	"golang.org/x/net/http2"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	west = mesh.TrustDomain("eu-west.isthmus.local")
	east = mesh.TrustDomain("us-east.isthmus.local")
)

var (
	observer = mesh.Identity{TrustDomain: west, Namespace: "isthmus-system", ServiceAccount: "control"}
	gateway  = mesh.Identity{TrustDomain: east, Namespace: "isthmus-system", ServiceAccount: "gateway"}
)

// authority signs for one trust domain.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func certificate(t testing.TB, template, parent *x509.Certificate, public, signer any) *x509.Certificate {
	t.Helper()
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-trust.Backdate), time.Now().Add(24*time.Hour)
	template.BasicConstraintsValid = true
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newAuthority(t testing.TB, td mesh.TrustDomain) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{certificate(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "root of " + string(td)}, IsCA: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		URIs:     []*url.URL{{Scheme: "spiffe", Host: string(td)}},
	}, nil, key.Public(), key), key}
}

func (a *authority) bundle(td mesh.TrustDomain) mesh.Bundle {
	return mesh.Bundle{TrustDomain: td, Generation: 1, Roots: [][]byte{a.cert.Raw}}
}

// source is id, signed by a, believing both domains.
func source(t testing.TB, a *authority, id mesh.Identity, bundles ...mesh.Bundle) *trust.Source {
	t.Helper()
	key, err := trust.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(id.String())
	if err != nil {
		t.Fatal(err)
	}
	leaf := certificate(t, &x509.Certificate{
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{u},
	}, a.cert, key.Public(), a.key)
	svid, err := trust.NewSVID(key, [][]byte{leaf.Raw})
	if err != nil {
		t.Fatal(err)
	}
	set, err := trust.NewBundles(bundles...)
	if err != nil {
		t.Fatal(err)
	}
	s := trust.NewSource(clock.Real{})
	if err := s.Update(svid, set); err != nil {
		t.Fatal(err)
	}
	return s
}

// keys are both sides' sources.
type keys struct{ observer, gateway *trust.Source }

func newKeys(t testing.TB, gatewayAs mesh.Identity) keys {
	t.Helper()
	w, e := newAuthority(t, west), newAuthority(t, east)
	both := []mesh.Bundle{w.bundle(west), e.bundle(east)}
	return keys{source(t, w, observer, both...), source(t, e, gatewayAs, both...)}
}

// answerer stands for a gateway: mTLS, and x/net's frames.
type answerer struct {
	own *tls.Config

	mu    sync.Mutex
	conns map[net.Conn]*http2.Framer // nil before the preface
	pings int
	gone  bool // it is leaving
	tasks sync.WaitGroup
}

func newAnswerer(s *trust.Source) *answerer {
	return &answerer{conns: map[net.Conn]*http2.Framer{},
		own: trust.ServerConfig(s, trust.ServerOptions{Accept: trust.AcceptKnownClients(), ALPN: []string{"h2"}})}
}

// serve answers pings on c until it ends.
func (g *answerer) serve(c net.Conn) {
	g.mu.Lock()
	g.conns[c] = nil
	g.mu.Unlock()
	g.tasks.Go(func() {
		defer c.Close()
		tc := tls.Server(c, g.own)
		preface := make([]byte, len(http2.ClientPreface))
		if _, err := io.ReadFull(tc, preface); err != nil {
			return
		}
		fr := http2.NewFramer(tc, tc)
		g.mu.Lock()
		if _, open := g.conns[c]; open {
			g.conns[c] = fr
		}
		err := errors.Join(fr.WriteSettings(), fr.WritePing(false, [8]byte{1: 7}))
		g.mu.Unlock()
		if err != nil {
			return
		}
		for {
			f, err := fr.ReadFrame()
			if err != nil {
				return
			}
			if p, ok := f.(*http2.PingFrame); ok && !p.IsAck() {
				g.mu.Lock()
				g.pings++
				err := fr.WritePing(true, p.Data)
				if g.gone { // late, and more than once: both are allowed
					err = errors.Join(err, fr.WriteGoAway(1<<31-1, http2.ErrCodeNo, nil))
				}
				g.mu.Unlock()
				if err != nil {
					return
				}
			}
		}
	})
}

// accept serves what ln accepts until it is closed.
func (g *answerer) accept(ln net.Listener) {
	g.tasks.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			g.serve(c)
		}
	})
}

// leave says so to all who are there and who come, or takes it back.
func (g *answerer) leave(gone bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gone = gone
	for _, fr := range g.conns {
		if gone && fr != nil {
			_ = fr.WriteGoAway(1<<31-1, http2.ErrCodeNo, nil)
		}
	}
}

// hangUp ends every connection at once.
func (g *answerer) hangUp() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := range g.conns {
		c.Close()
		delete(g.conns, c)
	}
}

func (g *answerer) answered() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pings
}

// running runs p until the returned function is called.
func running(t testing.TB, p *Prober) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != context.Canceled {
			t.Errorf("Run: %v, want %v", err, context.Canceled)
		}
	}
}
