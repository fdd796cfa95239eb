package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/foreign"
)

// Suites and clients of other projects, against a running mesh: what they call correct is not
// ours to decide.

// relayTo is a workload that starts a server that can only be told its port, and relays to it.
func relayTo(ln net.Listener, program string) error {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	target := free.Addr().String()
	free.Close()
	_, port, _ := net.SplitHostPort(target)
	server := exec.Command(program, "--port="+port)
	server.Stderr = os.Stderr
	if err := server.Start(); err != nil {
		return err
	}
	go func() {
		_ = server.Wait()
		os.Exit(1) // a relay to nothing is no workload
	}()
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			up, err := net.Dial("tcp", target)
			if err != nil {
				return
			}
			defer up.Close()
			go func() {
				_, _ = io.Copy(up, c)
				_ = up.(*net.TCPConn).CloseWrite()
			}()
			_, _ = io.Copy(c, up)
		}()
	}
}

// bulk is a workload of large bodies, in either version of HTTP: GET /?n=N sends N bytes, and what is
// put is counted.
func bulk(ln net.Listener) error {
	block := bytes.Repeat([]byte("0123456789abcdef"), 4<<10)
	srv := &http.Server{ReadHeaderTimeout: 5 * time.Second, Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			n, err := io.Copy(io.Discard, r.Body)
			_, _ = fmt.Fprintln(w, n, err)
			return
		}
		n, _ := strconv.Atoi(r.URL.Query().Get("n"))
		for n > 0 {
			k, err := w.Write(block[:min(n, len(block))])
			if err != nil {
				return
			}
			n -= k
		}
	})}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	return srv.Serve(ln)
}

// webSockets installs the peers of WebSocket tests and returns their folder.
func webSockets(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "websocket"))); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "npm", "ci", "--prefer-offline", "--no-audit", "--no-fund")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	return dir
}

// TestForeign is one mesh and what programs of other people make of it: first of services beside
// the caller, then, when these have been killed, of the other cluster's, through the gateways.
func TestForeign(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	sockets := webSockets(t)
	m := newMesh(t, 200)
	m.up("-f", write(t, "mesh.yaml", fmt.Sprintf(`
apiVersion: isthmus.dev/v1alpha1
kind: LocalMesh
clusters:
  - {name: eu-west}
  - {name: us-east}
links:
  - {between: [eu-west, us-east], rtt: 4ms}
manifests: [%[5]q]
workloads:
  - {name: grpc, namespace: demo, protocol: grpc, run: [%[1]q, %[2]s, %[3]q]}
  - {name: echo, namespace: demo, run: builtin/echo}
  - {name: echo2, namespace: demo, protocol: http2, run: builtin/echo}
  - {name: bulk, namespace: demo, run: [%[1]q, %[2]s, bulk]}
  - {name: bulk2, namespace: demo, protocol: http2, run: [%[1]q, %[2]s, bulk]}
  - {name: ws, namespace: demo, run: [node, %[4]q]}
  - {name: ws2, namespace: demo, protocol: http2, run: [node, %[4]q, h2]}
`, self, workloadArg, foreign.Tool(t, interopServer), filepath.Join(sockets, "server.js"), write(t, "outbound.yaml", letOut))))
	f := &foreignClients{m: m, sockets: sockets, interop: foreign.Tool(t, interopClient), address: map[string]string{}}
	for _, service := range []string{"grpc", "echo", "echo2", "bulk", "bulk2", "ws", "ws2"} {
		f.address[service] = m.serviceAddress(t, service)
	}
	for _, service := range []string{"echo", "bulk", "bulk2"} { // commands are not waited for by up
		eventually(t, 10*time.Second, service+" answers", func() (string, bool) {
			a := get(&http.Client{Timeout: time.Second}, "http://"+f.address[service]+"/")
			return a.String(), a.Status == 200
		})
	}
	t.Run("gRPC interop through one proxy", f.grpcOutside)
	t.Run("near", f.all)
	t.Run("1 GB", f.bulk)
	t.Run("slow reader", f.slowReader)
	for service := range f.address {
		m.run("drill", "kill", service+".demo@eu-west")
	}
	eventually(t, 10*time.Second, "the address leads elsewhere", func() (string, bool) {
		a := get(&http.Client{Timeout: time.Second}, "http://"+f.address["echo"]+"/")
		return a.String(), a.Cluster == "us-east"
	})
	t.Run("through the gateways", f.all)
}

