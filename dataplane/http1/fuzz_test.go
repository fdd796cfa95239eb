package http1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/internal/corpus"
)

// seen is what one parser made of bytes: the message's parts and where it ended.
type seen struct {
	method, target, host string
	status               int
	body                 string
	rest                 int // bytes after the message
}

// oursRequest reads one request; ok is false if any of it is refused.
func oursRequest(b []byte, step int) (s seen, h *message.Head, ok bool) {
	conn := &chopped{in: b, step: step}
	sc := NewServerConn(conn, &Config{})
	ex, err := sc.Next()
	if err != nil {
		return s, nil, false
	}
	body, err := io.ReadAll(ex)
	if err != nil {
		return s, nil, false
	}
	h = ex.Request()
	return seen{string(h.Method), string(h.Path), string(h.Authority), 0, string(body),
		len(sc.in.buffered()) + len(conn.in)}, h, true
}

func theirsRequest(b []byte) (s seen, ok bool) {
	r := bufio.NewReader(bytes.NewReader(b))
	req, err := http.ReadRequest(r)
	if err != nil {
		return s, false
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return s, false
	}
	rest, _ := io.ReadAll(r)
	return seen{req.Method, req.RequestURI, strings.ToLower(req.Host), 0, string(body), len(rest)}, true
}

// FuzzRequest checks that an accepted request is the same however its bytes arrive, the
// same once written and read again, and the same to net/http if that accepts it too.
func FuzzRequest(f *testing.F) {
	for _, v := range corpus.Read(f, "testdata/requests.txt", 4) {
		f.Add(v.Bytes)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ours, h, ok := oursRequest(bytes.Clone(b), 0)
		slow, _, slowOK := oursRequest(bytes.Clone(b), 1)
		if ok != slowOK || ours != slow {
			t.Fatalf("at once %+v (%v), byte by byte %+v (%v)", ours, ok, slow, slowOK)
		}
		if !ok {
			return
		}
		reparse(t, h)
		if again, ok := theirsRequest(resend(t, h, ours.body)); ok &&
			(again.body != ours.body || again.rest != 0 || again.method != ours.method || again.host != ours.host) {
			t.Fatalf("%q\nsent on: net/http sees %+v, want %+v", b, again, ours)
		}
		theirs, ok := theirsRequest(b)
		if !ok {
			return
		}
		if h.Scheme != nil || h.IsConnect() {
			ours.target = theirs.target // theirs is the whole URI
		}
		if ours != theirs {
			t.Fatalf("%q\nours   %+v\ntheirs %+v", b, ours, theirs)
		}
	})
}

// FuzzResponse is FuzzRequest for responses to GET and HEAD.
func FuzzResponse(f *testing.F) {
	for _, v := range corpus.Read(f, "testdata/responses.txt", 5) {
		f.Add(v.Bytes, v.Columns[3] == "HEAD")
	}
	f.Fuzz(func(t *testing.T, b []byte, isHead bool) {
		method := "GET"
		if isHead {
			method = "HEAD"
		}
		at := func(step int) (seen, bool) {
			conn := &chopped{in: bytes.Clone(b), step: step}
			c := NewClientConn(conn, &Config{})
			s := c.Open()
			if err := s.Send(request(method, "/", 0), true); err != nil {
				t.Fatal(err)
			}
			var h message.Head
			for h.Status < 200 {
				if _, err := s.Receive(&h); err != nil {
					return seen{}, false
				}
			}
			body, err := io.ReadAll(s)
			return seen{status: h.Status, body: string(body), rest: len(c.in.buffered()) + len(conn.in)}, err == nil
		}
		ours, ok := at(0)
		slow, slowOK := at(1)
		if ok != slowOK || ok && ours != slow {
			t.Fatalf("at once %+v (%v), byte by byte %+v (%v)", ours, ok, slow, slowOK)
		}
		if !ok {
			return
		}
		r := bufio.NewReader(bytes.NewReader(b))
		var res *http.Response
		for res == nil || res.StatusCode < 200 {
			var err error
			if res, err = http.ReadResponse(r, &http.Request{Method: method}); err != nil {
				return
			}
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			return
		}
		rest, _ := io.ReadAll(r)
		if theirs := (seen{status: res.StatusCode, body: string(body), rest: len(rest)}); ours != theirs {
			t.Fatalf("%q\nours   %+v\ntheirs %+v", b, ours, theirs)
		}
	})
}

