package rig

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
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Peer is proxies of another kind in a row, such as HAProxy as a caller's sidecar and as a
// service's.
type Peer struct {
	// Name is such as "HAProxy 2.6.12".
	Name string
	// PIDs are of the processes whose CPU counts.
	PIDs []int

	parts []*Process
}

// Part is one process of a peer: its configuration file, and an address at which it accepts when
// it is ready.
type Part struct{ Config, Listens string }

// HAProxy starts HAProxy once for each part, with what its configurations refer to in env. An error
// that wraps exec.ErrNotFound says that there is none here.
func HAProxy(ctx context.Context, env []string, parts ...Part) (*Peer, error) {
	binary, err := look("haproxy")
	if err != nil {
		return nil, err
	}
	p := &Peer{Name: version(ctx, "HAProxy", binary, "-v")}
	for _, part := range parts {
		if err := p.start(ctx, env, part, 0, binary, "-db", "-f", part.Config); err != nil { // one process, in the foreground
			return nil, errors.Join(err, p.End())
		}
	}
	return p, nil
}

// NGINX is HAProxy for nginx, whose configurations cannot refer to the environment: ${BENCH_X} in
// them is replaced, and the result written to dir, which is also where it puts its files.
func NGINX(ctx context.Context, dir string, env []string, parts ...Part) (*Peer, error) {
	binary, err := look("nginx")
	if err != nil {
		return nil, err
	}
	values := map[string]string{"BENCH_DIR": dir}
	for _, kv := range env {
		k, v, _ := strings.Cut(kv, "=")
		values[k] = v
	}
	p := &Peer{Name: version(ctx, "nginx", binary, "-v")}
	for _, part := range parts {
		text, err := os.ReadFile(part.Config)
		if err != nil {
			return nil, errors.Join(err, p.End())
		}
		values["BENCH_PID"] = filepath.Join(dir, filepath.Base(part.Config)+".pid")
		out := os.Expand(string(text), func(name string) string {
			if v, ok := values[name]; ok {
				return v
			}
			return "$" + name // nginx's own
		})
		rendered := filepath.Join(dir, filepath.Base(part.Config))
		if err := os.WriteFile(rendered, []byte(out), 0o600); err != nil {
			return nil, errors.Join(err, p.End())
		}
		if err := p.start(ctx, nil, part, 1, binary, "-e", "stderr", "-p", dir, "-c", rendered); err != nil {
			return nil, errors.Join(err, p.End())
		}
	}
	return p, nil
}

// look finds a program, also where daemons are that a user's PATH may lack.
func look(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	return exec.LookPath("/usr/sbin/" + name)
}

// start adds a process and its children, of which there are to be so many at least: a port is open before its worker is there.
func (p *Peer) start(ctx context.Context, env []string, part Part, workers int, name string, args ...string) error {
	one, err := Start(env, name, args...)
	if err != nil {
		return err
	}
	if err := Accepts(ctx, part.Listens); err != nil {
		return fmt.Errorf("%s with %s: %w", p.Name, part.Config, notReady(one, err))
	}
	p.parts = append(p.parts, one)
	var children []string
	for try := 0; ; try++ {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", one.PID()))
		if err != nil {
			return err
		}
		if children = strings.Fields(string(text)); len(children) >= workers {
			break
		}
		if try == 100 {
			return fmt.Errorf("%s with %s has %d workers, want %d", p.Name, part.Config, len(children), workers)
		}
		if err := Pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	p.PIDs = append(p.PIDs, one.PID())
	for _, field := range children {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return err
		}
		p.PIDs = append(p.PIDs, pid)
	}
	return nil
}

// End ends the peer's processes.
func (p *Peer) End() error {
	var errs []error
	for _, one := range p.parts {
		errs = append(errs, one.Stop())
	}
	p.parts, p.PIDs = nil, nil
	return errors.Join(errs...)
}

// version is as in "HAProxy 2.6.12", or the name alone.
func version(ctx context.Context, name, binary string, flag string) string {
	out, err := exec.CommandContext(ctx, binary, flag).CombinedOutput()
	if err != nil {
		return name
	}
	for _, field := range strings.Fields(string(out)) {
		field = strings.TrimPrefix(field, "nginx/")
		if field[0] >= '0' && field[0] <= '9' {
			number, _, _ := strings.Cut(field, "-")
			return name + " " + number
		}
	}
	return name
}

// WriteCertificates writes ca.pem, client.pem and server.pem: ECDSA P-256, as the mesh's
// own are.
func WriteCertificates(dir string) error {
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
