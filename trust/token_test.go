package trust_test

import (
	"crypto/tls"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

func newToken(root *pair) trust.Token {
	return trust.Token{
		ID: trust.TokenID{1, 2, 3}, Secret: trust.RandomSecret(trust.TokenSecretBytes),
		CAPin: trust.PinOf(root.cert), Identity: shop, Expires: time.Unix(1_900_000_000, 0),
	}
}

func sameToken(a, b trust.Token) bool {
	return a.ID == b.ID && a.Secret.Equal(b.Secret) && a.CAPin == b.CAPin && a.Identity == b.Identity && a.Expires.Equal(b.Expires)
}

func TestATokenReadsAsWritten(t *testing.T) {
	want := newToken(newRoot(t, west))
	for _, text := range []string{want.Text(), " \t" + want.Text() + "\r\n"} {
		got, err := trust.ParseToken(text)
		if err != nil || !sameToken(got, want) {
			t.Errorf("read %v, %v", got, err)
		}
	}
	text := want.Text()
	for i := range text {
		if _, err := trust.ParseToken(text[:i]); err == nil {
			t.Errorf("cut to %d characters: accepted", i)
		}
		other := byte('A')
		if text[i] == 'A' {
			other = 'B'
		}
		bad := text[:i] + string(other) + text[i+1:]
		if _, err := trust.ParseToken(bad); err == nil {
			t.Errorf("character %d changed: accepted", i)
		} else if strings.Contains(err.Error(), text[20:40]) {
			t.Errorf("the error quotes the token: %v", err)
		}
	}
	for _, bad := range []string{"", "isthmus-join-1.", text + "A", text[:30] + "\n" + text[30:], strings.Repeat("A", 1<<20), text + "="} {
		if _, err := trust.ParseToken(bad); err == nil {
			t.Errorf("%.40q: accepted", bad)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	root := newRoot(f, west)
	f.Add(newToken(root).Text())
	f.Add("isthmus-join-1.AAAA")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := trust.ParseToken(text)
		if err != nil {
			return
		}
		if token.Text() != strings.TrimSpace(text) {
			t.Errorf("%q reads as %v and is written %q", text, token, token.Text())
		}
	})
}

// TestFirstContactIsMutual: a process with a token believes only a control plane of
// the pinned authority, before it sends anything.
func TestFirstContactIsMutual(t *testing.T) {
	root, other := newRoot(t, west), newRoot(t, west)
	control := mesh.Identity{TrustDomain: west, Namespace: "isthmus-system", ServiceAccount: "control"}
	token := newToken(root)
	// withRoot is the certificate of a control plane, its root shown.
	withRoot := func(signer *pair, id mesh.Identity, shown ...*pair) *trust.Source {
		key, err := trust.NewPrivateKey()
		if err != nil {
			t.Fatal(err)
		}
		chain := signer.make(t, leafTemplate(id), key).chain()
		for _, p := range shown {
			chain = append(chain, p.cert.Raw)
		}
		s, err := trust.NewSVID(key, chain)
		if err != nil {
			t.Fatal(err)
		}
		return newSource(t, s, nil)
	}
	elsewhere := newRoot(t, east)
	for _, c := range []struct {
		name   string
		server *trust.Source
		fault  trust.Fault
	}{
		{"lawful", withRoot(root, control, root), ""},
		{"lawful, two roots shown", withRoot(root, control, other, root), ""},
		{"of another authority", withRoot(other, control, other), trust.FaultPin},
		{"of another authority that shows ours", withRoot(other, control, other, root), trust.FaultChain},
		{"our authority not shown", withRoot(root, control), trust.FaultPin},
		{"another identity of our authority", withRoot(root, orders, root), trust.FaultIdentity},
		{"another trust domain", withRoot(elsewhere, clerk, elsewhere), trust.FaultPin},
	} {
		client := trust.JoinClientConfig(clock.Real{}, token, "control.test", []mesh.Identity{control}, "isthmus-join/1")
		server := trust.JoinServerConfig(c.server, "isthmus-join/1")
		err, _ := handshake(t, client, server)
		if trust.FaultOf(err) != c.fault || (err == nil) != (c.fault == "") {
			t.Errorf("%s: %v, want fault %q", c.name, err, c.fault)
		}
	}
	// A leaf with the pinned key is no authority.
	leaf := root.leaf(t, control)
	pinned := token
	pinned.CAPin = trust.PinOf(leaf.cert)
	server := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.cert.Raw, leaf.cert.Raw}, PrivateKey: leaf.key}}}
	err, _ := handshake(t, trust.JoinClientConfig(clock.Real{}, pinned, "x", []mesh.Identity{control}), server)
	if trust.FaultOf(err) != trust.FaultPin {
		t.Errorf("a pinned leaf: %v", err)
	}
	// The join listener speaks nothing else.
	err, _ = handshake(t, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"isthmus/1"}}, trust.JoinServerConfig(withRoot(root, control, root), "isthmus-join/1"))
	if err == nil {
		t.Error("the join listener took another protocol")
	}
}

// FuzzVerifyPeer: no certificate that parses makes the verifier panic, and none but
// the lawful one passes.
func FuzzVerifyPeer(f *testing.F) {
	root := newRoot(f, west)
	set := mustBundles(f, bundle(west, 1, root))
	good := root.leaf(f, shop)
	f.Add(good.cert.Raw)
	f.Add(root.cert.Raw)
	now := time.Now()
	f.Fuzz(func(t *testing.T, der []byte) {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		if id, err := set.VerifyPeer([]*x509.Certificate{c}, now, trust.AcceptKnownClients()); err == nil && !c.Equal(good.cert) {
			t.Errorf("accepted a forged certificate as %v", id)
		}
	})
}
