package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// secureName is what the certificate of the workload that speaks TLS is for.
const secureName = "secure.example.com"

// certificates makes a folder with a key and a certificate, which is its own authority.
func certificates(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{secureName}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: cert}, "key.pem": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// spokenByTLS is a workload that speaks TLS alone.
func spokenByTLS(ln net.Listener, dir string) error {
	srv := &http.Server{ReadHeaderTimeout: 5 * time.Second, ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "TLS for %s", r.TLS.ServerName)
	}), TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	return srv.ServeTLS(ln, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
}

// applicationByTLS applies a BackendTLSPolicy to the cluster in which the application of dir runs, and takes away what it
// trusts; the caller is in another cluster and knows nothing of it.
func applicationByTLS(t *testing.T, m *meshUnder, dir string) {
	client := m.shell(0)
	becomes := func(status int, reason, text string) {
		t.Helper()
		eventually(t, time.Minute, fmt.Sprintf("an answer %d %s with %q", status, reason, text), func() (string, bool) {
			a := get(client, "http://secure.demo.svc.clusterset.local/")
			return fmt.Sprintf("%s: %.200s", a, a.text), a.Status == status && a.Reason == reason && strings.Contains(a.text, text)
		})
	}
	apply := func(yaml string) {
		t.Helper()
		if out, code := m.apply("us-east", yaml); code != 0 {
			t.Fatalf("apply: exit %d\n%s", code, out)
		}
	}
	trust := func(dir string) {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, "cert.pem"))
		if err != nil {
			t.Fatal(err)
		}
		apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: secure-ca, namespace: demo}\ndata:\n  ca.crt: |\n    " +
			strings.ReplaceAll(strings.TrimSpace(string(b)), "\n", "\n    ") + "\n")
	}
	says := func(reason string) {
		t.Helper()
		out, code := m.try("get", "backendtlspolicy", "secure", "-n", "demo", "--cluster", "us-east", "-o", "yaml")
		if code != 0 || !strings.Contains(out, "reason: "+reason) {
			t.Errorf("exit %d, want the reason %s:\n%s", code, reason, out)
		}
	}
	// What explain says is what the proxy does: both ask the same functions.
	explains := func(wantCode int, parts ...string) {
		t.Helper()
		out, code := m.try("explain", "shell@us-east", "http://secure.demo.svc.clusterset.local/", "-o", "json")
		for _, part := range parts {
			if code != wantCode || !strings.Contains(out, part) {
				t.Errorf("explain: exit %d, want %d and %s in:\n%s", code, wantCode, part, out)
			}
		}
	}
	becomes(400, "", "HTTP request to an HTTPS server") // what an application says that is spoken to in the clear
	explains(0, `"protocol": "HTTP"`)
	apply(`apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: secure, namespace: demo}
spec:
  targetRefs: [{group: "", kind: Service, name: secure}]
  validation: {hostname: ` + secureName + `, caCertificateRefs: [{group: "", kind: ConfigMap, name: secure-ca}]}
`)
	becomes(503, "tls_failure", "") // it trusts nobody yet
	says("NoValidCACertificate")
	explains(1, `"reason": "tls_failure"`, `"refused": "no authority can verify the application`)
	trust(dir)
	becomes(200, "", "TLS for "+secureName)
	says("Accepted")
	explains(0, `"object": "BackendTLSPolicy demo/secure@us-east"`, `"serverName": "`+secureName+`"`, `"http/1.1"`, `"Hostname `+secureName+`"`)
	trust(certificates(t)) // somebody else
	becomes(503, "tls_failure", "")
	if out, code := m.try("delete", "backendtlspolicy", "secure", "-n", "demo", "--cluster", "us-east"); code != 0 {
		t.Fatalf("delete: exit %d\n%s", code, out)
	}
	becomes(400, "", "HTTP request to an HTTPS server")
}
