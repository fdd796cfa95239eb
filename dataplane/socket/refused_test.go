//go:build linux

package socket

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// TestAKernelThatRefusesToSpliceSaysSoBeforeItTakesAnything: a socket in the pipe's place is refused as a
// kernel without splice refuses all.
func TestAKernelThatRefusesToSpliceSaysSoBeforeItTakesAnything(t *testing.T) {
	c, d := tcp(t)
	p, err := NewPipe(d, c)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := d.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	good := p.write
	_ = Raw(d).Control(func(fd uintptr) { p.write = int(fd) })
	n, err := p.Step()
	p.write = good
	if n != 0 || !errors.Is(err, errors.ErrUnsupported) || p.Held() != 0 {
		t.Errorf("%d, %v, holding %d", n, err, p.Held())
	}
	b := make([]byte, 1)
	if _, err := c.Read(b); err != nil || string(b) != "x" {
		t.Errorf("what had come is gone: %q, %v", b, err)
	}
}

// spent tells the test's own second run that it is a user whose share of pipes is to be spent.
const spent = "ISTHMUS_TEST_PIPES_SPENT"

// TestAPipeThatTheSystemCutShortIsNone: beyond a user's share the system gives pipes of two pages, by which splice
// costs more than copying. The share is a user's, so that a user of its own is taken.
func TestAPipeThatTheSystemCutShortIsNone(t *testing.T) {
	if os.Getenv(spent) == "" {
		if os.Geteuid() != 0 {
			t.Fatal("to become another user takes root")
		}
		c := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
		c.Env = append(os.Environ(), spent+"=1")
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 3<<16 + uint32(os.Getpid()), Gid: 65534}}
		out, err := c.CombinedOutput()
		if bytes.Contains(out, []byte("--- SKIP: "+t.Name())) {
			t.Skip("missing kernel feature: a user's share of pipes has no end (pipe-user-pages-soft)")
		}
		if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
			t.Errorf("as another user: %v\n%s", err, out)
		}
		return
	}
	a, b := tcp(t)
	for n := 0; n < 4096; n++ { // many more than a share has
		p, err := NewPipe(a, b)
		if err != nil {
			if !errors.Is(err, syscall.ENOBUFS) || n == 0 {
				t.Errorf("pipe %d: %v", n, err)
			}
			return
		}
		defer p.Close()
	}
	t.Skip("no end")
}

func tcp(t *testing.T) (a, b net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if a, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}
