package http1

import (
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

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

func TestCorkedRequestLeavesInOneWriteAndHandsOver(t *testing.T) {
	conn := &counted{}
	c := NewClientConn(conn, &Config{})
	s := c.Open().(*Stream)
	s.Cork()
	_ = s.Send(request("POST", "/", 3), false)
	_, _ = io.WriteString(s, "abc")
	if conn.writes != 0 {
		t.Errorf("%d writes while corked", conn.writes)
	}
	if err := s.Flush(); err != nil || conn.writes != 1 {
		t.Errorf("%d writes after Flush, %v", conn.writes, err)
	}
	if err := s.CloseWrite(nil); err != nil || conn.writes != 1 {
		t.Errorf("%d writes after CloseWrite, %v", conn.writes, err)
	}
	if want := "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc"; conn.written.String() != want {
		t.Errorf("wrote %q, want %q", conn.written.String(), want)
	}
	s.Close()

	c = NewClientConn(&chopped{in: []byte("HTTP/1.1 200 OK\r\n\r\nahead")}, &Config{})
	s = c.Open().(*Stream)
	defer s.Close()
	h := request("CONNECT", "", 0)
	h.Authority = []byte("y:1")
	if err := s.Send(h, false); err != nil {
		t.Fatal(err)
	}
	var r message.Head
	if _, err := s.Receive(&r); err != nil {
		t.Fatal(err)
	}
	if conn, ahead := s.Raw(); conn == nil || string(ahead) != "ahead" {
		t.Errorf("handed over %v with %q", conn, ahead)
	}
}

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

// TestLimitsOfAHead: the control has higher limits, and takes them all.
func TestLimitsOfAHead(t *testing.T) {
	for _, tc := range []struct {
		name, bytes string
		want        int
	}{
		{"request line", "GET /" + strings.Repeat("a", 70_000) + " HTTP/1.1\r\nHost: x\r\n\r\n", 414},
		{"fields", "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: "+strings.Repeat("b", 1000)+"\r\n", 70) + "\r\n", 431},
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
		s := NewServerConn(&chopped{in: []byte(tc.bytes)}, &Config{HeadBytesMax: 1 << 20, FieldsMax: 1024})
		if _, err := s.Next(); err != nil {
			t.Errorf("%s, control: %v", tc.name, err)
		}
		s.Close()
	}
}

// TestAHeadWithoutEndIsNotReadOn: what follows one that was too large is read for long enough that the answer
// arrives, and no longer. The control is a head that is refused for something else, after which more is read than sockets hold.
func TestAHeadWithoutEndIsNotReadOn(t *testing.T) {
	other := &endless{line: []byte("x: " + strings.Repeat("h", 1000) + "\r\n"), next: []byte("GET / HTTP/1.1\r\nHost : x\r\n\r\n")}
	refused := NewServerConn(other, &Config{})
	if _, err := refused.Next(); err == nil {
		t.Fatal("a space before the colon was taken")
	}
	if refused.Close(); other.read < lingerBytesMax {
		t.Errorf("control: %d bytes were read, so nothing was shown", other.read)
	}
	in := &endless{line: []byte("x: " + strings.Repeat("h", 1000) + "\r\n"), next: []byte("GET / HTTP/1.1\r\nHost: x\r\n")}
	s := NewServerConn(in, &Config{})
	_, err := s.Next()
	var perr *ParseError
	if !errors.As(err, &perr) || perr.Status != 431 {
		t.Fatalf("%v, want 431", err)
	}
	s.Close()
	if most := 64<<10 + lingerHeadMax + 64<<10; in.read > most || in.read < lingerHeadMax {
		t.Errorf("%d bytes were read, want about %d", in.read, 64<<10+lingerHeadMax)
	}
}

// endless is a connection on which more always comes.
type endless struct {
	chopped
	line, next []byte
	read       int
}

func (e *endless) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if len(e.next) == 0 {
			e.next = e.line
		}
		m := copy(p[n:], e.next)
		e.next, n = e.next[m:], n+m
	}
	e.read += n
	return n, nil
}

func (e *endless) CloseWrite() error { return nil }

func TestRefusedMayAddToTheEnginesAnswer(t *testing.T) {
	var got *ParseError
	conn := &chopped{in: []byte("GET / HTTP/1.1\r\n\r\n")}
	s := NewServerConn(conn, &Config{Refused: func(e *ParseError, h *message.Head) {
		got = e
		h.Add("server", "isthmus")
	}})
	_, err := s.Next()
	s.Close()
	want := "HTTP/1.1 400 Bad Request\r\nisthmus-reason: malformed_request\r\nserver: isthmus\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
	if conn.written.String() != want || !errors.Is(err, got) {
		t.Errorf("wrote %q, want %q; told %v, returned %v", conn.written.String(), want, got, err)
	}
}

func TestConfigReportsEveryFault(t *testing.T) {
	err := (&Config{HeadBytesMax: 2 << 20, FieldsMax: 1025, ReadRateMin: -1}).Validate()
	for _, name := range []string{"HeadBytesMax", "FieldsMax", "ReadRateMin"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v does not name %s", err, name)
		}
	}
	if err := new(Config).Validate(); err != nil {
		t.Errorf("the zero Config: %v", err)
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

type counted struct {
	chopped
	writes int
}

func (c *counted) Write(p []byte) (int, error) { c.writes++; return c.chopped.Write(p) }