// serviceAddress is where the shell of the first cluster reaches a service of namespace demo.
func (m *meshUnder) serviceAddress(t *testing.T, service string) string {
	t.Helper()
	out := m.run("get", "service", service, "-n", "demo", "-o", "wide", "--cluster", "eu-west")
	for _, word := range strings.Fields(out) {
		if ip := net.ParseIP(word); ip != nil {
			return net.JoinHostPort(word, "80")
		}
	}
	t.Fatalf("no address in\n%s", out)
	return ""
}

type foreignClients struct {
	m       *meshUnder
	sockets string
	interop string
	address map[string]string
}

func (f *foreignClients) all(t *testing.T) {
	t.Run("gRPC interop", f.grpc)
	t.Run("gRPC interop in a tunnel", f.grpcInTunnel)
	t.Run("curl", f.curl)
	t.Run("h2load", f.h2load)
	t.Run("WebSockets", f.webSockets)
}

// foreignRun runs a program, and fails with all it said if it fails.
func foreignRun(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return string(out)
}

// curl speaks each version to applications of each; a version is that of its own connection.
func (f *foreignClients) curl(t *testing.T) {
	base := []string{"-sS", "--fail-with-body", "--max-time", "20", "-w", `%{http_version} %{http_code}`}
	large := "@" + write(t, "large", strings.Repeat("0123456789", 200_000))
	for flag, version := range map[string]string{"--http1.0": "1.", "--http1.1": "1.1", "--http2-prior-knowledge": "2"} {
		for _, service := range []string{"echo", "echo2"} {
			run := func(args ...string) string {
				return foreignRun(t, nil, "curl", append(append(base, flag), append(args, "http://"+f.address[service]+"/x?y=1")...)...)
			}
			outs := []string{run(), run("-X", "PUT", "--data-binary", large), run("-d", "small"), run("-H", "Expect: 100-continue", "-d", "patience")}
			if flag != "--http1.0" { // which knows no chunks
				outs = append(outs, run("-H", "Transfer-Encoding: chunked", "--data-binary", large))
			}
			for _, out := range outs {
				if !strings.Contains(out, `"service":"`+service+`"`) || !strings.Contains(out, "\n"+version) || !strings.HasSuffix(out, " 200") {
					t.Errorf("%s of %s: %s", flag, service, out)
				}
			}
			if out := run("-I"); !strings.HasSuffix(out, " 200") || strings.Contains(out, "{") {
				t.Errorf("%s -I of %s: %s", flag, service, out)
			}
		}
	}
	proxy := "http://" + f.m.address(0, 0, 1, 15001)
	for _, args := range [][]string{{"-x", proxy}, {"-x", proxy, "--http1.0"}, {"-x", proxy, "-p"}, {"-x", proxy, "-p", "--http2-prior-knowledge"}} {
		out := foreignRun(t, nil, "curl", append(append(base, args...), "http://echo2.demo.svc.clusterset.local/")...)
		if !strings.Contains(out, `"service":"echo2"`) || !strings.HasSuffix(out, " 200") {
			t.Errorf("curl %q: %s", args, out)
		}
	}
}

var h2loadDone = regexp.MustCompile(`requests: 2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout`)

// h2load asks in both versions, with bodies and without.
func (f *foreignClients) h2load(t *testing.T) {
	data := write(t, "body", strings.Repeat("x", 20_000))
	for _, service := range []string{"echo", "echo2"} {
		url := "http://" + f.address[service] + "/"
		for _, args := range [][]string{{"-m", "32"}, {"-m", "8", "-d", data}, {"--h1"}, {"--h1", "-d", data}} {
			out := foreignRun(t, nil, "h2load", append(append([]string{"-n", "2000", "-c", "8", "-T", "20"}, args...), url)...)
			if !h2loadDone.MatchString(out) || !strings.Contains(out, "2000 2xx") {
				t.Errorf("h2load %q: %s", args, out)
			}
		}
	}
}

