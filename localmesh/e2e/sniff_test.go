package e2e

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// undeclaredPorts are services whose ports say nothing of what is spoken there, in us-east.
const undeclaredPorts = `apiVersion: v1
kind: Service
metadata: {name: any-echo, namespace: demo}
spec: {selector: {app: echo}, ports: [{name: any, port: 7000, targetPort: 8080}]}
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: {name: any-echo, namespace: demo}
---
apiVersion: v1
kind: Service
metadata: {name: any-bytes, namespace: demo}
spec: {selector: {app: bytes}, ports: [{name: any, port: 7000, targetPort: 8080}]}
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: {name: any-bytes, namespace: demo}
---
apiVersion: v1
kind: Service
metadata: {name: any-secure, namespace: demo}
spec: {selector: {app: secure}, ports: [{name: any, port: 7000, targetPort: 8080}]}
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: {name: any-secure, namespace: demo}
`

// undeclared speaks HTTP, bytes and TLS to ports of another cluster of which nothing is declared: a request is a request, whose
// application is told who calls; what is none passes as it is.
func undeclared(t *testing.T, m *meshUnder) {
	if out, code := m.apply("us-east", undeclaredPorts); code != 0 {
		t.Fatalf("apply: exit %d\n%s", code, out)
	}
	address := func(service string) (at string) {
		t.Helper()
		eventually(t, time.Minute, "an address of "+service, func() (string, bool) {
			out, _ := m.try("get", "service", service, "-n", "demo", "-o", "wide", "--cluster", "eu-west")
			for _, word := range strings.Fields(out) {
				if ip := net.ParseIP(word); ip != nil {
					at = net.JoinHostPort(word, "7000")
				}
			}
			return out, at != ""
		})
		return at
	}
	direct := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	web, bytes, secure := address("any-echo"), address("any-bytes"), address("any-secure")
	eventually(t, time.Minute, "a request is a request", func() (string, bool) {
		a := get(direct, "http://"+web+"/")
		return a.String(), a.Status == 200 && a.Cluster == "us-east" && a.Caller == "spiffe://eu-west.isthmus.local/ns/default/sa/shell"
	})
	eventually(t, time.Minute, "TLS passes", func() (string, bool) {
		a := get(direct, "https://"+secure+"/")
		return a.String() + a.text, a.Status == 200 && strings.HasPrefix(a.text, "TLS for ")
	})
	eventually(t, time.Minute, "bytes pass", func() (string, bool) {
		c, err := net.Dial("tcp", bytes)
		if err != nil {
			return err.Error(), false
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(c, "GETTING nowhere\n") // no request, though it begins as one
		line, err := bufio.NewReader(c).ReadString('\n')
		if err != nil {
			return err.Error(), false
		}
		return line, line == "GETTING nowhere\n"
	})
}
