package http1

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// guard bounds every wait of a test on a real socket.
const guard = 10 * time.Second

// tcpPair returns both ends of a loopback connection.
func tcpPair(tb testing.TB) (client, server net.Conn) {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer ln.Close()
	client, err = net.Dial("tcp", ln.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	server, err = ln.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { client.Close(); server.Close() })
	_ = client.SetDeadline(time.Now().Add(guard))
	return client, server
}

// head makes a response head.
func head(status int, length int64, fields ...string) *message.Head {
	h := &message.Head{Status: status, Length: length}
	for i := 0; i+1 < len(fields); i += 2 {
		h.Add(fields[i], fields[i+1])
	}
	return h
}

// request makes a request head.
func request(method, path string, length int64, fields ...string) *message.Head {
	h := &message.Head{Length: length}
	h.Method, h.Path, h.Authority = h.KeepString(method), h.KeepString(path), h.KeepString("x")
	for i := 0; i+1 < len(fields); i += 2 {
		h.Add(fields[i], fields[i+1])
	}
	return h
}

// serve drives a connection with handle until Next fails, and returns that error.
func serve(conn net.Conn, cfg *Config, handle func(message.Exchange)) <-chan error {
	done := make(chan error, 1)
	go func() {
		s := NewServerConn(conn, cfg)
		defer s.Close()
		for {
			ex, err := s.Next()
			if err != nil {
				done <- err
				return
			}
			handle(ex)
		}
	}()
	return done
}

// reply answers with the request's path and body.
func reply(ex message.Exchange) {
	body, err := io.ReadAll(ex)
	if err != nil {
		ex.Abort(err)
		return
	}
	text := string(ex.Request().Path) + string(body)
	if err := ex.Respond(head(200, int64(len(text))), false); err != nil {
		ex.Abort(err)
		return
	}
	_, _ = ex.Write([]byte(text))
	_ = ex.Finish(nil)
}

func expect(tb testing.TB, c io.Reader, want string) {
	tb.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(c, got)
	if err != nil || string(got) != want {
		tb.Fatalf("read %q (%v), want %q", got[:n], err, want)
	}
}

