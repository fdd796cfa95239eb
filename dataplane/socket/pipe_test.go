//go:build linux

package socket_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/socket"
)

// piped is a pipe between two connections, and their other ends.
func piped(t *testing.T) (p *socket.Pipe, client, server net.Conn, from, to net.Conn) {
	t.Helper()
	a, client := ends(t)
	b, server := ends(t)
	from, to = a.(*socket.Conn).Inner(), b.(*socket.Conn).Inner()
	p, err := socket.NewPipe(to, from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p, client, server, from, to
}

// TestAPipeLosesNothingWhenAReaderIsSlow: the far side does not read while much more than all buffers hold is
// sent; deadlines cut the pipe's calls short on the way.
func TestAPipeLosesNothingWhenAReaderIsSlow(t *testing.T) {
	p, client, server, from, to := piped(t)
	sent := make([]byte, 24<<20)
	if _, err := rand.Read(sent); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = client.Write(sent)
		_ = client.(*net.TCPConn).CloseWrite()
	}()
	passed, blocked := 0, false
	for !blocked {
		_ = to.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
		n, err := p.Step()
		passed += n
		late := errors.Is(err, os.ErrDeadlineExceeded)
		blocked = late && p.Held() > 0 // or the deadline passed before anything was tried
		if err != nil && !late {
			t.Fatal(err)
		}
	}
	if p.Held() == 0 || passed >= len(sent) {
		t.Fatalf("it holds %d after %d were passed: the reader was not slow", p.Held(), passed)
	}
	_ = to.SetWriteDeadline(time.Time{})
	got := make(chan []byte)
	go func() {
		b, _ := io.ReadAll(server)
		got <- b
	}()
	for {
		n, err := p.Step()
		if passed += n; errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	_ = to.(*net.TCPConn).CloseWrite()
	if b := <-got; !bytes.Equal(b, sent) || passed != len(sent) {
		t.Errorf("%d bytes came of %d, counted %d", len(b), len(sent), passed)
	}
	_ = from.Close()
	if _, err := p.Step(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after the end of its connection: %v", err)
	}
}

func TestAPipeWaitsNoLongerThanAReadDeadline(t *testing.T) {
	p, client, server, from, _ := piped(t)
	_ = from.SetReadDeadline(time.Now().Add(time.Millisecond))
	if n, err := p.Step(); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%d, %v", n, err)
	}
	_ = from.SetReadDeadline(time.Time{})
	if _, err := client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if n, err := p.Step(); n != 1 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if _, err := io.ReadFull(server, make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

func TestAPipeTellsAReset(t *testing.T) {
	p, client, _, _, _ := piped(t)
	_ = client.(*net.TCPConn).SetLinger(0)
	_ = client.Close()
	if _, err := p.Step(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("%v, want the reset", err)
	}
}

func TestAPipeNeedsSockets(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if _, err := socket.NewPipe(a, b); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("%v", err)
	}
}
