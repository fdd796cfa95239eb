package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// interProxy is what proxies speak (dataplane/tunnel).
const interProxy = "isthmus/1"

// authority is a certificate authority of the test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, domain string) *authority {
	t.Helper()
	c := &x509.Certificate{Subject: pkix.Name{CommonName: domain}, BasicConstraintsValid: true, IsCA: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, URIs: []*url.URL{{Scheme: "spiffe", Host: domain}},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour)}
	a := &authority{}
	a.cert, a.key = sign(t, c, nil)
	return a
}

// sign makes a certificate from a template, signed by an authority or, where that is nil, by
// itself.
func sign(t *testing.T, template *x509.Certificate, by *authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	signer, parent := key, template
	if by != nil {
		signer, parent = by.key, by.cert
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// leaf is a certificate of an identity that ends at a time.
func (a *authority) leaf(t *testing.T, identity string, end time.Time) tls.Certificate {
	t.Helper()
	u, err := url.Parse(identity)
	if err != nil {
		t.Fatal(err)
	}
	cert, key := sign(t, &x509.Certificate{URIs: []*url.URL{u}, NotBefore: end.Add(-24 * time.Hour), NotAfter: end, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}, a)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

// knock makes a connection as a client proxy would, and waits for the server's first word: in
// TLS 1.3 a client has shaken hands before it is judged.
func knock(address, sni string, certificates ...tls.Certificate) error {
	c, err := (&tls.Dialer{NetDialer: &net.Dialer{Timeout: 2 * time.Second}, Config: &tls.Config{ServerName: sni, NextProtos: []string{interProxy},
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, Certificates: certificates}}).DialContext(context.Background(), "tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	_, err = c.Read(make([]byte, 1))
	return err
}

// TestStrangersAreRefused knocks at a sidecar, directly and through link and gateway, as
// somebody whom the mesh knows, which works, and as those whom it does not.
//
// The one it knows is of a cluster that is described to it with the test's own authority: so that
// the test can also have certificates of a known authority that have expired.
func TestStrangersAreRefused(t *testing.T) {
	m := newMesh(t, 100)
	m.up("-f", write(t, "mesh.yaml", pairMesh))
	known, unknown := newAuthority(t, "third.isthmus.local"), newAuthority(t, "evil.example.com")
	impostor := newAuthority(t, "eu-west.isthmus.local")
	bundle := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: known.cert.Raw})
	if out, code := m.apply("us-east", `
apiVersion: isthmus.dev/v1alpha1
kind: Cluster
metadata: {name: third}
spec:
  role: Primary
  trustDomain: third.isthmus.local
  gateways: ["127.0.0.1:1"]
  controlPlanes: ["127.0.0.1:1"]
  trustBundle: |
    `+strings.ReplaceAll(strings.TrimSpace(string(bundle)), "\n", "\n    ")+"\n"); code != 0 {
		t.Fatalf("apply: exit %d: %s", code, out)
	}
	const sidecar = "us-east.demo.echo-0.sidecar"
	server, door := m.address(1, 1, 1, 15008), m.address(0, 255, 2, 15443)
	sni := mesh.SNI{Service: mesh.ServiceName{Namespace: "demo", Name: "echo"}, TrustDomain: "us-east.isthmus.local"}.String()
	id := "spiffe://third.isthmus.local/ns/demo/sa/friend"
	later := time.Now().Add(time.Hour)
	friend := known.leaf(t, id, later)
	eventually(t, 10*time.Second, "one that the mesh knows is let in", func() (string, bool) {
		err := knock(server, sni, friend)
		return fmt.Sprint(err), err == nil
	})
	if err := knock(door, sni, friend); err != nil {
		t.Fatalf("one that the mesh knows, through link and gateway: %v", err)
	}
	for _, s := range []struct {
		name, says string
		show       []tls.Certificate
	}{
		{"without a certificate", "didn't provide a certificate", nil},
		{"of another trust domain", "evil.example.com", []tls.Certificate{unknown.leaf(t, "spiffe://evil.example.com/ns/demo/sa/friend", later)}},
		{"of a known trust domain, from another authority", "no path to a root", []tls.Certificate{impostor.leaf(t, "spiffe://eu-west.isthmus.local/ns/default/sa/shell", later)}},
		{"of another domain than its authority", "no path to a root", []tls.Certificate{known.leaf(t, "spiffe://eu-west.isthmus.local/ns/default/sa/shell", later)}},
		{"expired", "expired", []tls.Certificate{known.leaf(t, id, time.Now().Add(-time.Minute))}},
		{"not yet valid", "valid from", []tls.Certificate{known.leaf(t, id, time.Now().Add(25*time.Hour))}},
	} {
		t.Run(s.name, func(t *testing.T) {
			for _, way := range []string{server, door} {
				past := len(m.log(sidecar))
				err := knock(way, sni, s.show...)
				var alert tls.AlertError
				if err == nil || !errors.As(err, &alert) && !strings.Contains(err.Error(), "remote error: tls") {
					t.Errorf("at %s: %v, want an alert of TLS", way, err)
				}
				m.says(t, sidecar, past, 2*time.Second, "a connection was refused", `"reason":"tls_failure"`, s.says)
			}
		})
	}
	t.Run("at the gateway itself", func(t *testing.T) {
		for name, says := range map[string]string{
			"0.nothing.demo.us-east.isthmus.local": "no such slot is exported",
			"www.example.com":                      "server name",
		} {
			past := len(m.log("us-east.gateway"))
			if err := knock(door, name, friend); err == nil {
				t.Errorf("a connection for %s is let in", name)
			}
			m.says(t, "us-east.gateway", past, 2*time.Second, "a connection was refused", name, says)
		}
	})
	t.Run("an application's own protocol", func(t *testing.T) {
		for _, at := range []string{server, door} {
			c, err := net.DialTimeout("tcp", at, time.Second)
			if err != nil {
				t.Fatal(err)
			}
			_ = c.SetDeadline(time.Now().Add(7 * time.Second))
			_, _ = c.Write([]byte("GET / HTTP/1.1\r\nHost: echo.demo\r\n\r\n"))
			b := make([]byte, 64)
			if n, _ := c.Read(b); n > 0 && bytes.HasPrefix(b, []byte("HTTP/1.1 200")) {
				t.Errorf("%s answers in the clear: %q", at, b[:n])
			}
			c.Close()
		}
	})
	a := get(m.shell(0), echo+"/")
	if a.Status != 200 {
		t.Errorf("afterwards a caller of the mesh gets %s", a)
	}
}

// TestRogueServer puts a server in the place of a sidecar: in the right cluster, with a
// certificate of the right authority, but not one of the identities that may serve.
func TestRogueServer(t *testing.T) {
	m := newMesh(t, 120)
	m.up("-f", write(t, "mesh.yaml", pairMesh))
	thief := m.join(t, 1, mesh.Identity{TrustDomain: "us-east.isthmus.local", Namespace: "demo", ServiceAccount: "thief"})
	honest := m.join(t, 1, mesh.Identity{TrustDomain: "us-east.isthmus.local", Namespace: "demo", ServiceAccount: "echo"})
	client := m.shell(0)
	if a := get(client, echo+"/"); a.Status != 200 {
		t.Fatal(a)
	}
	m.run("drill", "kill", "sidecar:echo.demo@us-east")
	for _, s := range []struct {
		name    string
		cert    tls.Certificate
		trusted bool
	}{{"an honest one is asked", honest, true}, {"a thief is not", thief, false}} {
		t.Run(s.name, func(t *testing.T) {
			// What reaches it after the handshake is the client's trust.
			got := serveRogue(t, m.address(1, 1, 1, 15008), s.cert)
			past := len(m.log("eu-west.shell"))
			if s.trusted {
				eventually(t, 20*time.Second, "the client trusts it", func() (string, bool) {
					a := get(client, echo+"/")
					return a.String(), len(got) > 0
				})
				return
			}
			tried := 0
			eventually(t, 20*time.Second, "the client says why it refuses", func() (string, bool) {
				tried++
				a := get(client, echo+"/")
				if a.Status == 200 {
					t.Fatalf("the rogue server was asked: %s", a)
				}
				text := m.log("eu-west.shell")[past:]
				return a.String() + text, strings.Contains(text, "tls_failure") && strings.Contains(text, "identities that may serve this")
			})
			if len(got) > 0 {
				t.Errorf("after %d requests the rogue server has read %q", tried, <-got)
			}
		})
	}
	m.run("drill", "resume", "sidecar:echo.demo@us-east")
	eventually(t, 40*time.Second, "the sidecar serves again", func() (string, bool) {
		a := get(client, echo+"/")
		return a.String(), a.Status == 200
	})
}

// serveRogue accepts at a sidecar's address and returns what clients said after the
// handshake.
func serveRogue(t *testing.T, address string, cert tls.Certificate) <-chan string {
	t.Helper()
	var ln net.Listener
	eventually(t, 5*time.Second, "the killed sidecar's port is free", func() (string, bool) {
		var err error
		ln, err = tls.Listen("tcp", address, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{interProxy},
			ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS13})
		return fmt.Sprint(err), err == nil
	})
	got, done := make(chan string, 100), make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_ = c.SetDeadline(time.Now().Add(3 * time.Second))
			b := make([]byte, 1024)
			if n, err := c.Read(b); err == nil {
				select {
				case got <- string(b[:n]):
				default:
				}
			}
			c.Close()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
	})
	return got
}