func expectEnd(tb testing.TB, c io.Reader) {
	tb.Helper()
	if rest, err := io.ReadAll(c); len(rest) > 0 || err != nil {
		tb.Fatalf("after the last response: %q, %v", rest, err)
	}
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	client, server := tcpPair(t)
	done := serve(server, &Config{}, reply)
	send(t, client, "GET /1 HTTP/1.1\r\nHost: x\r\n\r\nPOST /2 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"+
		"3\r\nabc\r\n0\r\n\r\n\r\nGET /3 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nGET /4 HTTP/1.1\r\nHost: x\r\n\r\n")
	expect(t, client, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n/1")
	expect(t, client, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n/2abc")
	expect(t, client, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n/3")
	expectEnd(t, client)
	client.Close()
	if err := <-done; err != io.EOF {
		t.Errorf("Next after close: %v, want io.EOF", err)
	}
}

func TestContinueIsSentWhenTheBodyIsRead(t *testing.T) {
	client, server := tcpPair(t)
	done := serve(server, &Config{}, reply)
	send(t, client, "POST /a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
	expect(t, client, "HTTP/1.1 100 Continue\r\n\r\n")
	send(t, client, "abc")
	expect(t, client, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n/aabc")
	client.Close()
	if err := <-done; err != io.EOF {
		t.Error(err)
	}
}

func TestFinalResponseInsteadOfContinueClosesTheConnection(t *testing.T) {
	client, server := tcpPair(t)
	done := serve(server, &Config{}, func(ex message.Exchange) {
		if err := ex.Respond(head(417, 0), true); err != nil {
			t.Error(err)
		}
	})
	send(t, client, "POST /a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
	expect(t, client, "HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
	expectEnd(t, client)
	client.Close()
	if err := <-done; err != io.EOF {
		t.Error(err)
	}
}

func TestEarlyResponseKeepsTheConnectionWithinTheDrainBound(t *testing.T) {
	for _, tc := range []struct {
		body int
		kept bool
	}{{1000, true}, {5000, false}} {
		client, server := tcpPair(t)
		done := serve(server, &Config{DrainBytesMax: 4096}, func(ex message.Exchange) {
			if err := ex.Respond(head(403, 0), true); err != nil {
				t.Error(err)
			}
		})
		send(t, client, fmt.Sprintf("POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", tc.body))
		expect(t, client, "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
		send(t, client, strings.Repeat("G", tc.body))
		if tc.kept {
			send(t, client, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			expect(t, client, "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
			_ = client.(*net.TCPConn).CloseWrite()
		}
		expectEnd(t, client)
		client.Close()
		if err := <-done; err != io.EOF {
			t.Error(err)
		}
	}
}

func TestResponsesWithoutBody(t *testing.T) {
	for _, tc := range []struct {
		method string
		h      *message.Head
		end    bool
		want   string
	}{
		{"HEAD", head(200, 3), true, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n"},
		{"HEAD", head(200, message.LengthUnknown), true, "HTTP/1.1 200 OK\r\n\r\n"},
		{"GET", head(204, message.LengthUnknown), true, "HTTP/1.1 204 No Content\r\n\r\n"},
		{"GET", head(304, 3), true, "HTTP/1.1 304 Not Modified\r\ncontent-length: 3\r\n\r\n"},
		{"GET", head(200, message.LengthUnknown), true, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"},
	} {
		client, server := tcpPair(t)
		done := serve(server, &Config{}, func(ex message.Exchange) {
			if err := ex.Respond(tc.h, tc.end); err != nil {
				t.Error(err)
			}
		})
		send(t, client, tc.method+" / HTTP/1.1\r\nHost: x\r\n\r\n")
		_ = client.(*net.TCPConn).CloseWrite()
		expect(t, client, tc.want)
		expectEnd(t, client)
		<-done
	}
}

func TestHTTP10ClientGetsNoChunksAndNoInterimHeads(t *testing.T) {
	client, server := tcpPair(t)
	done := serve(server, &Config{}, func(ex message.Exchange) {
		for _, err := range []error{
			ex.Respond(head(103, 0), false),
			ex.Respond(head(200, message.LengthUnknown), false),
		} {
			if err != nil {
				t.Error(err)
			}
		}
		_, _ = io.WriteString(ex, "abc")
		_ = ex.Finish(nil)
	})
	send(t, client, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
	expect(t, client, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabc")
	expectEnd(t, client)
	client.Close()
	<-done
}

func TestTrailersPassBothWays(t *testing.T) {
	client, server := tcpPair(t)
	done := serve(server, &Config{}, func(ex message.Exchange) {
		_, _ = io.ReadAll(ex)
		trailers := ex.Trailers()
		if len(trailers) != 1 || string(trailers[0].Name) != "sum" || string(trailers[0].Value) != "1" {
			t.Errorf("request trailers: %q", trailers)
		}
		_ = ex.Respond(head(200, message.LengthUnknown), false)
		_, _ = io.WriteString(ex, "ok")
		_ = ex.Finish([]message.Field{
			{Name: []byte("grpc-status"), Value: []byte("0")},
			{Name: []byte("content-length"), Value: []byte("9")}, // must not pass
		})
	})
	c := NewClientConn(client, &Config{})
	for range 2 {
		s := c.Open()
		if err := s.Send(request("POST", "/", message.LengthUnknown), false); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(s, "abc")
		if err := s.CloseWrite([]message.Field{{Name: []byte("sum"), Value: []byte("1")}}); err != nil {
			t.Fatal(err)
		}
		var h message.Head
		if _, err := s.Receive(&h); err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(s)
		got := s.Trailers()
		if string(body) != "ok" || err != nil || len(got) != 1 || string(got[0].Name) != "grpc-status" {
			t.Errorf("body %q, trailers %q, error %v", body, got, err)
		}
		s.Close()
		if !c.Usable() {
			t.Fatal("the connection was not kept")
		}
	}
	c.Close()
	<-done
}

func TestUpgradeBecomesATunnelThatIsNotReused(t *testing.T) {
	client, server := tcpPair(t)
	done := serve(server, &Config{}, func(ex message.Exchange) {
		if got := string(ex.Request().Upgrade); got != "websocket" {
			t.Errorf("upgrade %q", got)
		}
		h := head(101, 0)
		h.Upgrade = []byte("websocket")
		if err := ex.Respond(h, false); err != nil {
			t.Error(err)
		}
		b := make([]byte, 5)
		_, _ = io.ReadFull(ex, b)
		_, _ = ex.Write(bytes.ToUpper(b))
		_ = ex.Finish(nil)
		if rest, err := io.ReadAll(ex); string(rest) != "more" || err != nil {
			t.Errorf("after half-close: %q, %v", rest, err)
		}
	})
	c := NewClientConn(client, &Config{})
	s := c.Open()
	defer s.Close()
	h := request("GET", "/", 0)
	h.Upgrade = []byte("websocket")
	if err := s.Send(h, true); err != nil {
		t.Fatal(err)
	}
	var r message.Head
	if end, err := s.Receive(&r); err != nil || end || r.Status != 101 || string(r.Upgrade) != "websocket" {
		t.Fatalf("%d %q, end %v: %v", r.Status, r.Upgrade, end, err)
	}
	_, _ = io.WriteString(s, "hello")
	expect(t, s, "HELLO")
	expectEnd(t, s)
	_, _ = io.WriteString(s, "more")
	if err := s.CloseWrite(nil); err != nil {
		t.Error(err)
	}
	s.Close()
	if c.Usable() {
		t.Error("a tunnel's connection is offered again")
	}
	if err := <-done; err != io.EOF {
		t.Error(err)
	}
}

func TestConnectHandsOverTheConnectionWithWhatWasReadAhead(t *testing.T) {
	client, server := tcpPair(t)
	done := serve(server, &Config{}, func(ex message.Exchange) {
		if err := ex.Respond(head(200, 0), false); err != nil {
			t.Error(err)
		}
		conn, ahead := ex.(*Exchange).Raw()
		if conn != server || string(ahead) != "early" {
			t.Errorf("handed over %v with %q", conn, ahead)
		}
		_, _ = conn.Write(ahead)
	})
	send(t, client, "CONNECT y:1 HTTP/1.1\r\nHost: y:1\r\n\r\nearly")
	expect(t, client, "HTTP/1.1 200 OK\r\n\r\nearly")
	expectEnd(t, client)
	if err := <-done; err != io.EOF {
		t.Error(err)
	}
}

func TestAbortBreaksAResponseThatOnlyTheEndDelimits(t *testing.T) {
	client, server := tcpPair(t)
	done := serve(server, &Config{}, func(ex message.Exchange) {
		_ = ex.Respond(head(200, message.LengthUnknown), false)
		_, _ = io.WriteString(ex, "abc")
		expectByte := make([]byte, 1) // the client has taken the part
		_, _ = server.Read(expectByte)
		ex.Abort(errors.New("upstream broke off"))
	})
	send(t, client, "GET / HTTP/1.0\r\n\r\n")
	expect(t, client, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabc")
	send(t, client, "x")
	if rest, err := io.ReadAll(client); err == nil {
		t.Errorf("the response ended well after %q", rest)
	}
	<-done
}
