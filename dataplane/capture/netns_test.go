//go:build linux

package capture_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/capture"
)

// Two hosts: a workload's network namespace, and one beside it.
const (
	here4, here6   = "10.77.0.1", "fd77::1"
	there4, there6 = "10.77.0.2", "fd77::2"
	proxyUID       = 1337
	workloadUID    = 1000
)

// names makes namespaces of several tests of a process different.
var names atomic.Int32

type hosts struct{ here, there string }

func command(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func newHosts(t testing.TB) hosts {
	t.Helper()
	id := fmt.Sprintf("%x-%x", os.Getpid(), names.Add(1))
	h := hosts{"ist-a-" + id, "ist-b-" + id}
	if out, err := exec.Command("ip", "netns", "add", h.here).CombinedOutput(); err != nil {
		if errors.Is(err, exec.ErrNotFound) || os.Geteuid() != 0 {
			t.Fatalf("network namespaces need root and iproute2: %v", err)
		}
		t.Skipf("missing kernel feature: network namespaces: %s", out)
	}
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", h.here).Run() })
	command(t, "ip", "netns", "add", h.there)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", h.there).Run() })
	command(t, "ip", "-n", h.here, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", h.there)
	for ns, addrs := range map[string][2]string{h.here: {here4, here6}, h.there: {there4, there6}} {
		command(t, "ip", "-n", ns, "addr", "add", addrs[0]+"/24", "dev", "eth0")
		command(t, "ip", "-n", ns, "addr", "add", addrs[1]+"/64", "dev", "eth0", "nodad")
		command(t, "ip", "-n", ns, "link", "set", "eth0", "up")
		command(t, "ip", "-n", ns, "link", "set", "lo", "up")
	}
	return h
}

// within runs f on a thread in a namespace, as a user: what sockets it makes are there and his. The thread
// ends with it.
func within(t testing.TB, ns string, uid int, f func() error) error {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: nobody else shall have this thread
		done <- func() error {
			fd, err := os.Open("/var/run/netns/" + ns)
			if err != nil {
				return err
			}
			defer fd.Close()
			if _, _, e := syscall.RawSyscall(sysSetns, fd.Fd(), syscall.CLONE_NEWNET, 0); e != 0 {
				return fmt.Errorf("setns: %w", e)
			}
			syscall.RawSyscall(syscall.SYS_SETFSUID, uintptr(uid), 0, 0)
			return f()
		}()
	}()
	return <-done
}

func (h hosts) rules(t testing.TB, r capture.Rules) {
	t.Helper()
	if err := r.Validate(); err != nil {
		t.Fatal(err)
	}
	h.nft(t, r.Script())
}

func (h hosts) nft(t testing.TB, script string) {
	t.Helper()
	c := exec.Command("ip", "netns", "exec", h.here, "nft", "-f", "-")
	c.Stdin = strings.NewReader(script)
	if out, err := c.CombinedOutput(); err != nil {
		if bytes.Contains(out, []byte("Operation not supported")) {
			t.Skipf("missing kernel feature: nftables: %s", out)
		}
		t.Fatalf("nft: %v: %s\n%s", err, out, script)
	}
}

// listener answers each connection with its name, the original destination and what it read, a line.
func (h hosts) listener(t testing.TB, ns, name, addr string) net.Listener {
	t.Helper()
	var ln net.Listener
	err := within(t, ns, 0, func() (err error) { ln, err = net.Listen("tcp", addr); return err })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(10 * time.Second))
				to, err := capture.Original(c)
				where := to.String()
				if err != nil {
					where = err.Error()
				}
				b := make([]byte, 64)
				n, _ := c.Read(b)
				fmt.Fprintf(c, "%s|%s|%s", name, where, b[:n])
			}()
		}
	}()
	return ln
}

// say sends a word and returns the answer.
func say(t testing.TB, ns string, uid int, addr, word string) (string, error) {
	t.Helper()
	var answer string
	err := within(t, ns, uid, func() error {
		d := net.Dialer{Timeout: 3 * time.Second}
		c, err := d.DialContext(context.Background(), "tcp", addr)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.Write([]byte(word)); err != nil {
			return err
		}
		b := make([]byte, 256)
		n, err := c.Read(b)
		answer = string(b[:n])
		return err
	})
	return answer, err
}

func rules() capture.Rules {
	r := capture.Defaults()
	r.UID = proxyUID
	return r
}

