//go:build unix

package direct_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/direct"
)

const bound = time.Minute

// pair is a TCP connection, both ends.
func pair(t *testing.T) (here, there net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if here, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if there, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { here.Close(); there.Close() })
	return here, there
}

// TestAHastyOutletKeepsWhatFindsNoRoom fills a socket from which nobody reads: no write waits, what is beyond the bound is refused, and in the end
// the other side has everything in order, what was written beside Rest included.
func TestAHastyOutletKeepsWhatFindsNoRoom(t *testing.T) {
	here, there := pair(t)
	o := direct.NewOutlet(here)
	if !o.Hasty() {
		t.Fatal("a TCP connection is not hasty")
	}
	var want []byte
	write := func() bool {
		p := make([]byte, 20<<10)
		binary.BigEndian.PutUint64(p, uint64(len(want)))
		if n, err := o.Write(p); err != nil {
			return false
		} else if n != len(p) {
			t.Fatalf("%d of %d bytes and no error", n, len(p))
		}
		want = append(want, p...)
		return true
	}
	for n := 0; !o.Kept(); n++ {
		if !write() || n == 1<<20 {
			t.Fatal("refused before the socket is full")
		}
	}
	beyond := 0
	for ; write(); beyond++ {
	}
	if beyond == 0 || beyond > 100 {
		t.Errorf("%d writes were kept, want what half a mebibyte holds", beyond)
	}
	got := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(there)
		got <- b
	}()
	if err := here.SetWriteDeadline(time.Now().Add(bound)); err != nil {
		t.Fatal(err)
	}
	rested := make(chan error, 1)
	go func() { rested <- o.Rest() }()
	for range 10 {
		write()
	}
	if err := <-rested; err != nil {
		t.Fatal(err)
	}
	if err := o.Rest(); err != nil || o.Kept() {
		t.Fatalf("%v, and something is kept", err)
	}
	here.Close()
	if !bytes.Equal(<-got, want) {
		t.Error("what arrives is not what was written")
	}
}

// TestOutletsWithoutDescriptorsWait is the rest of them.
func TestOutletsWithoutDescriptorsWait(t *testing.T) {
	here, there := net.Pipe()
	defer here.Close()
	o := direct.NewOutlet(here)
	if o.Hasty() {
		t.Fatal("a pipe is hasty")
	}
	go func() { _, _ = o.Write([]byte("a")) }()
	if b, err := io.ReadAll(io.LimitReader(there, 1)); string(b) != "a" || err != nil || o.Kept() {
		t.Errorf("%q, %v", b, err)
	}
}
