package trust_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"io"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// hostile is one certificate that must be refused at both ends, and why.
type hostile struct {
	name string
	// fault is ours; text is of crypto/x509 or crypto/tls where they refuse before we
	// are asked.
	fault trust.Fault
	text  string
	make  func(t *testing.T, w *grounds) *tls.Certificate
}

// grounds is what the hostile certificates are made of: the roots of two trust
// domains that both are believed.
type grounds struct {
	west, east *pair
	bundles    *trust.Bundles
}

// of returns a certificate signed by the lawful root, with one thing changed.
func of(change func(t *testing.T, w *grounds, c *x509.Certificate)) func(*testing.T, *grounds) *tls.Certificate {
	return func(t *testing.T, w *grounds) *tls.Certificate {
		c := leafTemplate(shop)
		change(t, w, c)
		return w.west.make(t, c, ecKey(t)).tls()
	}
}

// san is a lawful certificate but for its names.
func san(names ...asn1.RawValue) func(*testing.T, *grounds) *tls.Certificate {
	return of(func(t *testing.T, _ *grounds, c *x509.Certificate) {
		c.URIs = nil
		c.ExtraExtensions = []pkix.Extension{sanExtension(t, names...)}
	})
}

func withKey(t *testing.T, key crypto.Signer, err error, w *grounds) *tls.Certificate {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return w.west.make(t, leafTemplate(shop), key).tls()
}

func name(tag int, value string) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: []byte(value)}
}

const good = "spiffe://eu-west.isthmus.local/ns/default/sa/shop"

func hostiles() []hostile {
	var all []hostile
	all = append(all, hostileNames()...)
	all = append(all, hostileUses()...)
	return append(all, hostileChains()...)
}

