//go:build linux

package agent_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/agent"
	"github.com/isthmus-mesh/isthmus/dataplane/capture"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// beside names, for the half of a test that runs inside a network namespace, the namespace beside it.
const beside = "ISTHMUS_TEST_NETNS_BESIDE"

// inNamespaces runs the test again, alone and inside a network namespace that is 10.77.0.1 and fd77::1,
// beside one that is 10.77.0.2 and fd77::2. It reports whether this is that run.
func inNamespaces(t *testing.T) bool {
	t.Helper()
	if os.Getenv(beside) != "" {
		return true
	}
	here, there := fmt.Sprintf("ist-c-%x", os.Getpid()), fmt.Sprintf("ist-d-%x", os.Getpid())
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	if out, err := exec.Command("ip", "netns", "add", here).CombinedOutput(); err != nil {
		if errors.Is(err, exec.ErrNotFound) || os.Geteuid() != 0 {
			t.Fatalf("network namespaces need root and iproute2: %v", err)
		}
		t.Skipf("missing kernel feature: network namespaces: %s", out)
	}
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", here).Run() })
	ip("netns", "add", there)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", there).Run() })
	ip("-n", here, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", there)
	for i, ns := range []string{here, there} {
		ip("-n", ns, "addr", "add", fmt.Sprintf("10.77.0.%d/24", i+1), "dev", "eth0")
		ip("-n", ns, "addr", "add", fmt.Sprintf("fd77::%d/64", i+1), "dev", "eth0", "nodad")
		ip("-n", ns, "link", "set", "eth0", "up")
		ip("-n", ns, "link", "set", "lo", "up")
	}
	ip("-n", here, "route", "add", "default", "via", "10.77.0.2")
	ip("-n", here, "-6", "route", "add", "default", "via", "fd77::2")
	c := exec.Command("ip", "netns", "exec", here, os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1", "-test.timeout=60s")
	c.Env = append(os.Environ(), beside+"="+there)
	out, err := c.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Errorf("inside the namespace: %v\n%s", err, out)
	}
	return false
}

// as runs f on a thread of its own, as a user, in the namespace beside if that is wanted.
func as(t *testing.T, uid int, besides bool, f func() error) error {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		done <- func() error {
			if besides {
				fd, err := os.Open("/var/run/netns/" + os.Getenv(beside))
				if err != nil {
					return err
				}
				defer fd.Close()
				setns := map[string]uintptr{"amd64": 308, "arm64": 268}[runtime.GOARCH]
				if _, _, e := syscall.RawSyscall(setns, fd.Fd(), syscall.CLONE_NEWNET, 0); e != 0 {
					return fmt.Errorf("setns: %w", e)
				}
			}
			syscall.RawSyscall(syscall.SYS_SETFSUID, uintptr(uid), 0, 0)
			return f()
		}()
	}()
	return <-done
}

// talk makes a request over a plain connection, as the workload or from beside.
func talk(t *testing.T, besides bool, to, host string) (string, error) {
	t.Helper()
	var all []byte
	err := as(t, 1000, besides, func() error {
		d := net.Dialer{Timeout: bound}
		c, err := d.Dial("tcp", to)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(bound))
		if _, err := fmt.Fprintf(c, "GET /x HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", host); err != nil {
			return err
		}
		all, err = io.ReadAll(c)
		return err
	})
	return string(all), err
}

