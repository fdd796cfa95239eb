//go:build linux

package capture_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/capture"
)

// role makes another process of this test binary.
const role = "ISTHMUS_CAPTURE_TEST_ROLE"

func TestMain(m *testing.M) {
	if os.Getenv(role) == "proxy" {
		sniff()
		return
	}
	os.Exit(m.Run())
}

// sniff is a proxy that reads, and never gets to know where to send.
func sniff() {
	ln, err := net.Listen("tcp", ":15001")
	if err != nil {
		os.Exit(2)
	}
	_, _ = os.Stdout.WriteString("up\n")
	for {
		c, err := ln.Accept()
		if err != nil {
			os.Exit(2)
		}
		go func() { _, _ = io.Copy(io.Discard, c) }()
	}
}

// sink notes all that reaches the other host.
type sink struct {
	mu  sync.Mutex
	got bytes.Buffer
}

func (s *sink) serve(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			b := make([]byte, 1<<10)
			for {
				n, err := c.Read(b)
				s.mu.Lock()
				s.got.Write(b[:n])
				s.mu.Unlock()
				if err != nil {
					return
				}
			}
		}()
	}
}

func (s *sink) leaked(word string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Contains(s.got.Bytes(), []byte(word))
}

// kills is how often the proxy is killed while it reads.
const kills = 40

// killWhileSniffing kills a proxy again and again while the workload sends plaintext to the other host,
// and reports whether a word arrived there.
func killWhileSniffing(t *testing.T, script string) bool {
	t.Helper()
	h := newHosts(t)
	var remote sink
	for _, addr := range []string{there4 + ":80", "[" + there6 + "]:80"} {
		var ln net.Listener
		if err := within(t, h.there, 0, func() (err error) { ln, err = net.Listen("tcp", addr); return err }); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		go remote.serve(ln)
	}
	h.nft(t, script)
	over := make(chan struct{})
	var senders sync.WaitGroup
	for _, addr := range []string{there4 + ":80", "[" + there6 + "]:80"} {
		senders.Go(func() {
			_ = within(t, h.here, workloadUID, func() error {
				for {
					select {
					case <-over:
						return nil
					default:
					}
					d := net.Dialer{Timeout: time.Second}
					if c, err := d.Dial("tcp", addr); err == nil {
						_, _ = c.Write([]byte("SECRET"))
						_, _ = c.Write([]byte("SECRET"))
						_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
						_, _ = c.Read(make([]byte, 1))
						c.Close()
					}
				}
			})
		})
	}
	for range kills {
		var c *exec.Cmd
		err := within(t, h.here, 0, func() error {
			c = exec.Command(os.Args[0])
			c.Env = append(os.Environ(), role+"=proxy")
			out, err := c.StdoutPipe()
			if err != nil {
				return err
			}
			if err := c.Start(); err != nil { // a child is where its thread is
				return err
			}
			_, err = io.ReadFull(out, make([]byte, 3))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Process.Kill()
		_ = c.Wait()
	}
	close(over)
	senders.Wait()
	return remote.leaked("SECRET")
}

// TestNoPlaintextWhileTheProxyIsKilled: what a dead proxy would have taken fails, and goes nowhere. Control
// runs have the rules taken away, or only a guard that knows no redirection.
func TestNoPlaintextWhileTheProxyIsKilled(t *testing.T) {
	r := rules()
	if killWhileSniffing(t, r.Script()) {
		t.Error("plaintext reached the other host")
	}
	t.Run("control: no rules", func(t *testing.T) {
		if !killWhileSniffing(t, script(t, true)) {
			t.Error("nothing leaks without rules: this test proves nothing")
		}
	})
	t.Run("control: the workload is taken for the proxy", func(t *testing.T) {
		r := capture.Defaults()
		r.UID = workloadUID
		if !killWhileSniffing(t, r.Script()) {
			t.Error("nothing leaks: this test proves nothing")
		}
	})
}
