package http1

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// tlsPair returns both ends of a TLS connection over loopback, handshake done.
func tlsPair(tb testing.TB) (client, server net.Conn) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"x"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	a, b := tcpPair(tb)
	c := tls.Client(a, &tls.Config{RootCAs: roots, ServerName: "x"})
	s := tls.Server(b, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	done := make(chan error, 1)
	go func() { done <- s.Handshake() }()
	if err := c.Handshake(); err != nil {
		tb.Fatal(err)
	}
	if err := <-done; err != nil {
		tb.Fatal(err)
	}
	return c, s
}

// exchangeOnce sends a GET and reads its response with small reads.
func exchangeOnce(c *ClientConn, h *message.Head) (string, error) {
	s := c.Open()
	defer s.Close()
	if err := s.Send(request("GET", "/a", 0), true); err != nil {
		return "", err
	}
	if _, err := s.Receive(h); err != nil {
		return "", err
	}
	var body strings.Builder
	_, err := io.CopyBuffer(&body, struct{ io.Reader }{s}, make([]byte, 8<<10))
	return body.String(), err
}

// A server that sends a response nobody asked for would have it answer the next
// request on the connection, which may be another user's. The control is a client that
// reads answers off a connection one after the other and does not look for more: it gets it.
func TestUnaskedResponseEndsTheConnection(t *testing.T) {
	pairs := map[string]func(testing.TB) (net.Conn, net.Conn){"tcp": tcpPair, "tls": tlsPair}
	for name, pair := range pairs {
		for _, size := range []int{0, 10, 30_000} {
			client, server := pair(t)
			var wg sync.WaitGroup
			send := func(server net.Conn) {
				_, _ = server.Read(make([]byte, 1024))
				h := head(200, int64(size))
				b, _, err := appendResponse(nil, h, false, answered{})
				if err != nil {
					t.Error(err)
				}
				b = append(append(b, strings.Repeat("x", size)...), "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"...)
				_, _ = server.Write(b)
			}
			wg.Go(func() { send(server) })
			c := NewClientConn(client, &Config{})
			var h message.Head
			body, err := exchangeOnce(c, &h)
			if len(body) != size || err != nil {
				t.Errorf("%s: %d bytes of %d, %v", name, len(body), size, err)
			}
			wg.Wait() // all is sent, and on loopback has come
			if c.Usable() {
				t.Errorf("%s, %d bytes: a connection with an unasked response is offered again", name, size)
			}
			if _, err := exchangeOnce(c, &h); err == nil {
				t.Errorf("%s, %d bytes: it is used again", name, size)
			}
			c.Close()

			client, server = pair(t)
			wg.Go(func() { send(server) })
			_, _ = io.WriteString(client, "GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
			var last string
			for r := bufio.NewReader(client); last != "evil"; {
				a, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Fatalf("control: %s, %d bytes: %v", name, size, err)
				}
				b, _ := io.ReadAll(a.Body)
				last = string(b)
			}
			wg.Wait()
			client.Close()
		}
	}
}

func TestTLSConnectionsAreReused(t *testing.T) {
	client, server := tlsPair(t)
	done := serve(server, &Config{}, reply)
	c := NewClientConn(client, &Config{})
	for range 3 {
		var h message.Head
		if body, err := exchangeOnce(c, &h); body != "/a" || err != nil {
			t.Fatalf("%q, %v", body, err)
		}
		if !c.Usable() {
			t.Fatal("the connection was not kept")
		}
	}
	c.Close()
	if err := <-done; err != io.EOF {
		t.Error(err)
	}
}

func TestLargeBodyOverTLS(t *testing.T) {
	client, server := tlsPair(t)
	const size = 1 << 20
	done := serve(server, &Config{}, func(ex message.Exchange) {
		_ = ex.Respond(head(200, message.LengthUnknown), false)
		_, _ = ex.Write(make([]byte, size))
		_ = ex.Finish(nil)
	})
	c := NewClientConn(client, &Config{})
	var h message.Head
	if body, err := exchangeOnce(c, &h); len(body) != size || err != nil {
		t.Errorf("%d bytes, %v", len(body), err)
	}
	c.Close()
	<-done
}

// A response that ends before its request does leaves bytes of a body on their way that a
// server would take for the next request.
func TestResponseBeforeTheRequestsEndIsNotReused(t *testing.T) {
	client, server := tcpPair(t)
	done := serve(server, &Config{}, func(ex message.Exchange) {
		if err := ex.Respond(head(413, 0), true); err != nil {
			t.Error(err)
		}
	})
	c := NewClientConn(client, &Config{})
	s := c.Open()
	if err := s.Send(request("POST", "/", 1<<40), false); err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		buf := make([]byte, 64<<10)
		for {
			if _, err := s.Write(buf); err != nil {
				sent <- err
				return
			}
		}
	}()
	var h message.Head
	if end, err := s.Receive(&h); err != nil || !end || h.Status != 413 {
		t.Errorf("status %d, end %v, %v", h.Status, end, err)
	}
	s.SetDeadline(time.Unix(1, 0)) // ends the Write that blocks
	if err := <-sent; err == nil || errors.Is(err, message.ErrStale) {
		t.Errorf("write: %v", err)
	}
	s.Close()
	if c.Usable() {
		t.Error("the connection is offered again")
	}
	if err := <-done; err != io.EOF {
		t.Error(err)
	}
}

// A body whose coding breaks is told to the caller, who answers; the connection ends.
func TestBrokenChunkEndsTheConnection(t *testing.T) {
	client, server := tcpPair(t)
	done := serve(server, &Config{LingerTimeout: 50 * time.Millisecond}, func(ex message.Exchange) {
		_, err := io.ReadAll(ex)
		var perr *ParseError
		if !errors.As(err, &perr) || perr.Status != 400 {
			t.Errorf("read: %v, want a ParseError", err)
		}
		if err := ex.Respond(head(400, 0), true); err != nil {
			t.Error(err)
		}
	})
	send(t, client, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\nGET /evil HTTP/1.1\r\nHost: x\r\n\r\n")
	expect(t, client, "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n")
	if rest, err := io.ReadAll(client); strings.Contains(string(rest), "HTTP/") || err != nil {
		t.Errorf("after the refusal: %q, %v", rest, err)
	}
	if err := <-done; err != io.EOF {
		t.Error(err)
	}
}

// A body shorter than announced must not look complete, nor leave a usable connection.
func TestShortBodiesBreakTheConnection(t *testing.T) {
	client, server := tcpPair(t)
	done := serve(server, &Config{}, func(ex message.Exchange) {
		if _, err := io.ReadAll(ex); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("read: %v, want io.ErrUnexpectedEOF", err)
		}
		ex.Abort(nil)
	})
	c := NewClientConn(client, &Config{})
	s := c.Open()
	if err := s.Send(request("POST", "/", 5), false); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(s, "toolong"); !errors.Is(err, ErrState) {
		t.Errorf("write beyond the length: %v", err)
	}
	_, _ = io.WriteString(s, "abc")
	if err := s.CloseWrite(nil); !errors.Is(err, ErrState) {
		t.Errorf("close before the length: %v", err)
	}
	s.Close()
	if c.Usable() {
		t.Error("the connection is offered again")
	}
	<-done
}