// TestCapturedWorkload is a workload that knows of no proxy: services by their addresses, of both families,
// what is outside the mesh, and who comes in past it.
func TestCapturedWorkload(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	w := newWorld(t)
	serverApp := appAt(t, "10.77.0.1:0") // on an address that others reach
	metrics := appAt(t, "10.77.0.1:0")
	server, e := w.serverOf("eu-west", "catalog-0", catalog, serverApp)
	w.service(catalog, []ir.Group{{Cluster: "eu-west", Exported: true, Identities: w.identity("eu-west", catalog), Endpoints: []ir.Endpoint{e}}}, nil)
	w.service(cart, []ir.Group{{Cluster: "eu-west", Exported: true, Identities: w.identity("eu-west", catalog), Endpoints: []ir.Endpoint{e}}}, nil)
	w.script.set("shop/catalog-0", &ir.Proxy{ID: "shop/catalog-0", Inbound: []ir.Inbound{
		{Service: catalog, Ports: []ir.InboundPort{{Port: 80, Protocol: mesh.ProtocolHTTP, Target: serverApp}, {Port: 81, Protocol: mesh.ProtocolTCP, Target: serverApp}}},
		{Service: cart, Ports: []ir.InboundPort{{Port: 80, Protocol: mesh.ProtocolHTTP, Target: serverApp}}}}})
	at := func(n mesh.ServiceName, a string) {
		w.script.set(n.String(), &ir.Name{Service: n, Address: netip.MustParseAddr(a), Ports: []ir.Port{{Port: 80, Protocol: mesh.ProtocolHTTP}, {Port: 81, Protocol: mesh.ProtocolTCP}}})
	}
	at(catalog, "10.96.0.10")
	at(cart, "fd96::11")
	// One proxy serves both sides of this host: its rules are one host's. Its workload is the server's too.
	w.script.set("shop/frontend", &ir.Proxy{ID: "shop/frontend", Inbound: []ir.Inbound{
		{Service: catalog, Ports: []ir.InboundPort{{Port: 80, Protocol: mesh.ProtocolHTTP, Target: serverApp}}}}})
	client := w.start("eu-west", "shop/frontend", "frontend", func(c *agent.Config) {
		c.Outbound, c.Captured, c.Capture = netip.MustParseAddrPort("[::]:15001"), netip.MustParseAddrPort("[::]:15006"), true
	})
	server.waitReady(t)
	client.waitReady(t)
	rules := capture.Command{Rules: capture.Defaults()}
	rules.UID = 0 // of all but the workload
	if err := rules.Run(t.Context(), io.Discard); err != nil {
		t.Fatal(err)
	}
	outside := outsideServer(t)
	good := func(name string, besides bool, to, host, want string) {
		t.Run(name, func(t *testing.T) {
			if got, err := talk(t, besides, to, host); err != nil || !strings.Contains(got, want) {
				t.Errorf("%q, %v; want %q", got, err, want)
			}
		})
	}
	reset := func(name string, besides bool, to, reason string) {
		t.Run(name, func(t *testing.T) {
			got, err := talk(t, besides, to, "x")
			if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				t.Errorf("%q, %v; want a reset", got, err)
			}
			// It is counted when the connection has ended, which its client may learn first.
			eventually(t, "there is a series with reason "+reason, func() bool { return strings.Contains(scrape(t, client), `reason="`+reason+`"`) })
		})
	}
	const caller = "URI=spiffe://eu-west.isthmus.local/ns/shop/sa/frontend"
	good("HTTP, IPv4", false, "10.96.0.10:80", "anything", "GET /x "+caller)
	good("HTTP, IPv6", false, "[fd96::11]:80", "anything", "GET /x "+caller)
	good("bytes", false, "10.96.0.10:81", "anything", "GET /x ")
	good("the explicit proxy is there still", false, "127.0.0.1:15001", "catalog.shop", "GET /x "+caller)
	reset("a port that the service has not", false, "10.96.0.10:82", "unknown_port")
	reset("outside the mesh", false, outside, "outside_mesh")
	reset("in, plaintext to a port of a service", true, serverApp.String(), "access_denied")
	good("in, a port of no service", true, metrics.String(), "x", "GET /x ")
	reset("in, the outbound port", true, "10.77.0.1:15001", "access_denied")
	w.script.set("shop/frontend", &ir.Proxy{ID: "shop/frontend", OutboundAllowAny: true})
	eventually(t, "the mesh lets out", func() bool { got, _ := talk(t, false, outside, "x"); return strings.Contains(got, "outside") })
	t.Run("nothing may leave any more", func(t *testing.T) {
		var held net.Conn
		err := as(t, 1000, false, func() (err error) { held, err = net.DialTimeout("tcp", outside, bound); return err })
		if err != nil {
			t.Fatal(err)
		}
		defer held.Close()
		_ = held.SetDeadline(time.Now().Add(bound))
		if _, err := io.WriteString(held, "GET /x HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		answered := bufio.NewReader(held)
		if r, err := http.ReadResponse(answered, nil); err != nil || r.StatusCode != 200 {
			t.Fatalf("%v, %v", r, err)
		} else if _, err := io.Copy(io.Discard, r.Body); err != nil {
			t.Fatal(err)
		}
		w.script.set("shop/frontend", &ir.Proxy{ID: "shop/frontend"})
		if _, err := answered.ReadByte(); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%v, want a reset", err)
		}
		w.script.set("shop/frontend", &ir.Proxy{ID: "shop/frontend", OutboundAllowAny: true})
		eventually(t, "the mesh lets out again", func() bool { got, _ := talk(t, false, outside, "x"); return strings.Contains(got, "outside") })
	})
	if err := client.end(); err == nil || !strings.Contains(err.Error(), "context canceled") {
		t.Errorf("ended with %v", err)
	}
	for _, to := range []string{"10.96.0.10:80", outside} {
		if got, err := talk(t, false, to, "x"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s with the proxy gone: %q, %v; want it refused", to, got, err)
		}
	}
	undo := capture.Command{Undo: true}
	if err := undo.Run(t.Context(), io.Discard); err != nil {
		t.Fatal(err)
	}
	good("undone", false, outside, "x", "outside") // the control: it was the rules
}

// appAt is app at an address.
func appAt(t *testing.T, at string) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	serveHTTP(t, ln, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.Path, r.Header.Get("x-forwarded-client-cert"))
	})
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

func serveHTTP(t *testing.T, ln net.Listener, h http.HandlerFunc) {
	srv := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close(); <-done })
}

// outsideServer is a server beside.
func outsideServer(t *testing.T) string {
	t.Helper()
	var ln net.Listener
	if err := as(t, 0, true, func() (err error) { ln, err = net.Listen("tcp", "10.77.0.2:8080"); return err }); err != nil {
		t.Fatal(err)
	}
	serveHTTP(t, ln, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "outside") })
	return ln.Addr().String()
}

func scrape(t *testing.T, m *member) string {
	t.Helper()
	r, err := http.Get("http://" + m.cfg.Admin.String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