func hostileNames() []hostile {
	return []hostile{
		{"no name at all", trust.FaultSAN, "", of(func(_ *testing.T, _ *grounds, c *x509.Certificate) { c.URIs = nil })},
		{"the ID as common name only", trust.FaultSAN, "", of(func(_ *testing.T, _ *grounds, c *x509.Certificate) {
			c.URIs, c.Subject.CommonName = nil, good
		})},
		{"a DNS name only", trust.FaultSAN, "", san(name(2, "shop.default.svc.cluster.local"))},
		{"the ID as DNS name", trust.FaultSAN, "", san(name(2, "eu-west.isthmus.local"))},
		{"two URIs, ours first", trust.FaultSAN, "", san(uriName(good), uriName("spiffe://eu-west.isthmus.local/ns/default/sa/admin"))},
		{"two URIs, ours last", trust.FaultSAN, "", san(uriName("https://example.org/"), uriName(good))},
		{"the same URI twice", trust.FaultSAN, "", san(uriName(good), uriName(good))},
		{"a URI and a DNS name", trust.FaultSAN, "", san(uriName(good), name(2, "shop.example.org"))},
		{"a URI and an IP address", trust.FaultSAN, "", san(uriName(good), name(7, "\x7f\x00\x00\x01"))},
		{"a URI and a mail address", trust.FaultSAN, "", san(uriName(good), name(1, "shop@example.org"))},
		{"an IP address only", trust.FaultSAN, "", san(name(7, "\x7f\x00\x00\x01"))},
		{"the ID as registered ID", trust.FaultSAN, "", san(name(8, good))},
		{"upper case in the scheme", trust.FaultSPIFFEID, "", san(uriName("SPIFFE://eu-west.isthmus.local/ns/default/sa/shop"))},
		{"upper case in the trust domain", trust.FaultSPIFFEID, "", san(uriName("spiffe://EU-west.isthmus.local/ns/default/sa/shop"))},
		{"upper case in the path", trust.FaultSPIFFEID, "", san(uriName("spiffe://eu-west.isthmus.local/ns/default/sa/Shop"))},
		{"percent-encoded letter", trust.FaultSPIFFEID, "", san(uriName("spiffe://eu-west.isthmus.local/ns/default/sa/%73hop"))},
		{"percent-encoded slash", trust.FaultSPIFFEID, "", san(uriName("spiffe://eu-west.isthmus.local/ns/default%2Fsa/shop"))},
		{"trailing slash", trust.FaultSPIFFEID, "", san(uriName(good + "/"))},
		{"double slash", trust.FaultSPIFFEID, "", san(uriName("spiffe://eu-west.isthmus.local//ns/default/sa/shop"))},
		{"dot segments", trust.FaultSPIFFEID, "", san(uriName("spiffe://eu-west.isthmus.local/ns/default/sa/x/../shop"))},
		{"user", trust.FaultSPIFFEID, "", san(uriName("spiffe://root@eu-west.isthmus.local/ns/default/sa/shop"))},
		{"port", trust.FaultSPIFFEID, "", san(uriName("spiffe://eu-west.isthmus.local:443/ns/default/sa/shop"))},
		{"query", trust.FaultSPIFFEID, "", san(uriName(good + "?sa=admin"))},
		{"empty query", trust.FaultSPIFFEID, "", san(uriName(good + "?"))},
		{"fragment", trust.FaultSPIFFEID, "", san(uriName(good + "#admin"))},
		{"empty fragment", trust.FaultSPIFFEID, "", san(uriName(good + "#"))},
		{"trailing dot in the trust domain", "", "invalid domain", func(t *testing.T, w *grounds) *tls.Certificate {
			return w.unparsed(t, sanExtension(t, uriName("spiffe://eu-west.isthmus.local./ns/default/sa/shop")))
		}},
		{"a NUL in the name", "", "net/url: invalid control character", func(t *testing.T, w *grounds) *tls.Certificate {
			return w.unparsed(t, sanExtension(t, uriName(good+"\x00.evil")))
		}},
		{"a letter outside ASCII", "", "x509: SAN uniformResourceIdentifier is malformed", func(t *testing.T, w *grounds) *tls.Certificate {
			return w.unparsed(t, sanExtension(t, uriName("spiffe://eu-west.isthmus.local/ns/default/sa/shóp")))
		}},
		{"https", trust.FaultSPIFFEID, "", san(uriName("https://eu-west.isthmus.local/ns/default/sa/shop"))},
		{"the trust domain alone", trust.FaultSPIFFEID, "", san(uriName("spiffe://eu-west.isthmus.local"))},
		{"another form of path", trust.FaultSPIFFEID, "", san(uriName("spiffe://eu-west.isthmus.local/sa/default/ns/shop"))},
		{"one part more", trust.FaultSPIFFEID, "", san(uriName(good + "/admin"))},
		{"longer than 2048 bytes", trust.FaultSPIFFEID, "", san(uriName(good + strings.Repeat("a", 2048)))},
	}
}

