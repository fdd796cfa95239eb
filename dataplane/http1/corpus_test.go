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

	"github.com/google/go-cmp/cmp"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/internal/corpus"
)

// chopped is a connection whose bytes arrive a few at a time and then end; it
// records what is written.
type chopped struct {
	net.Conn
	in      []byte
	step    int
	written bytes.Buffer
	closed  bool
}

func (c *chopped) Read(p []byte) (int, error) {
	if c.closed {
		return 0, net.ErrClosed
	}
	if len(c.in) == 0 {
		return 0, io.EOF
	}
	n := len(c.in)
	if c.step > 0 {
		n = min(n, c.step)
	}
	n = copy(p, c.in[:n])
	c.in = c.in[n:]
	return n, nil
}
func (c *chopped) Write(p []byte) (int, error)      { return c.written.Write(p) }
func (c *chopped) Close() error                     { c.closed = true; return nil }
func (c *chopped) SetDeadline(time.Time) error      { return nil }
func (c *chopped) SetReadDeadline(time.Time) error  { return nil }
func (c *chopped) SetWriteDeadline(time.Time) error { return nil }

// describe renders what a request was taken for, in the corpus's words.
func describe(h *message.Head) string {
	dash := func(b []byte) string {
		if len(b) == 0 {
			return "-"
		}
		return string(b)
	}
	length := fmt.Sprint(h.Length)
	if h.Length == message.LengthUnknown {
		length = "?"
	}
	return fmt.Sprintf("ok %s %s %s %s", h.Method, dash(h.Authority), dash(h.Path), length)
}

func TestRequestCorpus(t *testing.T) {
	vectors := corpus.Read(t, "testdata/requests.txt", 4)
	for _, step := range []int{0, 1, 7} {
		for _, v := range vectors {
			want := strings.Join(strings.Fields(v.Columns[0]), " ")
			conn := &chopped{in: v.Bytes, step: step}
			s := NewServerConn(conn, &Config{})
			ex, err := s.Next()
			got := ""
			var perr *ParseError
			switch {
			case err == nil:
				got = describe(ex.Request())
			case errors.As(err, &perr):
				got = fmt.Sprint(perr.Status)
				if prefix := fmt.Sprintf("HTTP/1.1 %d ", perr.Status); !strings.HasPrefix(conn.written.String(), prefix) {
					t.Errorf("line %d (%s): answered %q, want %q", v.Line, v.Columns[2], conn.written.String(), prefix)
				}
				if !strings.Contains(conn.written.String(), "isthmus-reason: "+string(perr.Reason)+"\r\n") ||
					!strings.Contains(conn.written.String(), "connection: close\r\n") {
					t.Errorf("line %d: answer without reason or close: %q", v.Line, conn.written.String())
				}
				if _, again := s.Next(); !errors.Is(again, err) {
					t.Errorf("line %d: a request after the refused one: %v", v.Line, again)
				}
			default:
				got = err.Error()
			}
			if got != want {
				t.Errorf("line %d (%s), step %d: got %s, want %s: %v", v.Line, v.Columns[2], step, got, want, err)
			}
			s.Close()
		}
	}
}

func TestResponseCorpus(t *testing.T) {
	vectors := corpus.Read(t, "testdata/responses.txt", 5)
	for _, step := range []int{0, 1, 7} {
		for _, v := range vectors {
			want := strings.Join(strings.Fields(v.Columns[0]), " ")
			got, err := readResponse(v.Columns[3], &chopped{in: v.Bytes, step: step})
			if got != want {
				t.Errorf("line %d (%s), step %d: got %s, want %s: %v", v.Line, v.Columns[2], step, got, want, err)
			}
		}
	}
}