// webSockets opens them in both versions to applications of both, at once.
func (f *foreignClients) webSockets(t *testing.T) {
	var all sync.WaitGroup
	for _, version := range []string{"http1", "http2"} {
		for _, service := range []string{"ws", "ws2"} {
			all.Go(func() {
				foreignRun(t, nil, "node", filepath.Join(f.sockets, "client.js"), version, f.address[service], "25", "28")
			})
		}
	}
	all.Wait()
}

// peak is the most memory that a process has had, in KiB (VmHWM).
func peak(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return kb
		}
	}
	t.Fatal("the status has no VmHWM")
	return 0
}

// bulkGrowth is how much more memory a proxy may have had after bodies of 1 GB than before them, in
// KiB: windows of 16 MiB on both sides of it, and buffers.
const bulkGrowth = 64 << 10

// bulk sends and receives 1 GB in each version, and looks at the memory of the proxies.
func (f *foreignClients) bulk(t *testing.T) {
	const size = 1 << 30
	proxies := append(f.m.pids("proxy", "shell"), f.m.pids("proxy", "bulk")...)
	if len(proxies) < 2 {
		t.Fatalf("found the proxies %v", proxies)
	}
	before := map[int]int{}
	for _, pid := range proxies {
		before[pid] = peak(t, pid)
	}
	var all sync.WaitGroup
	for flag, service := range map[string]string{"--http1.1": "bulk", "--http2-prior-knowledge": "bulk2"} {
		url := "http://" + f.address[service] + "/"
		all.Go(func() {
			out := foreignRun(t, nil, "curl", flag, "-sS", "--fail", "-o", os.DevNull, "-w", "%{size_download}", url+"?n="+strconv.Itoa(size))
			if out != strconv.Itoa(size) {
				t.Errorf("%s: %s bytes came, want %d", flag, out, size)
			}
		})
		all.Go(func() {
			out := foreignRun(t, nil, "sh", "-c", fmt.Sprintf("head -c %d /dev/zero | curl %s -sS --fail -T - %s", size, flag, url))
			if out != fmt.Sprintf("%d <nil>\n", size) {
				t.Errorf("%s: the application had %s, want %d", flag, out, size)
			}
		})
	}
	all.Wait()
	for _, pid := range proxies {
		now := peak(t, pid)
		t.Logf("proxy %d: at most %d KiB before, %d after", pid, before[pid], now)
		if now > before[pid]+bulkGrowth {
			t.Errorf("proxy %d had %d KiB before and %d after bodies of 1 GB: it holds them", pid, before[pid], now)
		}
	}
}

// slowReader has clients that ask for much and read nothing, on the same connection of HTTP/2 and on
// others, while requests go by them.
func (f *foreignClients) slowReader(t *testing.T) {
	tr := &http.Transport{Protocols: new(http.Protocols), HTTP2: &http.HTTP2Config{MaxReceiveBufferPerConnection: 64 << 20}}
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()
	shared := &http.Client{Transport: tr, Timeout: 30 * time.Second}
	url := "http://" + f.address["bulk2"] + "/"
	for range 8 {
		resp, err := shared.Get(url + "?n=1000000000") // its head has come, and its body is left
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
	}
	plain := &http.Client{Transport: &http.Transport{}, Timeout: 30 * time.Second}
	defer plain.CloseIdleConnections()
	for range 8 {
		resp, err := plain.Get(url + "?n=1000000000")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
	}
	for name, c := range map[string]*http.Client{"the same connection": shared, "another": plain} {
		for i := range 200 {
			resp, err := c.Get(url + "?n=100000")
			if err != nil {
				t.Fatalf("%s, request %d: %v", name, i, err)
			}
			n, err := io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if n != 100000 || err != nil {
				t.Fatalf("%s, request %d: %d bytes, %v", name, i, n, err)
			}
		}
	}
}