// TestConnectionsAreTaken: who is taken where, of both families, and the destination each was made for.
func TestConnectionsAreTaken(t *testing.T) {
	h := newHosts(t)
	r := rules()
	r.ExcludeOutboundPorts, r.ExcludeInboundPorts = []uint16{22}, []uint16{9090}
	r.ExcludeOutboundCIDRs = []netip.Prefix{netip.MustParsePrefix("10.77.0.3/32"), netip.MustParsePrefix("fd77::3/128")}
	h.listener(t, h.here, "outbound", ":15001")
	h.listener(t, h.here, "inbound", ":15006")
	h.listener(t, h.here, "inter-proxy", ":15008")
	h.listener(t, h.here, "app", ":8080")
	h.listener(t, h.here, "metrics", ":9090")
	command(t, "ip", "-n", h.there, "addr", "add", "10.77.0.3/24", "dev", "eth0")
	command(t, "ip", "-n", h.there, "addr", "add", "fd77::3/64", "dev", "eth0", "nodad")
	for _, port := range []string{"80", "22"} {
		h.listener(t, h.there, "remote", ":"+port)
	}
	h.rules(t, r)
	tests := []struct {
		name      string
		there     bool // from the other host
		uid       int
		to        string
		who, made string // who answers, and the destination he knows of; empty: none
	}{
		{"out, IPv4", false, workloadUID, there4 + ":80", "outbound", there4 + ":80"},
		{"out, IPv6", false, workloadUID, "[" + there6 + "]:80", "outbound", "[" + there6 + "]:80"},
		{"out, an address that nobody has", false, workloadUID, "10.77.0.200:443", "outbound", "10.77.0.200:443"},
		{"the proxy's own, IPv4", false, proxyUID, there4 + ":80", "remote", ""},
		{"the proxy's own, IPv6", false, proxyUID, "[" + there6 + "]:80", "remote", ""},
		{"an excluded port", false, workloadUID, there4 + ":22", "remote", ""},
		{"an excluded network, IPv4", false, workloadUID, "10.77.0.3:80", "remote", ""},
		{"an excluded network, IPv6", false, workloadUID, "[fd77::3]:80", "remote", ""},
		{"loopback", false, workloadUID, "127.0.0.1:8080", "app", ""},
		{"its own address", false, workloadUID, here4 + ":8080", "app", ""},
		{"the explicit proxy", false, workloadUID, "127.0.0.1:15001", "outbound", ""},
		{"the proxy to its application", false, proxyUID, here6addr("8080"), "app", ""},
		{"in, IPv4", true, 0, here4 + ":8080", "inbound", here4 + ":8080"},
		{"in, IPv6", true, 0, here6addr("8080"), "inbound", here6addr("8080")},
		{"in, the outbound port", true, 0, here4 + ":15001", "inbound", here4 + ":15001"},
		{"in, an own port", true, 0, here4 + ":15008", "inter-proxy", ""},
		{"in, an excluded port", true, 0, here6addr("9090"), "metrics", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ns := h.here
			if tt.there {
				ns = h.there
			}
			got, err := say(t, ns, tt.uid, tt.to, "hello")
			made := tt.made
			if made == "" {
				made = capture.ErrNoOriginal.Error()
			}
			if want := tt.who + "|" + made + "|hello"; err != nil || got != want {
				t.Errorf("%q, %v; want %q", got, err, want)
			}
		})
	}
	t.Run("undone", func(t *testing.T) {
		h.nft(t, script(t, true))
		if got, err := say(t, h.here, workloadUID, there4+":80", "hello"); err != nil || !strings.HasPrefix(got, "remote|") {
			t.Errorf("%q, %v", got, err)
		}
		h.nft(t, script(t, true)) // there is nothing to undo: no fault
	})
}

func here6addr(port string) string { return net.JoinHostPort(here6, port) }

// script is what the command would do.
func script(t testing.TB, undo bool) string {
	t.Helper()
	c := capture.Command{Rules: rules(), Undo: undo, DryRun: true}
	var out bytes.Buffer
	if err := c.Run(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestConnectionsFromBeforeTheRulesAreRefused: a connection that was made before is no way past them.
func TestConnectionsFromBeforeTheRulesAreRefused(t *testing.T) {
	h := newHosts(t)
	h.listener(t, h.there, "remote", ":80")
	var c net.Conn
	err := within(t, h.here, workloadUID, func() (err error) {
		c, err = net.Dial("tcp", there4+":80")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	h.rules(t, rules())
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	_, err = c.Write([]byte("secret"))
	if err == nil {
		var n int
		b := make([]byte, 64)
		if n, err = c.Read(b); err == nil {
			t.Fatalf("answered %q", b[:n])
		}
	}
	if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("%v, want a reset", err)
	}
}