func readResponse(asks string, conn net.Conn) (string, error) {
	c := NewClientConn(conn, &Config{})
	s := c.Open()
	defer s.Close()
	var h message.Head
	h.Method, h.Path, h.Authority = []byte(asks), []byte("/"), []byte("x:1")
	if asks == "upgrade" {
		h.Method, h.Upgrade = []byte("GET"), []byte("websocket")
	}
	if err := s.Send(&h, true); err != nil {
		return "no", err
	}
	for {
		h.Reset()
		end, err := s.Receive(&h)
		if err != nil {
			return "no", err
		}
		if h.Status < 200 && h.Status != 101 {
			continue
		}
		body, err := io.ReadAll(s)
		if err != nil {
			return "no", err
		}
		text := string(body)
		switch {
		case s.(*Stream).tunnel:
			text = "~" + text
		case text == "":
			text = "-"
		}
		if end && text != "-" {
			return "no", errors.New("the head said that no body follows")
		}
		return fmt.Sprintf("ok %d %s", h.Status, text), nil
	}
}

// canonical is what must survive serialising and parsing again. A scheme and HTTP/1.0 do
// not: what is sent is origin-form and 1.1.
func canonical(h *message.Head) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q %q %q %d %d %q %v\n", h.Method, h.Authority, h.Path, h.Status, h.Length, h.Upgrade, h.Expect100)
	for _, f := range h.Fields {
		fmt.Fprintf(&b, "%q: %q\n", f.Name, f.Value)
	}
	return b.String()
}

// reparse checks that a parsed request, written and read again, is the same request.
func reparse(tb failer, h *message.Head) {
	tb.Helper()
	b, _, err := appendRequest(nil, h, false)
	if err != nil {
		tb.Fatalf("serialise %s: %v", canonical(h), err)
	}
	var scan headScan
	n, perr := scan.scan(b)
	if perr != nil || n != len(b) {
		tb.Fatalf("written head %q has end %d: %v", b, n, perr)
	}
	var again message.Head
	if _, perr := parseRequest(&again, again.Keep(b), 1024); perr != nil {
		tb.Fatalf("written head %q is refused: %v", b, perr)
	}
	if diff := cmp.Diff(canonical(h), canonical(&again)); diff != "" {
		tb.Fatalf("written as %q (-first +again):\n%s", b, diff)
	}
}

func TestAcceptedRequestsAreCanonical(t *testing.T) {
	accepted := 0
	for _, v := range corpus.Read(t, "testdata/requests.txt", 4) {
		s := NewServerConn(&chopped{in: v.Bytes}, &Config{})
		if ex, err := s.Next(); err == nil {
			accepted++
			reparse(t, ex.Request())
		}
		s.Close()
	}
	if accepted < 20 {
		t.Errorf("only %d vectors were accepted", accepted)
	}
}

// failer is the part of testing.TB that rapid has too.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// resend writes a request through a ClientConn and returns its bytes.
func resend(tb failer, h *message.Head, body string) []byte {
	tb.Helper()
	conn := &chopped{}
	s := NewClientConn(conn, &Config{}).Open()
	defer s.Close()
	if err := s.Send(h, body == "" && h.Length == 0); err != nil {
		tb.Fatalf("send %s: %v", canonical(h), err)
	}
	if body != "" {
		if _, err := io.WriteString(s, body); err != nil {
			tb.Fatalf("write %s: %v", canonical(h), err)
		}
	}
	if err := s.CloseWrite(nil); err != nil {
		tb.Fatalf("close %s: %v", canonical(h), err)
	}
	return conn.written.Bytes()
}

func TestBackendSeesExactlyTheRequestThatWasAccepted(t *testing.T) {
	seen := 0
	for _, v := range corpus.Read(t, "testdata/requests.txt", 4) {
		ours, h, ok := oursRequest(v.Bytes, 0)
		if !ok {
			continue
		}
		written := resend(t, h, ours.body)
		theirs, ok := theirsRequest(written)
		if !ok || theirs.body != ours.body || theirs.rest != 0 || theirs.method != ours.method {
			t.Errorf("line %d (%s): written %q, net/http sees %+v (%v)", v.Line, v.Columns[2], written, theirs, ok)
		}
		seen++
	}
	if seen < 20 {
		t.Errorf("only %d requests were accepted", seen)
	}
}