// unparsed is a certificate whose names crypto/x509 refuses to parse.
func (w *grounds) unparsed(t *testing.T, names pkix.Extension) *tls.Certificate {
	t.Helper()
	c := leafTemplate(shop)
	c.SerialNumber, c.URIs, c.ExtraExtensions = serial(t), nil, []pkix.Extension{names}
	key := ecKey(t)
	der, err := x509.CreateCertificate(rand.Reader, c, w.west.cert, key.Public(), w.west.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func hostileUses() []hostile {
	return []hostile{
		{"expired a minute ago", trust.FaultExpired, "", of(func(_ *testing.T, _ *grounds, c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })},
		{"not yet valid", trust.FaultNotYetValid, "", of(func(_ *testing.T, _ *grounds, c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) })},
		{"an authority as leaf", trust.FaultLeafIsCA, "", of(func(_ *testing.T, _ *grounds, c *x509.Certificate) { c.IsCA = true })},
		{"the root itself as leaf", trust.FaultSPIFFEID, "", func(_ *testing.T, w *grounds) *tls.Certificate { return w.west.tls() }},
		{"may sign certificates", trust.FaultKeyUsage, "", of(func(_ *testing.T, _ *grounds, c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign })},
		{"may sign revocations", trust.FaultKeyUsage, "", of(func(_ *testing.T, _ *grounds, c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign })},
		{"may not sign a handshake", trust.FaultKeyUsage, "", of(func(_ *testing.T, _ *grounds, c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment })},
		{"no key usage", trust.FaultKeyUsage, "", of(func(_ *testing.T, _ *grounds, c *x509.Certificate) { c.KeyUsage = 0 })},
		{"for code signing", trust.FaultExtKeyUsage, "", of(func(_ *testing.T, _ *grounds, c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
		})},
		{"for servers only", trust.FaultExtKeyUsage, "", of(func(_ *testing.T, _ *grounds, c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		})},
		{"for clients only", trust.FaultExtKeyUsage, "", of(func(_ *testing.T, _ *grounds, c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		})},
		{"for any use", trust.FaultExtKeyUsage, "", of(func(_ *testing.T, _ *grounds, c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
		})},
		{"for no stated use", trust.FaultExtKeyUsage, "", of(func(_ *testing.T, _ *grounds, c *x509.Certificate) { c.ExtKeyUsage = nil })},
		{"unknown critical extension", trust.FaultChain, "", of(func(_ *testing.T, _ *grounds, c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
		})},
		{"RSA of 1024 bits", trust.FaultKey, "", func(t *testing.T, w *grounds) *tls.Certificate {
			key, err := rsa.GenerateKey(rand.Reader, 1024)
			return withKey(t, key, err, w)
		}},
		{"ECDSA on P-521", trust.FaultKey, "", func(t *testing.T, w *grounds) *tls.Certificate {
			key, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
			return withKey(t, key, err, w)
		}},
	}
}

func hostileChains() []hostile {
	return []hostile{
		{"self-signed", trust.FaultChain, "", func(t *testing.T, _ *grounds) *tls.Certificate {
			return (*pair)(nil).make(t, leafTemplate(shop), ecKey(t)).tls()
		}},
		{"an unknown trust domain, signed by a known root", trust.FaultUnknownDomain, "", func(t *testing.T, w *grounds) *tls.Certificate {
			id := shop
			id.TrustDomain = "nowhere.isthmus.local"
			return w.west.leaf(t, id).tls()
		}},
		{"signed by the other domain's root", trust.FaultChain, "", func(t *testing.T, w *grounds) *tls.Certificate {
			return w.east.leaf(t, shop).tls()
		}},
		{"the other domain's, with our root shown beside it", trust.FaultChain, "", func(t *testing.T, w *grounds) *tls.Certificate {
			c := w.east.leaf(t, shop).tls()
			c.Certificate = append(c.Certificate, w.west.cert.Raw, w.east.cert.Raw)
			return c
		}},
		{"a root of our root's name and another key", trust.FaultChain, "", func(t *testing.T, w *grounds) *tls.Certificate {
			fake := (*pair)(nil).make(t, caTemplate(west, w.west.cert.Subject.CommonName), ecKey(t))
			c := fake.leaf(t, shop).tls()
			c.Certificate = append(c.Certificate, fake.cert.Raw)
			return c
		}},
		{"our root's key certified by the other domain's root, for a name of theirs", trust.FaultChain, "", func(t *testing.T, w *grounds) *tls.Certificate {
			cross := w.east.make(t, caTemplate(east, "cross"), w.west.key)
			return cross.leaf(t, clerkOf(west)).tls()
		}},
		{"through an authority of the other domain, certified by our root", trust.FaultForeignCA, "", func(t *testing.T, w *grounds) *tls.Certificate {
			cross := w.west.make(t, caTemplate(east, "cross"), ecKey(t))
			return cross.leaf(t, shop).tls()
		}},
		{"signed by another leaf", trust.FaultChain, "", func(t *testing.T, w *grounds) *tls.Certificate {
			return w.west.leaf(t, orders).leaf(t, shop).tls()
		}},
		{"a path longer than its authority may have", trust.FaultChain, "", func(t *testing.T, w *grounds) *tls.Certificate {
			short := caTemplate(west, "short")
			short.MaxPathLenZero = true
			return w.west.make(t, short, ecKey(t)).make(t, caTemplate(west, "below"), ecKey(t)).leaf(t, shop).tls()
		}},
		{"through an authority that expired", trust.FaultChain, "", func(t *testing.T, w *grounds) *tls.Certificate {
			old := caTemplate(west, "old")
			old.NotAfter = time.Now().Add(-time.Minute)
			return w.west.make(t, old, ecKey(t)).leaf(t, shop).tls()
		}},
		{"through an authority that may not sign certificates", trust.FaultChain, "", func(t *testing.T, w *grounds) *tls.Certificate {
			mute := caTemplate(west, "mute")
			mute.KeyUsage = x509.KeyUsageCRLSign
			return w.west.make(t, mute, ecKey(t)).leaf(t, shop).tls()
		}},
		{"through an authority for mail", trust.FaultChain, "", func(t *testing.T, w *grounds) *tls.Certificate {
			mail := caTemplate(west, "mail")
			mail.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}
			return w.west.make(t, mail, ecKey(t)).leaf(t, shop).tls()
		}},
		{"outside its authority's permitted domains", trust.FaultChain, "", func(t *testing.T, w *grounds) *tls.Certificate {
			c := caTemplate(west, "constrained")
			c.PermittedURIDomains, c.PermittedDNSDomainsCritical = []string{"ap-south.isthmus.local"}, true
			return w.west.make(t, c, ecKey(t)).leaf(t, shop).tls()
		}},
		{"inside its authority's excluded domains", trust.FaultChain, "", func(t *testing.T, w *grounds) *tls.Certificate {
			c := caTemplate(west, "constrained")
			c.ExcludedURIDomains, c.PermittedDNSDomainsCritical = []string{".isthmus.local"}, true
			return w.west.make(t, c, ecKey(t)).leaf(t, shop).tls()
		}},
		{"a permitted domain that only ends alike", trust.FaultChain, "", func(t *testing.T, w *grounds) *tls.Certificate {
			c := caTemplate(west, "constrained")
			c.PermittedURIDomains, c.PermittedDNSDomainsCritical = []string{"west.isthmus.local"}, true
			return w.west.make(t, c, ecKey(t)).leaf(t, shop).tls()
		}},
		{"an authority of RSA 1024 on the way", trust.FaultKey, "", func(t *testing.T, w *grounds) *tls.Certificate {
			key, err := rsa.GenerateKey(rand.Reader, 1024)
			if err != nil {
				t.Fatal(err)
			}
			return w.west.make(t, caTemplate(west, "weak"), key).leaf(t, shop).tls()
		}},
		{"signed with SHA-1", trust.FaultChain, "", func(t *testing.T, w *grounds) *tls.Certificate {
			c := leafTemplate(shop)
			c.SignatureAlgorithm = x509.ECDSAWithSHA1
			return w.west.make(t, c, ecKey(t)).tls()
		}},
		{"five certificates", trust.FaultChainTooLong, "", func(t *testing.T, w *grounds) *tls.Certificate {
			p := w.west
			for _, n := range []string{"a", "b", "c", "d"} {
				p = p.make(t, caTemplate(west, n), ecKey(t))
			}
			return p.leaf(t, shop).tls()
		}},
		{"more than 16 KiB", trust.FaultChainTooLarge, "", of(func(_ *testing.T, _ *grounds, c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Value: make([]byte, trust.ChainBytesMax)}}
		})},
		{"one bit of the signature flipped", trust.FaultChain, "", func(t *testing.T, w *grounds) *tls.Certificate {
			c := w.west.leaf(t, shop).tls()
			der := append([]byte(nil), c.Certificate[0]...)
			der[len(der)-1] ^= 1
			return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: c.PrivateKey}
		}},
		{"a stolen certificate without its key", "", "invalid signature by the", func(t *testing.T, w *grounds) *tls.Certificate {
			c := w.west.leaf(t, shop).tls()
			return &tls.Certificate{Certificate: c.Certificate, PrivateKey: liar{c.PrivateKey.(crypto.Signer), ecKey(t)}}
		}},
		{"another identity of the right domain", trust.FaultIdentity, "", func(t *testing.T, w *grounds) *tls.Certificate {
			return w.west.leaf(t, orders).tls()
		}},
		{"a lawful identity of another domain", trust.FaultDomain, "", func(t *testing.T, w *grounds) *tls.Certificate {
			return w.east.leaf(t, clerk).tls()
		}},
	}
}

