package e2e

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// workloadArg and the name of one make this program a workload of a mesh file: a command as
// users have them, that is no part of the mesh.
const workloadArg = "workload-of-a-test"

func workload(which string) error {
	ln, err := net.Listen("tcp", net.JoinHostPort(os.Getenv("HOST"), os.Getenv("PORT")))
	if err != nil {
		return err
	}
	switch which {
	case "bulk":
		return bulk(ln)
	case "ticks":
		return ticks(ln)
	case "udp":
		return datagrams(ln.Addr().String())
	case "tcp":
		for {
			c, err := ln.Accept()
			if err != nil {
				return err
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	case "web":
		mux := http.NewServeMux()
		mux.HandleFunc("/env", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(os.Environ()) })
		mux.HandleFunc("/fetch", fetch)
		mux.HandleFunc("/socket", socket)
		return (&http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}).Serve(ln)
	}
	if dir, ok := strings.CutPrefix(which, "tls:"); ok {
		return spokenByTLS(ln, dir)
	}
	if arg, ok := strings.CutPrefix(which, "governed:"); ok {
		return newGoverned(arg, os.Getenv("HOST")).serve(ln)
	}
	if filepath.IsAbs(which) {
		return relayTo(ln, which)
	}
	return fmt.Errorf("no workload %q", which)
}

// fetch gets a URL as a program does that knows nothing of the mesh but its environment.
func fetch(w http.ResponseWriter, r *http.Request) {
	resp, err := (&http.Client{Timeout: 5 * time.Second}).Get(r.URL.Query().Get("url"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body)
}

// socketAccept is RFC 6455 §4.2.2.
func socketAccept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// socket shakes hands as a WebSocket server does (RFC 6455 §4.2), and then echoes bytes.
func socket(w http.ResponseWriter, r *http.Request) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") || r.Header.Get("Sec-WebSocket-Version") != "13" {
		http.Error(w, "no WebSocket handshake", http.StatusBadRequest)
		return
	}
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer c.Close()
	_, _ = fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		socketAccept(r.Header.Get("Sec-WebSocket-Key")))
	_ = rw.Flush()
	_, _ = io.Copy(c, rw)
}

// TestCommands runs programs of the test as workloads of two clusters, and reaches them in
// every way that users have.
func TestCommands(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	secure := certificates(t)
	m := newMesh(t, 160)
	m.up("-f", write(t, "mesh.yaml", fmt.Sprintf(`
apiVersion: isthmus.dev/v1alpha1
kind: LocalMesh
clusters:
  - {name: eu-west, jurisdiction: EU}
  - {name: us-east, jurisdiction: US}
links:
  - {between: [eu-west, us-east], rtt: 10ms}
workloads:
  - {name: bytes, namespace: demo, clusters: [us-east], run: [%[1]q, %[2]s, tcp]}
  - {name: web, namespace: demo, clusters: [us-east], run: [%[1]q, %[2]s, web]}
  - {name: web-near, namespace: demo, clusters: [eu-west], run: [%[1]q, %[2]s, web]}
  - {name: secure, namespace: demo, clusters: [us-east], run: [%[1]q, %[2]s, %[3]q]}
  - {name: echo, namespace: demo, run: builtin/echo}
`, self, workloadArg, "tls:"+secure)))
	for _, step := range []struct {
		name string
		f    func(*testing.T, *meshUnder)
	}{
		{"CONNECT to a service of bytes in another cluster", connectBytes},
		{"CONNECT elsewhere is refused with the reason", connectElsewhere},
		{"a WebSocket", webSocket},
		{"http_proxy leads a command into the mesh", environmentProxy},
		{"ISTHMUS_SERVICE addresses answer the command", environmentServices},
		{"ports of which nothing is declared are looked at", undeclared},
		{"a service's address answers the shell", serviceAddress},
		{"an application that speaks TLS is verified", func(t *testing.T, m *meshUnder) { applicationByTLS(t, m, secure) }},
	} {
		t.Run(step.name, func(t *testing.T) {
			own := *m
			own.t = t
			step.f(t, &own)
		})
	}
}

// connect opens a tunnel through the shell's explicit proxy (RFC 9110 §9.3.6).
func (m *meshUnder) connect(t *testing.T, target string) (net.Conn, *bufio.Reader, *http.Response) {
	t.Helper()
	c, err := net.DialTimeout("tcp", m.address(0, 0, 1, 15001), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = fmt.Fprintf(c, "CONNECT %[1]s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", target)
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		t.Fatalf("CONNECT %s: %v", target, err)
	}
	return c, r, resp
}

