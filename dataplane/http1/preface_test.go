package http1

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

func hello(ex message.Exchange) {
	if ex.Respond(head(200, 5), false) == nil {
		_, _ = ex.Write([]byte("hello"))
		_ = ex.Finish(nil)
	}
}

// TestHTTP2IsHandedOver: a connection that begins with the preface of HTTP/2 is given up with every
// byte of it, however it came in pieces; one of HTTP/1 goes on as ever.
func TestHTTP2IsHandedOver(t *testing.T) {
	const more = "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	for _, cut := range []int{1, 3, len(http2Preface) - 1, len(http2Preface), len(http2Preface) + len(more)} {
		client, server := net.Pipe() // each write is read by itself
		sc := NewServerConn(server, &Config{HTTP2: true})
		go func() {
			whole := http2Preface + more
			_, _ = io.WriteString(client, whole[:cut])
			_, _ = io.WriteString(client, whole[cut:])
		}()
		if _, err := sc.Next(); !errors.Is(err, ErrHTTP2) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		conn, got := sc.HandOver()
		for len(got) < len(http2Preface)+len(more) {
			b := make([]byte, 64)
			n, err := conn.Read(b)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, b[:n]...)
		}
		if string(got) != http2Preface+more {
			t.Errorf("cut at %d: handed over %q", cut, got)
		}
		_ = conn.Close()
	}
	for begin, want := range map[string]string{
		"PRI / HTTP/1.1\r\nHost: x\r\n\r\n":        "200", // an unknown method, and no preface
		"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n":         "505",
		"POST / HTTP/1.1\r\nHost: x\r\n\r\n":       "200",
		"GET / HTTP/1.1\r\nHost: x\r\nbad\r\n\r\n": "400",
		"INVALID CONNECTION PREFACE\r\n\r\n":       "", // neither version: nothing to answer in
	} {
		client, server := tcpPair(t)
		done := serve(server, &Config{HTTP2: true}, hello)
		_, _ = io.WriteString(client, begin)
		closeWrite(client)
		b, err := io.ReadAll(client)
		status := strings.TrimPrefix(string(b[:min(len(b), 12)]), "HTTP/1.1 ")
		if err != nil || status != want {
			t.Errorf("%q: answered %q, %v; want %q", begin, b, err, want)
		}
		<-done
	}
	// It is looked for at the beginning of a connection and nowhere else.
	client, server := tcpPair(t)
	done := serve(server, &Config{HTTP2: true}, hello)
	_, _ = io.WriteString(client, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"+http2Preface)
	b, err := io.ReadAll(client)
	if err != nil || !strings.Contains(string(b), "HTTP/1.1 505 ") {
		t.Errorf("%q, %v", b, err)
	}
	<-done
}

// TestTEIsPassedOn: that trailers are welcome goes through, and nothing else of TE.
func TestTEIsPassedOn(t *testing.T) {
	for te, want := range map[string]string{
		"trailers": "connection: te\r\nte: trailers\r\n", "gzip, Trailers": "connection: te\r\nte: trailers\r\n", "gzip": "", "trailersx": "",
	} {
		client, server := tcpPair(t)
		sc := NewServerConn(server, &Config{})
		_, _ = io.WriteString(client, "GET / HTTP/1.1\r\nHost: x\r\nConnection: TE\r\nTE: "+te+"\r\n\r\n")
		ex, err := sc.Next()
		if err != nil {
			t.Fatal(err)
		}
		b, _, err := appendRequest(nil, ex.Request(), true)
		if got := string(b); err != nil || got != "GET / HTTP/1.1\r\nhost: x\r\n"+want+"\r\n" {
			t.Errorf("TE: %s leaves as %q, %v", te, got, err)
		}
		_ = sc.Close()
	}
}