func clerkOf(td mesh.TrustDomain) mesh.Identity {
	id := clerk
	id.TrustDomain = td
	return id
}

// liar shows one key and signs with another.
type liar struct{ shown, real crypto.Signer }

func (l liar) Public() crypto.PublicKey { return l.shown.Public() }
func (l liar) Sign(r io.Reader, d []byte, o crypto.SignerOpts) ([]byte, error) {
	return l.real.Sign(r, d, o)
}

// handshake runs both ends over a pipe and returns their errors. In TLS 1.3 a
// client is done before the server has judged it, so that the client reads a byte
// to learn the verdict.
func handshake(t testing.TB, client, server *tls.Config) (clientErr, serverErr error) {
	t.Helper()
	a, b := pipe(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		s := tls.Server(b, server)
		err := s.HandshakeContext(ctx)
		if err == nil {
			_, err = s.Write([]byte{1})
		}
		b.Close()
		done <- err
	}()
	c := tls.Client(a, client)
	clientErr = c.HandshakeContext(ctx)
	if clientErr == nil {
		_ = a.SetReadDeadline(time.Now().Add(time.Minute))
		_, clientErr = c.Read(make([]byte, 1))
	}
	a.Close()
	return clientErr, <-done
}

// pipe is a loopback connection: a net.Pipe has no buffer, so that an alert of one
// end would wait for the other's.
func pipe(t testing.TB) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