// exchange sends bytes and wants the same back.
func exchange(t *testing.T, c net.Conn, r io.Reader, text string) {
	t.Helper()
	sent := make(chan error, 1)
	go func() {
		_, err := io.WriteString(c, text)
		sent <- err
	}()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != text {
		t.Fatalf("%d bytes came back otherwise: %v", len(text), err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
}

func connectBytes(t *testing.T, m *meshUnder) {
	c, r, resp := m.connect(t, "bytes.demo.svc.clusterset.local:80")
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("status %d %s", resp.StatusCode, resp.Header.Get("isthmus-reason"))
	}
	exchange(t, c, r, "hello")
	exchange(t, c, r, "\x00\x16\x03GET / HTTP/1.1\r\n\r\n") // what looks like a protocol is not taken for one
	exchange(t, c, r, strings.Repeat("0123456789abcdef", 1<<18))
	// The end of one direction ends the other, and no earlier.
	_, _ = io.WriteString(c, "bye")
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(r)
	if err != nil || string(rest) != "bye" {
		t.Errorf("after our end came %q, %v; want bye and the end", rest, err)
	}
}

func connectElsewhere(t *testing.T, m *meshUnder) {
	for target, want := range map[string]string{
		"www.example.com:443":                   "outside_mesh",
		"nothing.demo.svc.clusterset.local:80":  "unknown_host",
		"bytes.demo.svc.clusterset.local:12345": "unknown_port",
		m.address(1, 0, 2, 15080):               "outside_mesh", // a control plane's API
		m.address(1, 1, 2, 8080):                "outside_mesh", // an application, past its sidecar
	} {
		_, _, resp := m.connect(t, target)
		if got := resp.Header.Get("isthmus-reason"); resp.StatusCode != http.StatusBadGateway || got != want {
			t.Errorf("CONNECT %s: status %d %s, want 502 %s", target, resp.StatusCode, got, want)
		}
	}
}

func webSocket(t *testing.T, m *meshUnder) {
	const host = "web.demo.svc.clusterset.local"
	const key = "dGhlIHNhbXBsZSBub25jZQ==" // RFC 6455 §1.3
	shake := "Host: " + host + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + "\r\n\r\n"
	answered := func(c net.Conn, r *bufio.Reader) {
		t.Helper()
		resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodGet})
		if err != nil {
			t.Fatal(err)
		}
		if got := resp.Header.Get("Sec-WebSocket-Accept"); resp.StatusCode != http.StatusSwitchingProtocols || got != socketAccept(key) {
			t.Fatalf("status %d %s, accept %q", resp.StatusCode, resp.Header.Get("isthmus-reason"), got)
		}
		exchange(t, c, r, "\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58") // RFC 6455 §5.7: a masked Hello
		exchange(t, c, r, strings.Repeat("frame", 1<<16))
	}
	t.Run("through a tunnel, as clients do", func(t *testing.T) {
		c, r, resp := m.connect(t, host+":80")
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("status %d", resp.StatusCode)
		}
		_, _ = io.WriteString(c, "GET /socket HTTP/1.1\r\n"+shake)
		answered(c, r)
	})
	t.Run("as a request to the proxy", func(t *testing.T) {
		c, err := net.DialTimeout("tcp", m.address(0, 0, 1, 15001), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(c, "GET http://"+host+"/socket HTTP/1.1\r\n"+shake)
		answered(c, bufio.NewReader(c))
	})
}

// near asks the command of eu-west, from the shell of its cluster.
func near(t *testing.T, m *meshUnder, path string) answer {
	t.Helper()
	return get(m.shell(0), "http://web-near.demo"+path)
}

func environmentProxy(t *testing.T, m *meshUnder) {
	a := near(t, m, "/fetch?url="+url.QueryEscape("http://echo.demo.svc.clusterset.local/inside"))
	if a.Status != 200 || a.Cluster != "eu-west" || a.Caller != "spiffe://eu-west.isthmus.local/ns/demo/sa/web-near" {
		t.Errorf("%s (caller %q), want echo of eu-west, called by the command's own identity", a, a.Caller)
	}
	if a := near(t, m, "/fetch?url="+url.QueryEscape("http://www.example.com/")); a.Status != 502 {
		t.Errorf("a name outside the mesh: %s, want 502", a)
	}
}

func environmentServices(t *testing.T, m *meshUnder) {
	a := near(t, m, "/env")
	var env []string
	if err := json.Unmarshal([]byte(a.text), &env); err != nil {
		t.Fatalf("%s: %v", a, err)
	}
	found := map[string]string{}
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		found[name] = value
	}
	if found["http_proxy"] == "" || found["http_proxy"] != found["HTTP_PROXY"] || found["no_proxy"] == "" || found["PORT"] != "8080" {
		t.Errorf("the environment lacks what a command is told: %q", env)
	}
	address := found["ISTHMUS_SERVICE_ECHO_DEMO"]
	if address == "" {
		t.Fatalf("no ISTHMUS_SERVICE_ECHO_DEMO in %q", env)
	}
	// 127.0.0.0/8 is in no_proxy: this goes to the address, without the explicit proxy.
	a = near(t, m, "/fetch?url="+url.QueryEscape("http://"+address+"/"))
	if a.Status != 200 || a.Service != "echo" || a.Caller != "spiffe://eu-west.isthmus.local/ns/demo/sa/web-near" {
		t.Errorf("at %s: %s (caller %q)", address, a, a.Caller)
	}
}

func serviceAddress(t *testing.T, m *meshUnder) {
	out := m.run("get", "service", "echo", "-n", "demo", "-o", "wide", "--cluster", "eu-west")
	address := ""
	for _, word := range strings.Fields(out) {
		if ip := net.ParseIP(word); ip != nil {
			address = word
		}
	}
	if address == "" {
		t.Fatalf("no address in\n%s", out)
	}
	direct := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{}}
	a := get(direct, "http://"+address+"/")
	if a.Status != 200 || a.Service != "echo" || a.Cluster != "eu-west" || a.Caller != "spiffe://eu-west.isthmus.local/ns/default/sa/shell" {
		t.Errorf("at %s: %s (caller %q)", address, a, a.Caller)
	}
	m.run("drill", "kill", "echo.demo@eu-west")
	eventually(t, 10*time.Second, "the address leads elsewhere", func() (string, bool) {
		a := get(direct, "http://"+address+"/")
		return a.String(), a.Cluster == "us-east"
	})
}
