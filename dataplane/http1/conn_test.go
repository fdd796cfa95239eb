package http1

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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

// pass lets virtual time go by, in a synctest bubble.
func pass(d time.Duration) { <-time.After(d) }

func send(tb testing.TB, c net.Conn, text string) {
	tb.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		tb.Fatal(err)
	}
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

func TestCorkedMessageLeavesInOneWrite(t *testing.T) {
	conn := &counted{chopped: chopped{in: []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")}}
	s := NewServerConn(conn, &Config{})
	defer s.Close()
	ex, err := s.Next()
	if err != nil {
		t.Fatal(err)
	}
	ex.(*Exchange).Cork()
	_ = ex.Respond(head(200, message.LengthUnknown), false)
	_, _ = io.WriteString(ex, "abc")
	_, _ = io.WriteString(ex, "de")
	if conn.writes != 0 {
		t.Errorf("%d writes while corked", conn.writes)
	}
	_ = ex.Finish(nil)
	want := "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
	if conn.writes != 1 || conn.written.String() != want {
		t.Errorf("%d writes of %q, want one of %q", conn.writes, conn.written.String(), want)
	}
}

type counted struct {
	chopped
	writes int
}

func (c *counted) Write(p []byte) (int, error) { c.writes++; return c.chopped.Write(p) }

func TestUnwritableHeadsAreRefused(t *testing.T) {
	for name, h := range map[string]*message.Head{
		"line end in a value":   head(200, 0, "a", "b\r\nc: d"),
		"line end in a name":    head(200, 0, "a\r\nb", "c"),
		"body that cannot come": head(200, 5),
		"101 without a request": head(101, 0),
		"status out of range":   head(700, 0),
	} {
		if _, _, err := appendResponse(nil, h, true, answered{}); !errors.Is(err, ErrHead) {
			t.Errorf("%s: %v, want ErrHead", name, err)
		}
	}
	h := head(200, 0, "content-length", "7", "transfer-encoding", "chunked", "connection", "x", "a", "b")
	b, _, err := appendResponse(nil, h, true, answered{})
	if want := "HTTP/1.1 200 OK\r\na: b\r\ncontent-length: 0\r\n\r\n"; string(b) != want || err != nil {
		t.Errorf("framing fields in a head: %q, %v, want %q", b, err, want)
	}
}

func TestLimitsOfAHead(t *testing.T) {
	for _, tc := range []struct {
		name, bytes string
		want        int
	}{
		{"request line", "GET /" + strings.Repeat("a", 70_000), 414},
		{"fields", "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: "+strings.Repeat("b", 1000)+"\r\n", 70), 431},
		{"number of fields", "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: b\r\n", 128) + "\r\n", 431},
		{"just below", "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: "+strings.Repeat("b", 500)+"\r\n", 127) + "\r\n", 0},
	} {
		for _, step := range []int{0, 1000} {
			s := NewServerConn(&chopped{in: []byte(tc.bytes), step: step}, &Config{})
			_, err := s.Next()
			var perr *ParseError
			got := 0
			if errors.As(err, &perr) {
				got = perr.Status
			}
			if got != tc.want || tc.want == 0 && err != nil {
				t.Errorf("%s: %v, want %d", tc.name, err, tc.want)
			}
			s.Close()
		}
	}
}

func TestSlowHeadIsAnswered408(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		start := time.Now()
		done := serve(server, &Config{ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Hour}, reply)
		pass(time.Minute) // idle is not slow
		typed := make(chan struct{})
		defer func() { <-typed }()
		go func() {
			defer close(typed)
			for _, c := range []byte("GET / HTTP/1.1\r\nHost: x\r\nA: bbbbbbbbbbbbbbbbbbb") {
				if _, err := client.Write([]byte{c}); err != nil {
					return
				}
				pass(300 * time.Millisecond)
			}
		}()
		line, err := bufio.NewReader(client).ReadString('\n')
		if err != nil || line != "HTTP/1.1 408 Request Timeout\r\n" {
			t.Errorf("%q, %v", line, err)
		}
		client.Close()
		var perr *ParseError
		if err := <-done; !errors.As(err, &perr) || perr.Status != 408 {
			t.Errorf("Next: %v, want a ParseError 408", err)
		}
		if took := time.Since(start) - time.Minute; took != 5*time.Second {
			t.Errorf("after %v, want the header timeout", took)
		}
	})
}

func TestIdleConnectionTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		done := serve(server, &Config{IdleTimeout: 8 * time.Second}, reply)
		start := time.Now()
		if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Next: %v", err)
		}
		if took := time.Since(start); took < 8*time.Second || took > 9*time.Second {
			t.Errorf("after %v, want 8 to 9 s", took)
		}
	})
}

