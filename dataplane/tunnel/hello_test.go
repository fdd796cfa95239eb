package tunnel

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
)

// clientHello is what crypto/tls sends first to a server of the name.
func clientHello(t testing.TB, name string) []byte {
	t.Helper()
	a, b := net.Pipe()
	defer b.Close()
	go func() {
		_ = tls.Client(a, &tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: []string{ALPN}}).Handshake()
		a.Close()
	}()
	head := make([]byte, 5)
	if _, err := io.ReadFull(b, head); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint16(head[3:]))
	if _, err := io.ReadFull(b, body); err != nil {
		t.Fatal(err)
	}
	return append(head, body...)
}

// inRecords cuts a ClientHello of one record into records of n bytes.
func inRecords(hello []byte, n int) []byte {
	var out []byte
	for body := hello[5:]; len(body) > 0; {
		k := min(n, len(body))
		out = append(out, 22, 3, 1, byte(k>>8), byte(k))
		out = append(out, body[:k]...)
		body = body[k:]
	}
	return out
}

const helloName = "12.orders.default.us-east.isthmus.local"

// TestHelloHoweverItIsCut: the control is a reader that takes the first record for all of it, as some do, and finds no name.
func TestHelloHoweverItIsCut(t *testing.T) {
	hello := clientHello(t, helloName)
	first := func(b []byte) bool { // finds the name in the first record
		return bytes.Contains(b[:5+int(binary.BigEndian.Uint16(b[3:]))], []byte(helloName))
	}
	if whole, cut := first(hello), first(inRecords(hello, 100)); !whole || cut {
		t.Errorf("control: the first record of one names the service: %v, and of many: %v", whole, cut)
	}
	after := []byte("what follows")
	for _, size := range []int{1, 2, 3, 4, 5, 100, 1000, 1 << 14} {
		cut := inRecords(hello, size)
		for name, r := range map[string]io.Reader{"at once": bytes.NewReader(append(bytes.Clone(cut), after...)),
			"byte by byte": iotest.OneByteReader(bytes.NewReader(append(bytes.Clone(cut), after...)))} {
			raw, sni, err := readHello(r, nil)
			if len(cut) > helloMax {
				if !errors.Is(err, errHelloBig) {
					t.Errorf("records of %d bytes, %s: %v, want %v", size, name, err, errHelloBig)
				}
				continue
			}
			if err != nil || sni != helloName || !bytes.Equal(raw, cut) {
				t.Errorf("records of %d bytes, %s: name %q, %d of %d bytes, %v", size, name, sni, len(raw), len(cut), err)
			}
			if rest, _ := io.ReadAll(r); !bytes.Equal(rest, after) {
				t.Errorf("records of %d bytes, %s: %q is left, want %q", size, name, rest, after)
			}
		}
	}
}

func TestHelloThatEndsEarly(t *testing.T) {
	hello := clientHello(t, helloName)
	for n := range len(hello) {
		if _, name, err := readHello(bytes.NewReader(hello[:n]), nil); err == nil {
			t.Fatalf("%d of %d bytes: name %q, want an error", n, len(hello), name)
		}
	}
}

func TestHelloOutOfForm(t *testing.T) {
	good := clientHello(t, helloName)
	at := bytes.Index(good, []byte(helloName))
	change := func(f func(b []byte)) []byte { b := bytes.Clone(good); f(b); return b }
	tests := []struct {
		name  string
		bytes []byte
		want  error
	}{
		{"HTTP", []byte("GET / HTTP/1.1\r\nhost: x\r\n\r\n"), errHello},
		{"an alert", change(func(b []byte) { b[0] = 21 }), errHello},
		{"SSL 2", change(func(b []byte) { b[1] = 2 }), errHello},
		{"an empty record", append([]byte{22, 3, 1, 0, 0}, good...), errHello},
		{"a record too large", change(func(b []byte) { b[3], b[4] = 0x40, 1 }), errHello},
		{"a ServerHello", change(func(b []byte) { b[5] = 2 }), errHello},
		{"a length beyond 16 KiB", change(func(b []byte) { b[6] = 1 }), errHelloBig},
		{"a length that leaves a rest", change(func(b []byte) { b[8]-- }), errHello},
		{"a name of another type", change(func(b []byte) { b[at-3] = 1 }), errHello},
		{"a name list that is too long", change(func(b []byte) { b[at-4]++ }), errHello},
		{"an empty name", change(func(b []byte) { b[at-2], b[at-1] = 0, 0 }), errHello},
		{"no name", clientHello(t, "127.0.0.1"), errNoSNI}, // RFC 6066 §3: literal addresses are not names
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, name, err := readHello(bytes.NewReader(tt.bytes), nil); !errors.Is(err, tt.want) {
				t.Errorf("name %q, error %v, want %v", name, err, tt.want)
			}
		})
	}
}

// FuzzHello: whatever arrives, what is kept is what was read, bounded, and a name is one that
// crypto/tls reads too.
func FuzzHello(f *testing.F) {
	hello := clientHello(f, helloName)
	f.Add(hello)
	f.Add(inRecords(hello, 7))
	f.Add(inRecords(hello, 200))
	f.Add(append(bytes.Clone(hello), "more"...))
	f.Fuzz(func(t *testing.T, in []byte) {
		raw, name, err := readHello(bytes.NewReader(in), nil)
		if len(raw) > helloMax || !bytes.HasPrefix(in, raw) {
			t.Fatalf("kept %d bytes that are not the first read", len(raw))
		}
		var d border
		n := 0
		for want := d.total(nil); want > n; want = d.total(in[:n]) {
			if want > helloMax+5 {
				t.Fatalf("%d bytes are wanted", want)
			}
			if n = want; n > len(in) {
				n = -1 // it ends early
				break
			}
		}
		if n >= 0 && n != len(raw) && !errors.Is(err, errHelloBig) || n < 0 && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("the border is at %d; readHello read %d bytes: %v", n, len(raw), err)
		}
		if err != nil {
			return
		}
		theirs, heard := theirName(raw)
		if heard && theirs != strings.TrimSuffix(name, ".") && theirs != name {
			t.Fatalf("name %q, crypto/tls reads %q", name, theirs)
		}
	})
}

var errStop = errors.New("stop")

// theirName is the server name that crypto/tls reads; false if it refuses the hello before.
func theirName(raw []byte) (name string, heard bool) {
	c := tls.Server(readOnly{Reader: bytes.NewReader(raw)}, &tls.Config{GetConfigForClient: func(i *tls.ClientHelloInfo) (*tls.Config, error) {
		name, heard = i.ServerName, true
		return nil, errStop
	}})
	_ = c.Handshake()
	return name, heard
}

type readOnly struct {
	net.Conn
	io.Reader
}

func (r readOnly) Read(p []byte) (int, error)  { return r.Reader.Read(p) }
func (r readOnly) Write(p []byte) (int, error) { return len(p), nil }
func (r readOnly) Close() error                { return nil }