func newGrounds(t *testing.T) *grounds {
	w := &grounds{west: newRoot(t, west), east: newRoot(t, east)}
	w.bundles = mustBundles(t, bundle(west, 1, w.west), bundle(east, 1, w.east))
	return w
}

func TestHostileCertificatesAreRefusedAtBothEnds(t *testing.T) {
	w := newGrounds(t)
	ours := newSource(t, svid(t, w.west, orders, nil), w.bundles)
	clientOf := func() *tls.Config { return trust.ClientConfig(ours, trust.AcceptServers(west, shop), "shop.test") }
	serverOf := func() *tls.Config {
		return trust.ServerConfig(ours, trust.ServerOptions{Accept: trust.AcceptClients(west)})
	}
	plainServer := func(c *tls.Certificate) *tls.Config {
		return &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c, nil }}
	}
	plainClient := func(c *tls.Certificate) *tls.Config {
		return &tls.Config{InsecureSkipVerify: true, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c, nil }}
	}

	t.Run("control: a lawful certificate is accepted", func(t *testing.T) {
		for name, p := range map[string]*pair{
			"by the root":             w.west.leaf(t, shop),
			"through an intermediate": w.west.make(t, caTemplate(west, "issuing"), ecKey(t)).leaf(t, shop),
			"through two":             w.west.make(t, caTemplate(west, "a"), ecKey(t)).make(t, caTemplate(west, "b"), ecKey(t)).leaf(t, shop),
			"inside its permitted domain": w.west.make(t, func() *x509.Certificate {
				c := caTemplate(west, "constrained")
				c.PermittedURIDomains, c.PermittedDNSDomainsCritical = []string{string(west)}, true
				return c
			}(), ecKey(t)).leaf(t, shop),
			"Ed25519": func() *pair {
				_, key, err := ed25519.GenerateKey(rand.Reader)
				if err != nil {
					t.Fatal(err)
				}
				return w.west.make(t, leafTemplate(shop), key)
			}(),
		} {
			if c, s := handshake(t, clientOf(), plainServer(p.tls())); c != nil || s != nil {
				t.Errorf("%s, as server: client %v, server %v", name, c, s)
			}
			if c, s := handshake(t, plainClient(p.tls()), serverOf()); c != nil || s != nil {
				t.Errorf("%s, as client: client %v, server %v", name, c, s)
			}
		}
	})

	all := hostiles()
	if len(all) < 60 {
		t.Errorf("%d hostile certificates, want at least 60", len(all))
	}
	for _, h := range all {
		t.Run(h.name, func(t *testing.T) {
			cert := h.make(t, w)
			clientErr, _ := handshake(t, clientOf(), plainServer(cert))
			checkRefusal(t, "client", clientErr, h)
			// Servers accept every identity of a domain; what it may do is another question.
			if h.fault == trust.FaultIdentity {
				return
			}
			_, serverErr := handshake(t, plainClient(cert), serverOf())
			checkRefusal(t, "server", serverErr, h)
		})
	}
}