func TestBodyBelowTheLeastRateIsCutOff(t *testing.T) {
	for _, tc := range []struct {
		every time.Duration // per 100 bytes, at a least rate of 100 bytes a second
		ok    bool
	}{{900 * time.Millisecond, true}, {1500 * time.Millisecond, false}} {
		synctest.Test(t, func(t *testing.T) {
			client, server := net.Pipe()
			got := make(chan error, 1)
			done := serve(server, &Config{ReadRateMin: 100, RateGrace: 5 * time.Second}, func(ex message.Exchange) {
				_, err := io.ReadAll(ex)
				got <- err
				if err != nil {
					ex.Abort(err)
					return
				}
				_ = ex.Respond(head(204, 0), true)
			})
			typed := make(chan struct{})
			defer func() { <-typed }()
			go func() {
				defer close(typed)
				_, _ = io.WriteString(client, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n")
				for range 100 {
					pass(tc.every)
					if _, err := client.Write(make([]byte, 100)); err != nil {
						return
					}
				}
				_, _ = io.Copy(io.Discard, client)
			}()
			err := <-got
			if tc.ok != (err == nil) || !tc.ok && !errors.Is(err, ErrTooSlow) {
				t.Errorf("100 bytes every %v: %v", tc.every, err)
			}
			client.Close()
			<-done
		})
	}
}

func TestClientThatTakesNothingIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		got := make(chan error, 1)
		done := serve(server, &Config{WriteRateMin: 1000, RateGrace: 3 * time.Second}, func(ex message.Exchange) {
			_ = ex.Respond(head(200, 1<<20), false)
			_, err := ex.Write(make([]byte, 1<<20))
			got <- err
			ex.Abort(err)
		})
		_, _ = io.WriteString(client, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		_, _ = io.ReadFull(client, make([]byte, 100))
		if err := <-got; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write: %v", err)
		}
		<-done
	})
}

func TestDeadlineReachesACallThatBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		taken := make(chan struct{})
		defer func() { <-taken }()
		defer server.Close()
		go func() {
			defer close(taken)
			_, _ = io.Copy(io.Discard, server)
		}()
		c := NewClientConn(client, &Config{})
		s := c.Open()
		if err := s.Send(request("GET", "/", 0), true); err != nil {
			t.Fatal(err)
		}
		got := make(chan error, 1)
		go func() {
			var h message.Head
			_, err := s.Receive(&h)
			got <- err
		}()
		synctest.Wait()
		s.SetDeadline(time.Now().Add(time.Second))
		if err := <-got; !errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, message.ErrStale) {
			t.Errorf("receive: %v", err)
		}
		s.Close()
	})
}

func TestDrainEndsAWaitAndMarksAResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		s := NewServerConn(server, &Config{})
		got := make(chan error, 1)
		go func() {
			_, err := s.Next()
			got <- err
			s.Close()
		}()
		synctest.Wait()
		s.Drain()
		if err := <-got; !errors.Is(err, ErrDraining) {
			t.Errorf("Next: %v, want ErrDraining", err)
		}
	})
	client, server := tcpPair(t)
	s := NewServerConn(server, &Config{})
	send(t, client, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	ex, err := s.Next()
	if err != nil {
		t.Fatal(err)
	}
	s.Drain()
	if err := ex.Respond(head(204, 0), true); err != nil {
		t.Fatal(err)
	}
	expect(t, client, "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
	client.Close()
	if _, err := s.Next(); err != io.EOF {
		t.Errorf("Next: %v", err)
	}
	s.Close()
}

func TestLargeBodiesStreamInConstantMemory(t *testing.T) {
	const size = 64 << 20
	for _, length := range []int64{size, message.LengthUnknown} {
		client, server := tcpPair(t)
		done := serve(server, &Config{}, func(ex message.Exchange) {
			_ = ex.Respond(head(200, length), false)
			buf := make([]byte, 32<<10)
			for {
				n, err := ex.Read(buf)
				if _, werr := ex.Write(buf[:n]); werr != nil {
					t.Errorf("write: %v", werr)
					return
				}
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Errorf("read: %v", err)
					return
				}
			}
			_ = ex.Finish(nil)
		})
		c := NewClientConn(client, &Config{})
		s := c.Open()
		if err := s.Send(request("POST", "/", length), false); err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		sent := make(chan error, 1)
		go func() {
			buf := make([]byte, 64<<10)
			for range size / len(buf) {
				if _, err := s.Write(buf); err != nil {
					sent <- err
					return
				}
			}
			sent <- s.CloseWrite(nil)
		}()
		var h message.Head
		if _, err := s.Receive(&h); err != nil {
			t.Fatal(err)
		}
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{s}, make([]byte, 32<<10))
		if n != size || err != nil {
			t.Errorf("%d bytes came back, %v", n, err)
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
		runtime.ReadMemStats(&after)
		if grew := after.TotalAlloc - before.TotalAlloc; grew > 1<<20 && !raceEnabled {
			t.Errorf("length %d: %d bytes were allocated for a body of %d", length, grew, size)
		}
		s.Close()
		c.Close()
		<-done
	}
}

func TestConnectionThatWaitsHoldsNoBuffer(t *testing.T) {
	client, server := tcpPair(t)
	s := NewServerConn(server, &Config{})
	defer s.Close()
	read := func(what string, want bool) {
		t.Helper()
		got := false
		if err := s.in.raw.Control(func(fd uintptr) { got = s.in.tryRead(fd) }); err != nil || got != want {
			t.Fatalf("%s: read %v, want %v, %v", what, got, want, err)
		}
	}
	read("nothing sent", false)
	if s.in.buf != nil {
		t.Error("a buffer is held though nothing was read")
	}
	send(t, client, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	ex, err := s.Next()
	if err != nil {
		t.Fatal(err)
	}
	if s.in.buf != nil {
		t.Error("the buffer is held while the request is under way")
	}
	if err := ex.Respond(head(204, 0), true); err != nil {
		t.Fatal(err)
	}
	if err := s.settle(); err != nil || s.heads != nil || s.out.buf != nil {
		t.Errorf("between requests: heads %v, output %v, %v", s.heads, s.out.buf, err)
	}
}
