package sniff_test

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/sniff"
)

// pair is a connection of TCP: what writes, and what is looked at.
func pair(t testing.TB) (near, far net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if near, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

const patience = time.Minute // of tests in which it must not be needed

var beginnings = []struct {
	sent string
	http bool
}{
	{"GET / HTTP/1.1\r\nhost: a\r\n\r\n", true},
	{"GET /" + strings.Repeat("a", 8000) + " HTTP/1.1\r\n", true},
	{"DELETE http://a/b HTTP/1.0\r\n\r\n", true},
	{"OPTIONS * HTTP/1.1\r\n\r\n", true},
	{"CONNECT db.shop:5432 HTTP/1.1\r\n\r\n", true},
	{"M-SEARCH / HTTP/1.1\r\n\r\n", true},
	{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", true},
	{"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", false}, // a ClientHello
	{"*1\r\n$4\r\nPING\r\n", false},                         // Redis
	{"PING\r\n", false},
	{"USER guest 0 * :guest\r\n", false}, // IRC
	{"GET key\r\n", false},               // a cache's
	{"GET /key\r\n", false},
	{"get key\r\n", false},
	{"EHLO mx.example.org\r\n", false},
	{"SSH-2.0-x\r\n", false},
	{"\x00\x00\x00\x08\x04\xd2\x16\x2f", false}, // PostgreSQL asks for TLS
	{"PRI * HTTP/3.0\r\n\r\nSM\r\n\r\n", false},
	{" GET / HTTP/1.1\r\n", false},
	{"AVERYLONGWORDINCAPITALLETTERS", false},
}

// TestWhatIsHTTPIsSeenAndNothingIsTaken: whole, and as it comes in pieces of one byte.
func TestWhatIsHTTPIsSeenAndNothingIsTaken(t *testing.T) {
	for _, c := range beginnings {
		for _, step := range []int{len(c.sent), 1} {
			near, far := pair(t)
			go func() {
				for i := 0; i < len(c.sent); i += step {
					if _, err := near.Write([]byte(c.sent[i:min(i+step, len(c.sent))])); err != nil {
						return
					}
				}
				_ = near.(*net.TCPConn).CloseWrite()
			}()
			if got := sniff.HTTP(far, time.Now().Add(patience)); got != c.http {
				t.Errorf("%.40q by %d: HTTP %v, want %v", c.sent, step, got, c.http)
			}
			if b, err := io.ReadAll(far); err != nil || string(b) != c.sent {
				t.Errorf("%.40q by %d: %.40q was left, %v", c.sent, step, b, err)
			}
		}
	}
}

// TestWhoWaitsForTheServerIsNotWaitedFor: the deadline ends it, and is not left on the connection.
func TestWhoWaitsForTheServerIsNotWaitedFor(t *testing.T) {
	for _, sent := range []string{"", "GE"} {
		near, far := pair(t)
		if _, err := near.Write([]byte(sent)); err != nil {
			t.Fatal(err)
		}
		if sniff.HTTP(far, time.Now().Add(10*time.Millisecond)) {
			t.Errorf("%q is taken for HTTP", sent)
		}
		done := make(chan string)
		go func() {
			b := make([]byte, len(sent)+2)
			_, err := io.ReadFull(far, b)
			done <- string(b)
			if err != nil {
				t.Errorf("read after the deadline: %v", err)
			}
		}()
		if _, err := near.Write([]byte("hi")); err != nil {
			t.Fatal(err)
		}
		if got := <-done; got != sent+"hi" {
			t.Errorf("%q came, want %q", got, sent+"hi")
		}
	}
}

// TestWhatIsNoSocketIsBytes: there is nothing that one could look at without taking it.
func TestWhatIsNoSocketIsBytes(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if sniff.HTTP(b, time.Now().Add(patience)) {
		t.Error("a pipe is taken for HTTP")
	}
}
