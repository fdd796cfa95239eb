package socket_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/socket"
)

// TestGatherReadsWhatIsWantedAndNoMore sends a message whose first two octets are its length, in pieces, and something
// behind it, over a socket and over what is none.
func TestGatherReadsWhatIsWantedAndNoMore(t *testing.T) {
	total := func(b []byte) int {
		if len(b) < 2 {
			return 2
		}
		return 2 + int(b[0])<<8 + int(b[1])
	}
	over := map[string]func(*testing.T) (a, b net.Conn){"a socket": connected, "no socket": func(t *testing.T) (a, b net.Conn) {
		a, b = net.Pipe()
		t.Cleanup(func() { a.Close(); b.Close() })
		return a, b
	}}
	for name, pair := range over {
		for _, piece := range []int{1, 100, 1 << 14} {
			for _, size := range []int{0, 1, 510, 511, 5000} {
				c, peer := pair(t)
				_ = c.SetReadDeadline(time.Now().Add(time.Minute))
				sent := append([]byte{byte(size >> 8), byte(size)}, bytes.Repeat([]byte{7}, size)...)
				go func() {
					for b := append(bytes.Clone(sent), "more"...); len(b) > 0; {
						n, err := peer.Write(b[:min(piece, len(b))])
						if err != nil {
							return
						}
						b = b[n:]
					}
					peer.Close()
				}()
				w := socket.NewWhole(c)
				w.Ready(total)
				if err := w.Gather(); err != nil || !bytes.Equal(w.Gathered(), sent) {
					t.Errorf("%s, %d octets in pieces of %d: %d came, want %d; %v", name, size, piece, len(w.Gathered()), len(sent), err)
				}
				if room := cap(w.Gathered()); room > max(600, 4*len(sent)) {
					t.Errorf("%s: room for %d octets, of which %d came", name, room, len(sent))
				}
				w.Close()
				if rest, err := io.ReadAll(c); string(rest) != "more" || err != nil {
					t.Errorf("%s, %d octets in pieces of %d: %q is left, %v", name, size, piece, rest, err)
				}
			}
		}
		for sent, want := range map[string]error{"": io.EOF, "\x01": io.ErrUnexpectedEOF, "\xff\xff and little of it": io.ErrUnexpectedEOF} {
			c, peer := pair(t)
			_ = c.SetReadDeadline(time.Now().Add(time.Minute))
			go func() { _, _ = io.WriteString(peer, sent); peer.Close() }()
			w := socket.NewWhole(c)
			w.Ready(total)
			if err := w.Gather(); !errors.Is(err, want) || string(w.Gathered()) != sent || cap(w.Gathered()) > 600 {
				t.Errorf("%s, %q: %q came, with room for %d; %v, want %v", name, sent, w.Gathered(), cap(w.Gathered()), err, want)
			}
		}
	}
}