// join gets a certificate of the mesh as a proxy does: with a token, for a key of its own.
func (m *meshUnder) join(t *testing.T, cluster int, id mesh.Identity) tls.Certificate {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Fatalf("join as %s: %v", id, err)
		}
	}
	secret, err := os.ReadFile(filepath.Join(m.dir, "token"))
	must(err)
	body, _ := json.Marshal(map[string]string{"identity": id.String()})
	req, err := http.NewRequest(http.MethodPost, "http://"+m.address(cluster, 0, 2, 15080)+"/v1/tokens", bytes.NewReader(body))
	must(err)
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(secret)))
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	must(err)
	defer resp.Body.Close()
	var answer struct {
		Token string `json:"token"`
	}
	must(json.NewDecoder(resp.Body).Decode(&answer))
	token, err := trust.ParseToken(answer.Token)
	must(err)
	key, err := trust.NewPrivateKey()
	must(err)
	csr, err := key.CSR()
	must(err)
	plane := mesh.Identity{TrustDomain: id.TrustDomain, Namespace: "isthmus-system", ServiceAccount: "control-plane"}
	address := netip.MustParseAddrPort(m.address(cluster, 0, 2, 15010))
	conn, err := grpc.NewClient("passthrough:///"+address.String(), grpc.WithTransportCredentials(credentials.NewTLS(
		trust.JoinClientConfig(clock.Real{}, token, "join."+string(id.TrustDomain), []mesh.Identity{plane}, "h2"))))
	must(err)
	defer conn.Close()
	ctx, stop := context.WithTimeout(context.Background(), 5*time.Second)
	defer stop()
	r, err := wirepb.NewIdentityClient(conn).Sign(ctx, &wirepb.SignRequest{Csr: csr, Token: token.Text()})
	must(err)
	return tls.Certificate{Certificate: r.Chain, PrivateKey: key}
}