func checkRefusal(t *testing.T, end string, err error, h hostile) {
	t.Helper()
	if err == nil {
		t.Errorf("%s accepted it", end)
		return
	}
	if got := trust.FaultOf(err); got != h.fault {
		t.Errorf("%s: fault %q, want %q: %v", end, got, h.fault, err)
	}
	if !strings.Contains(err.Error(), h.text) {
		t.Errorf("%s: error %q does not contain %q", end, err, h.text)
	}
	var e *trust.Error
	if errors.As(err, &e) && e.Reason() != mesh.ReasonTLS {
		t.Errorf("%s: reason %q, want %q", end, e.Reason(), mesh.ReasonTLS)
	}
}

// TestHostileBundlesAreRefused: what would make an authority of somebody who is
// none.
func TestHostileBundlesAreRefused(t *testing.T) {
	root, other := newRoot(t, west), newRoot(t, east)
	leaf := root.leaf(t, shop)
	noSign := caTemplate(west, "x")
	noSign.KeyUsage = x509.KeyUsageDigitalSignature
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	two := caTemplate(west, "two")
	two.URIs = append(two.URIs, &url.URL{Scheme: "spiffe", Host: string(east)})
	many := bundle(west, 1)
	for range trust.RootsMax + 1 {
		many.Roots = append(many.Roots, root.cert.Raw)
	}
	for name, b := range map[string]mesh.Bundle{
		"no roots":                 bundle(west, 1),
		"too many roots":           many,
		"a leaf as root":           bundle(west, 1, leaf),
		"a root of another domain": bundle(west, 1, root, other),
		"a root of two domains":    bundle(west, 1, (*pair)(nil).make(t, two, ecKey(t))),
		"a root that may not sign": bundle(west, 1, (*pair)(nil).make(t, noSign, ecKey(t))),
		"a weak root":              bundle(west, 1, (*pair)(nil).make(t, caTemplate(west, "weak"), weak)),
		"rubbish":                  {TrustDomain: west, Roots: [][]byte{[]byte("rubbish")}},
		"trailing rubbish":         {TrustDomain: west, Roots: [][]byte{append(append([]byte(nil), root.cert.Raw...), 0)}},
		"no trust domain":          {Roots: [][]byte{root.cert.Raw}},
		"upper case":               {TrustDomain: "EU-west.isthmus.local", Roots: [][]byte{root.cert.Raw}},
	} {
		if _, err := trust.NewBundles(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := trust.NewBundles(bundle(west, 1, root), bundle(west, 2, root)); err == nil {
		t.Error("two bundles of one domain: accepted")
	}
}

func TestNobodyIsTrustedWithoutABundle(t *testing.T) {
	root := newRoot(t, west)
	leaf := root.leaf(t, shop)
	var none *trust.Bundles
	_, err := none.VerifyPeer([]*x509.Certificate{leaf.cert}, time.Now(), trust.AcceptKnownClients())
	if trust.FaultOf(err) != trust.FaultUnknownDomain {
		t.Errorf("nil Bundles: %v", err)
	}
	set := mustBundles(t, bundle(west, 1, root))
	if _, err := set.VerifyPeer([]*x509.Certificate{leaf.cert}, time.Now(), trust.Accept{}); err == nil {
		t.Error("the zero Accept accepted somebody")
	}
	if _, err := set.VerifyPeer(nil, time.Now(), trust.AcceptKnownClients()); trust.FaultOf(err) != trust.FaultNoCertificate {
		t.Errorf("no certificate: %v", err)
	}
	if _, err := set.VerifyPeer([]*x509.Certificate{leaf.cert}, time.Time{}, trust.AcceptKnownClients()); err == nil {
		t.Error("no time: accepted")
	}
}
