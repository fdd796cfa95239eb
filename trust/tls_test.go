package trust_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// ends are a lawful client and server of one trust domain.
type ends struct {
	root           *pair
	client, server *trust.Source
}

func newEnds(t testing.TB) ends {
	root := newRoot(t, west)
	b := mustBundles(t, bundle(west, 1, root))
	return ends{root, newSource(t, svid(t, root, orders, nil), b), newSource(t, svid(t, root, shop, nil), b)}
}

func (e ends) clientConfig(alpn ...string) *tls.Config {
	return trust.ClientConfig(e.client, trust.AcceptServers(west, shop), "0.shop.default.eu-west.isthmus.local", alpn...)
}

func (e ends) serverConfig(alpn ...string) *tls.Config {
	return trust.ServerConfig(e.server, trust.ServerOptions{Accept: trust.AcceptKnownClients(), ALPN: alpn})
}

func TestOnlyTheMeshsTLSIsSpoken(t *testing.T) {
	e := newEnds(t)
	old := e.clientConfig("isthmus/1")
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	bare := e.clientConfig("isthmus/1")
	bare.GetClientCertificate = nil
	noALPN := e.clientConfig()
	for _, c := range []struct {
		name   string
		client *tls.Config
		fault  trust.Fault
		text   string
	}{
		{"lawful", e.clientConfig("isthmus/1"), "", ""},
		{"TLS 1.2", old, "", "unsupported versions"},
		{"no certificate", bare, "", "didn't provide a certificate"},
		{"another protocol", e.clientConfig("other/1"), "", "unsupported application protocols"},
		// crypto/tls lets http/1.1 fall through to no protocol where the server speaks h2;
		// our client is the first to refuse that.
		{"HTTP/1.1", e.clientConfig("http/1.1"), "", "bad certificate"},
		{"no protocol", noALPN, trust.FaultALPN, ""},
	} {
		_, err := handshake(t, c.client, e.serverConfig("isthmus/1", "h2"))
		if (err == nil) != (c.name == "lawful") {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if err != nil && (trust.FaultOf(err) != c.fault || !strings.Contains(err.Error(), c.text)) {
			t.Errorf("%s: fault %q, want %q; error %q, want %q in it", c.name, trust.FaultOf(err), c.fault, err, c.text)
		}
	}
	oldServer := e.serverConfig()
	oldServer.MinVersion, oldServer.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if err, _ := handshake(t, e.clientConfig(), oldServer); err == nil {
		t.Error("a client spoke TLS 1.2")
	}
	if err, _ := handshake(t, e.clientConfig("isthmus/1"), e.serverConfig()); trust.FaultOf(err) != trust.FaultALPN {
		t.Errorf("a server that chose no protocol: %v", err)
	}
	// The verifier itself refuses, whatever the library negotiated.
	_, err := mustBundles(t).VerifyConnection(tls.ConnectionState{Version: tls.VersionTLS12}, time.Now(), trust.AcceptKnownClients(), nil)
	if trust.FaultOf(err) != trust.FaultVersion {
		t.Errorf("state of TLS 1.2: %v", err)
	}
}

func TestAnUnservedNameIsAnsweredInWords(t *testing.T) {
	e := newEnds(t)
	for protocol, offers := range map[string][]string{"isthmus/1": {"h2", "isthmus/1"}, "h2": {"h2"}, "": {}} {
		var asked []string
		server := trust.ServerConfig(e.server, trust.ServerOptions{
			Accept: trust.AcceptKnownClients(), ALPN: []string{"isthmus/1", "h2"},
			Serves: func(sni, protocol string) bool { asked = []string{sni, protocol}; return false },
		})
		client := e.clientConfig(offers...)
		err, _ := handshake(t, client, server)
		if err == nil || !strings.Contains(err.Error(), "unrecognized name") {
			t.Errorf("client error %v, want the alert unrecognized_name", err)
		}
		if want := []string{"0.shop.default.eu-west.isthmus.local", protocol}; !slices.Equal(asked, want) {
			t.Errorf("asked for %q, want %q", asked, want)
		}
	}
}

func TestAnAcceptedPeersIdentityIsKnown(t *testing.T) {
	e := newEnds(t)
	a, b := pipe(t)
	done := make(chan error, 1)
	server := tls.Server(b, e.serverConfig())
	go func() { done <- server.Handshake() }()
	client := tls.Client(a, e.clientConfig())
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	defer b.Close()
	for end, c := range map[string]struct {
		conn *tls.Conn
		want mesh.Identity
	}{"client": {client, shop}, "server": {server, orders}} {
		got, err := trust.PeerIdentity(c.conn.ConnectionState())
		if err != nil || got != c.want {
			t.Errorf("%s: peer %v, %v, want %v", end, got, err, c.want)
		}
		if c.conn.ConnectionState().DidResume {
			t.Errorf("%s: resumed", end)
		}
	}
	// A live connection is judged again by the bundles of the day.
	state := server.ConnectionState()
	if _, err := e.server.Current().Bundles.VerifyConnection(state, time.Now(), trust.AcceptKnownClients(), nil); err != nil {
		t.Errorf("judged again: %v", err)
	}
	expelled := e.server.Current().Bundles.Without(west)
	if _, err := expelled.VerifyConnection(state, time.Now(), trust.AcceptKnownClients(), nil); trust.FaultOf(err) != trust.FaultUnknownDomain {
		t.Errorf("judged again after its domain was expelled: %v", err)
	}
}

func TestAConfigurationFollowsItsSource(t *testing.T) {
	e := newEnds(t)
	client, server := e.clientConfig(), e.serverConfig()
	if c, s := handshake(t, client, server); c != nil || s != nil {
		t.Fatal(c, s)
	}
	// A new root: first believed by both, then used by one, then the only one.
	next := newRoot(t, west)
	both := mustBundles(t, bundle(west, 2, e.root, next))
	for _, step := range []func() error{
		func() error { return e.client.Update(nil, both) },
		func() error { return e.server.Update(nil, both) },
		func() error { return e.server.Update(svid(t, next, shop, nil), nil) },
		func() error { return e.client.Update(svid(t, next, orders, nil), nil) },
		func() error { return e.client.Update(nil, mustBundles(t, bundle(west, 3, next))) },
		func() error { return e.server.Update(nil, mustBundles(t, bundle(west, 3, next))) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
		if c, s := handshake(t, client, server); c != nil || s != nil {
			t.Fatal(c, s)
		}
	}
	// Control: the order matters. A certificate of a root nobody believes is refused.
	if err := e.server.Update(svid(t, e.root, shop, nil), nil); err != nil {
		t.Fatal(err)
	}
	if c, _ := handshake(t, client, server); trust.FaultOf(c) != trust.FaultChain {
		t.Errorf("retired root: %v", c)
	}
}

func TestOwnFaultsAreToldAsOwn(t *testing.T) {
	e := newEnds(t)
	empty := trust.NewSource(clock.Real{})
	// Its certificate is fresh; its clock is a day and an hour ahead.
	late := trust.NewSource(clock.Shifted{Clock: clock.Real{}, By: 25 * time.Hour})
	if err := late.Update(svid(t, e.root, orders, nil), e.client.Current().Bundles); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*trust.Source{"no certificate": empty, "expired": late} {
		server := trust.ServerConfig(s, trust.ServerOptions{Accept: trust.AcceptKnownClients()})
		_, err := handshake(t, e.clientConfig(), server)
		var refusal *trust.Error
		if !errors.As(err, &refusal) || refusal.Reason() != mesh.ReasonOwnFault {
			t.Errorf("%s: server error %v, want reason %q", name, err, mesh.ReasonOwnFault)
		}
	}
}

func TestASourceKeepsItsIdentity(t *testing.T) {
	e := newEnds(t)
	m, changed := e.client.Watch()
	if err := e.client.Update(svid(t, e.root, shop, nil), nil); !errors.Is(err, trust.ErrIdentityChanged) {
		t.Errorf("became somebody else: %v", err)
	}
	select {
	case <-changed:
		t.Error("a refused update was announced")
	default:
	}
	if err := e.client.Update(svid(t, e.root, orders, nil), nil); err != nil {
		t.Fatal(err)
	}
	<-changed
	if now := e.client.Current(); now.Generation <= m.Generation || now.Bundles != m.Bundles || now.SVID == m.SVID {
		t.Errorf("after an update of the certificate: %v, before %v", now.Generation, m.Generation)
	}
}

func TestAnSVIDThatPeersWouldRefuseIsRefusedHere(t *testing.T) {
	root := newRoot(t, west)
	key, err := trust.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	ca := leafTemplate(shop)
	ca.IsCA = true
	for name, chain := range map[string][][]byte{
		"no certificate": nil,
		"another key":    root.leaf(t, shop).chain(),
		"an authority":   root.make(t, ca, key).chain(),
		"rubbish":        {[]byte("rubbish")},
	} {
		if _, err := trust.NewSVID(key, chain); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := trust.NewSVID(trust.PrivateKey{}, root.leaf(t, shop).chain()); err == nil {
		t.Error("no key: accepted")
	}
}

func TestBundlesNeverGoBack(t *testing.T) {
	one, two := newRoot(t, west), newRoot(t, west)
	set := mustBundles(t, bundle(west, 5, one), bundle(east, 1, newRoot(t, east)))
	next, err := set.With(bundle(west, 6, two, one))
	if err != nil {
		t.Fatal(err)
	}
	if g, ok := next.Generation(west); !ok || g != 6 {
		t.Errorf("generation %d, %v, want 6", g, ok)
	}
	if g, _ := set.Generation(west); g != 5 {
		t.Errorf("the old set changed: generation %d", g)
	}
	if same, err := next.With(bundle(west, 6, one, two)); err != nil || same != next {
		t.Errorf("the same bundle in another order: %v", err)
	}
	for name, b := range map[string]mesh.Bundle{
		"an older one":               bundle(west, 5, one),
		"another of this generation": bundle(west, 6, one),
	} {
		var rollback *trust.RollbackError
		if _, err := next.With(b); !errors.As(err, &rollback) || rollback.Have != 6 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(next.Without(west).All()) != 1 || len(next.All()) != 2 {
		t.Error("Without took the wrong number of domains")
	}
	// One owner's rubbish leaves the set in force.
	if _, err := next.With(mesh.Bundle{TrustDomain: "ap-south.isthmus.local", Generation: 1}); err == nil {
		t.Error("an empty bundle was accepted")
	}
	var none *trust.Bundles
	if first, err := none.With(bundle(west, 1, one)); err != nil || len(first.All()) != 1 {
		t.Errorf("the first bundle: %v", err)
	}
}

func BenchmarkVerifyPeer(b *testing.B) {
	e := newEnds(b)
	set, now := e.client.Current().Bundles, time.Now()
	accept := trust.AcceptServers(west, shop)
	chain := []*x509.Certificate{e.server.Current().SVID.Leaf}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := set.VerifyPeer(chain, now, accept); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkClientConfig(b *testing.B) {
	e := newEnds(b)
	ids := []mesh.Identity{shop}
	var sink atomic.Pointer[tls.Config] // so that it is allocated as for a connection
	b.ReportAllocs()
	for b.Loop() {
		sink.Store(trust.ClientConfig(e.client, trust.AcceptServers(west, ids...), "x", "isthmus/1"))
	}
}

// BenchmarkHandshake is a full handshake, both ends and their verification, over
// loopback TCP, dialling included; cpu-µs/op is the process's, which repeats better
// on a busy machine.
func BenchmarkHandshake(b *testing.B) {
	e := newEnds(b)
	for _, how := range []string{"full", "resumed"} { // resumed is what ADR 26 does without
		b.Run(how, func(b *testing.B) {
			client, server := e.clientConfig("isthmus/1"), e.serverConfig("isthmus/1")
			if how == "resumed" {
				server.SessionTicketsDisabled, client.ClientSessionCache = false, tls.NewLRUClientSessionCache(1)
				client.SessionTicketsDisabled = false
			}
			resumed := 0
			verify := client.VerifyConnection
			client.VerifyConnection = func(s tls.ConnectionState) error {
				if s.DidResume {
					resumed++
				}
				return verify(s)
			}
			b.ReportAllocs()
			before := cpuTime(b)
			for b.Loop() {
				if c, s := handshake(b, client, server); c != nil || s != nil {
					b.Fatal(c, s)
				}
			}
			b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
			if (resumed >= b.N-1) != (how == "resumed") {
				b.Errorf("%d of %d were resumed", resumed, b.N)
			}
		})
	}
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