// FuzzChunked checks that the decoder gives the same bytes, end and verdict however
// its input is cut and however much is asked for, and what net/http gives if that accepts.
func FuzzChunked(f *testing.F) {
	for _, s := range []string{"0\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n", "3;a=b\r\nabc\r\n1\r\nd\r\n00\r\nA: b\r\n\r\n",
		"3\r\nabcd\r\n0\r\n\r\n", "g\r\n", "3\nabc\r\n0\r\n\r\n", "ffffffffffffffff\r\n", "1;\r\na\r\n0;x\r\n\r\nGET"} {
		f.Add([]byte(s), uint8(1), uint8(2))
	}
	const prefix = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
	f.Fuzz(func(t *testing.T, b []byte, step, ask uint8) {
		whole := append([]byte(prefix), b...)
		decode := func(step, ask int) (string, int, bool) {
			conn := &chopped{in: bytes.Clone(whole), step: step}
			s := NewServerConn(conn, &Config{})
			ex, err := s.Next()
			if err != nil {
				t.Fatal(err)
			}
			var body []byte
			p := make([]byte, ask)
			for {
				ready := ex.(*Exchange).Ready()
				left := len(conn.in)
				n, err := ex.Read(p)
				if ready && left != len(conn.in) {
					t.Fatal("Read waited though the exchange was ready")
				}
				body = append(body, p[:n]...)
				if err == io.EOF {
					return string(body), len(s.in.buffered()) + len(conn.in), true
				}
				if err != nil {
					return string(body), 0, false
				}
				if n == 0 {
					t.Fatal("Read returned nothing")
				}
			}
		}
		body, rest, ok := decode(0, 1<<16)
		body2, rest2, ok2 := decode(int(step), int(ask)+1)
		if body != body2 || rest != rest2 || ok != ok2 {
			t.Fatalf("whole: %q %d %v, cut: %q %d %v", body, rest, ok, body2, rest2, ok2)
		}
		if theirs, accepted := theirsRequest(whole); ok && accepted && (theirs.body != body || theirs.rest != rest) {
			t.Fatalf("%q\nours   %q, %d left\ntheirs %q, %d left", b, body, rest, theirs.body, theirs.rest)
		}
	})
}

// TestWrittenHeadsReadBackTheSame draws requests and responses that no parser made.
func TestWrittenHeadsReadBackTheSame(t *testing.T) {
	name := rapid.StringMatching(`x-[a-z0-9!#$%&'*+.^_|~-]{1,20}`)
	value := rapid.StringMatching(`([!-~\x80-\xff]([ -~\t]{0,60}[!-~])?)?`)
	rapid.Check(t, func(t *rapid.T) {
		h := &message.Head{
			Method:    []byte(rapid.StringMatching(`[A-Z]{1,8}`).Filter(func(m string) bool { return m != "CONNECT" && m != "TRACE" }).Draw(t, "method")),
			Path:      []byte(rapid.StringMatching(`/[!"$-~]{0,40}`).Draw(t, "path")),
			Authority: []byte(rapid.StringMatching(`[a-z0-9._-]{1,20}(:[1-9][0-9]{0,3})?`).Draw(t, "authority")),
			Length:    rapid.Int64Range(-1, 1<<40).Draw(t, "length"),
			Minor:     1,
		}
		for i := range rapid.IntRange(0, 20).Draw(t, "fields") {
			h.Add(name.Draw(t, fmt.Sprint("name", i)), value.Draw(t, fmt.Sprint("value", i)))
		}
		h.Expect100 = h.Length != 0 && rapid.Bool().Draw(t, "expect")
		if h.Length == 0 && rapid.Bool().Draw(t, "upgrade") {
			h.Upgrade = []byte("websocket")
		}
		reparse(t, h)

		h.Method, h.Path, h.Authority, h.Upgrade, h.Expect100 = nil, nil, nil, nil, false
		h.Status = rapid.SampledFrom([]int{200, 206, 302, 404, 500, 599}).Draw(t, "status")
		b, fr, err := appendResponse(nil, h, false, answered{})
		if err != nil {
			t.Fatal(err)
		}
		var again message.Head
		got, closes, perr := parseResponse(&again, again.Keep(b), 1024, asked{})
		if perr != nil || got != fr || closes || canonical(h) != canonical(&again) {
			t.Fatalf("written %q: framing %d as %d, closes %v, %v\n%s\n%s", b, fr, got, closes, perr, canonical(h), canonical(&again))
		}
	})
}
