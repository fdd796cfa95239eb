// Package members plans a store of several members: what each is told, and the certificates by which they and
// their clients know each other. Its one idea is that a plan is files: whoever runs the members, a local mesh or a
// test, starts `isthmus store --config` on them and needs no more.
//
// It starts nothing and watches nothing. The certificates are for a machine of one's own: one key for all
// members and clients, beside the files that it protects. Read Plan.
package members

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// Member is where one member is reached.
type Member struct {
	Name         string
	Client, Peer netip.AddrPort
}

// Plan is a store of several members below a directory.
type Plan struct {
	// Dir holds certificates, configurations and the members' data; mode 0700.
	Dir string
	// Token tells the store from others.
	Token   string
	Members []Member
}

// Files of a plan, below its directory.
func (p Plan) file(name string) string { return filepath.Join(p.Dir, name) }

// CA, Certificate and Key are PEM files; a client shows the certificate that members show.
func (p Plan) CA() string          { return p.file("ca.pem") }
func (p Plan) Certificate() string { return p.file("member.pem") }
func (p Plan) Key() string         { return p.file("member-key.pem") }

// Config is the configuration of a member, for `isthmus store --config`.
func (p Plan) Config(m Member) string { return p.file(m.Name + ".json") }

// Endpoints is what clients are given.
func (p Plan) Endpoints() (out []string) {
	for _, m := range p.Members {
		out = append(out, "https://"+m.Client.String())
	}
	return out
}

// Write writes the files that are not there, and the configurations anew.
func (p Plan) Write(now time.Time) error {
	if err := os.MkdirAll(p.Dir, 0o700); err != nil {
		return err
	}
	if _, err := os.Stat(p.Key()); errors.Is(err, fs.ErrNotExist) {
		if err := p.certify(now); err != nil {
			return fmt.Errorf("make certificates for the members of a store: %w", err)
		}
	} else if err != nil {
		return err
	}
	peers := map[string]netip.AddrPort{}
	for _, m := range p.Members {
		peers[m.Name] = m.Peer
	}
	for _, m := range p.Members {
		b, err := json.Marshal(map[string]any{"dataDir": p.file(m.Name), "name": m.Name,
			"cluster": map[string]any{"members": peers, "token": p.Token, "client": m.Client, "ca": p.CA(), "certificate": p.Certificate(), "key": p.Key()}})
		if err != nil {
			return err
		}
		if err := os.WriteFile(p.Config(m), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// life is that of the certificates: a state directory is made anew long before.
const life = 10 * 365 * 24 * time.Hour

// certify makes a CA, whose key is forgotten at once, and the one certificate that it signs.
func (p Plan) certify(now time.Time) error {
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "store " + p.Token}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(life),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "member of store " + p.Token}, NotBefore: root.NotBefore, NotAfter: root.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	for _, m := range p.Members {
		for _, a := range []netip.AddrPort{m.Client, m.Peer} {
			leaf.IPAddresses = append(leaf.IPAddresses, net.IP(a.Addr().AsSlice()))
		}
	}
	// Members hold a certificate against the address that a connection comes from, which on one machine is this, wherever it goes.
	leaf.IPAddresses = append(leaf.IPAddresses, net.IPv4(127, 0, 0, 1))
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey)
	if err != nil {
		return err
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, leafKey.Public(), rootKey)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		return err
	}
	for _, f := range []struct { // the key last: where it is, all is
		path, kind string
		der        []byte
	}{{p.CA(), "CERTIFICATE", rootDER}, {p.Certificate(), "CERTIFICATE", leafDER}, {p.Key(), "PRIVATE KEY", keyDER}} {
		if err := os.WriteFile(f.path, pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.der}), 0o600); err != nil {
			return err
		}
	}
	return nil
}
