package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// pair is two proxies in a row: where a request goes in, and whose CPU counts.
type pair struct {
	name   string
	target string
	pids   []int
	end    func() error
}

// haproxy starts two HAProxy processes with the configurations of peer/, in front of the
// application. An error that wraps exec.ErrNotFound says that there is none here.
func (b *bench) haproxy(ctx context.Context, host int, alpn string, threads int, app string) (_ *pair, err error) {
	binary, err := exec.LookPath("haproxy")
	if err != nil {
		return nil, err
	}
	certs := filepath.Join(b.dir, "certs")
	if err := writeCertificates(certs); err != nil {
		return nil, fmt.Errorf("certificates for HAProxy: %w", err)
	}
	client, server := b.addr(1, 251, host).String()+":8080", b.addr(1, 252, host).String()+":15008"
	p := &pair{target: client}
	var parts []*process
	p.end = func() error {
		var errs []error
		for _, one := range parts {
			errs = append(errs, one.end())
		}
		return errors.Join(errs...)
	}
	for _, part := range []struct{ config, listens string }{{"server.cfg", server}, {"client.cfg", client}} {
		cmd := exec.Command(binary, "-db", "-f", filepath.Join(b.peerDir, part.config)) // one process, in the foreground
		cmd.Env = append(os.Environ(), "BENCH_CLIENT="+client, "BENCH_SERVER="+server, "BENCH_APP="+app, "BENCH_CERTS="+certs,
			"BENCH_ALPN="+alpn, fmt.Sprint("BENCH_THREADS=", threads))
		one, err := startCommand(cmd)
		if err != nil {
			return nil, errors.Join(err, p.end())
		}
		parts = append(parts, one)
		p.pids = append(p.pids, cmd.Process.Pid)
		if err := accepts(ctx, part.listens); err != nil {
			err = errors.Join(fmt.Errorf("HAProxy with %s: %w", part.config, err), p.end())
			return nil, fmt.Errorf("%w\n%s", err, one.output.String())
		}
	}
	return p, nil
}

// haproxyVersion is as in "HAProxy 2.6.12".
func haproxyVersion(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "haproxy", "-v").Output()
	fields := strings.Fields(string(out))
	if err != nil || len(fields) < 3 {
		return "HAProxy"
	}
	version, _, _ := strings.Cut(fields[2], "-")
	return "HAProxy " + version
}

// accepts waits until an address does, five seconds at most.
func accepts(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", address)
		if err == nil {
			return c.Close()
		}
		if pause(ctx, 20*time.Millisecond) != nil {
			return err
		}
	}
}

// writeCertificates writes ca.pem, client.pem and server.pem: ECDSA P-256, as the mesh's
// own are.
func writeCertificates(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	ca := certificate(1, "bench CA")
	ca.IsCA, ca.BasicConstraintsValid, ca.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), encode("CERTIFICATE", der), 0o600); err != nil {
		return err
	}
	for i, name := range []string{"client", "server"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		leaf := certificate(int64(2+i), name+".bench")
		leaf.DNSNames, leaf.KeyUsage = []string{name + ".bench"}, x509.KeyUsageDigitalSignature
		leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
		der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
		if err != nil {
			return err
		}
		private, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return err
		}
		both := append(encode("CERTIFICATE", der), encode("PRIVATE KEY", private)...)
		if err := os.WriteFile(filepath.Join(dir, name+".pem"), both, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func certificate(serial int64, name string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour)}
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
