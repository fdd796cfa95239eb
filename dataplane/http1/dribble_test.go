//go:build unix

package http1

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// TestAHeadThatDribblesHoldsLittle sends a head in pieces: while the next is waited for, what has come is held, and no whole
// buffer. Until the socket is found empty there is one, which is the control.
func TestAHeadThatDribblesHoldsLittle(t *testing.T) {
	for _, size := range []int{1, 300, 5000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			client, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			server, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			sc := NewServerConn(server, &Config{})
			defer sc.Close()
			in := &sc.in
			value := strings.Repeat("v", 3*size)
			text := "GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + value + "\r\n\r\n"
			held := 0 // without the rest
			for sent := 0; sent < len(text)-1; {
				n := min(size, len(text)-1-sent)
				if _, err := client.Write([]byte(text[sent : sent+n])); err != nil {
					t.Fatal(err)
				}
				sent += n
				for end := time.Now().Add(time.Minute); len(in.buffered()) < sent; {
					if time.Now().After(end) {
						t.Fatalf("%d of %d bytes have come", len(in.buffered()), sent)
					}
					in.look()
					if in.buf != nil {
						held = max(held, len(in.buf.b))
					}
				}
				in.look() // and finds nothing
				if got := len(in.buf.b); got > max(sent, bufferSize/4)+settleRoom && got != bufferSize || got == bufferSize && sent <= bufferSize/4 {
					t.Fatalf("%d bytes are held for %d", got, sent)
				}
			}
			if held != bufferSize {
				t.Errorf("at most %d bytes were held: there is nothing to give back", held)
			}
			if _, err := client.Write([]byte(text[len(text)-1:])); err != nil {
				t.Fatal(err)
			}
			ex, err := sc.Next()
			if err != nil {
				t.Fatal(err)
			}
			if got := string(ex.Request().Get("x-long")); got != value {
				t.Errorf("a value of %d bytes came, want %d, or another", len(got), len(value))
			}
			if err := ex.Respond(head(204, 0), true); err != nil {
				t.Error(err)
			}
		})
	}
}
