package proxy_test

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
)

// streaming is a call of gRPC whose body says neither its length nor, so far, its end.
func streaming() *exchange {
	ex := call("catalog")
	ex.body, ex.head.Length, ex.more = strings.NewReader(""), message.LengthUnknown, make(chan []byte, 64)
	return ex
}

// declines answers, a second after it was asked, that no application has seen the request.
func declines() *stream {
	s := answer(503, "").says("isthmus-not-executed", "app_unreachable").says("isthmus-reason", "app_unreachable")
	s.delay = time.Second
	return s
}

// TestABodyOnItsWayIsSentAgain: clients of gRPC announce no length, so what they send is kept as it
// passes, and a request that was never executed begins again elsewhere with all of it.
func TestABodyOnItsWayIsSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, nil)
		ex, first, second, third := streaming(), declines(), declines(), answer(200, "ok")
		third.waitBody = true
		w.script = []any{first, second, third}
		ex.trailers = []message.Field{{Name: []byte("sum"), Value: []byte("1")}}
		ex.more <- []byte("one ")
		time.AfterFunc(1500*time.Millisecond, func() { ex.more <- []byte("two ") })
		time.AfterFunc(2500*time.Millisecond, func() { ex.more <- []byte("three"); ex.more <- nil })
		w.proxy.Outbound(ex, proxy.Via{})
		if ex.status != 200 || first.in.String() != "one " || second.in.String() != "one two " || third.in.String() != "one two three" {
			t.Errorf("%d; the servers got %q, %q, %q (%s)", ex.status, first.in.String(), second.in.String(), third.in.String(), w.last.Detail)
		}
		if w.last.Tries != 3 || w.last.RequestBytes != 13 || len(third.trailers) != 1 {
			t.Errorf("%d tries, %d bytes, trailers %q", w.last.Tries, w.last.RequestBytes, third.trailers)
		}
	})
}

// TestALargeBodyOnItsWayIsNotSentAgain: above the bound nothing is kept, and nothing is made up.
func TestALargeBodyOnItsWayIsNotSentAgain(t *testing.T) {
	for chunks, tries := range map[int]int{4: 2, 5: 1} { // of 16 KiB; 64 KiB are kept
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 3, nil)
			ex, second := streaming(), answer(200, "ok")
			second.waitBody = true
			w.script = []any{declines(), second}
			for range chunks {
				ex.more <- bytes.Repeat([]byte("x"), 16<<10)
			}
			time.AfterFunc(2*time.Second, func() { ex.more <- nil })
			w.proxy.Outbound(ex, proxy.Via{})
			if w.last.Tries != tries || tries == 2 && second.in.Len() != chunks<<14 || tries == 1 && ex.field("grpc-status") != "14" {
				t.Errorf("%d chunks: %d tries, want %d; %d bytes came, %q", chunks, w.last.Tries, tries, second.in.Len(), ex.fields)
			}
		})
	}
}

// TestGRPCStatusesAreRetriedWhereAPolicySaysSo: as a head that is the whole answer, and as often as
// the policy allows; the last answer is the application's own.
func TestGRPCStatusesAreRetriedWhereAPolicySaysSo(t *testing.T) {
	says := func(code string) *stream {
		return answer(200, "").says("content-type", "application/grpc").says("grpc-status", code)
	}
	for name, c := range map[string]struct {
		on     []string
		script []any
		code   string
		tries  int
	}{
		"named":         {[]string{"unavailable"}, []any{says("14"), says("0")}, "0", 2},
		"not named":     {[]string{"unavailable"}, []any{says("13"), says("0")}, "13", 1},
		"no policy":     {nil, []any{says("14"), says("0")}, "14", 1},
		"not for ever":  {[]string{"unavailable", "internal"}, []any{says("14"), says("13"), says("14"), says("0")}, "14", 3},
		"not a number":  {[]string{"unavailable"}, []any{says("-14"), says("0")}, "-14", 1},
		"a body begins": {[]string{"unavailable"}, []any{answer(200, "message").says("grpc-status", "14"), says("0")}, "14", 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 5, func(s *ir.Service, _ *ir.Endpoints) { s.Traffic.Retry.On = c.on })
			w.script = c.script
			ex := call("catalog")
			w.proxy.Outbound(ex, proxy.Via{})
			if ex.field("grpc-status") != c.code || w.last.Tries != c.tries {
				t.Errorf("grpc-status %s after %d tries, want %s after %d", ex.field("grpc-status"), w.last.Tries, c.code, c.tries)
			}
		})
	}
}

// TestServerSendsAgainWhatItsApplicationNeverSaw: a connection that the application was about to
// close costs no call, whatever the method.
func TestServerSendsAgainWhatItsApplicationNeverSaw(t *testing.T) {
	w := serving(t)
	refused := answer(0, "")
	refused.receiveErr = message.ErrNotExecuted
	w.script = []any{refused, answer(200, "ok")}
	ex := asked("/a")
	ex.head.Method, ex.head.Length, ex.body = []byte("POST"), message.LengthUnknown, strings.NewReader("body")
	w.proxy.Inbound(ex, peer)
	if ex.status != 200 || ex.out.String() != "ok" {
		t.Errorf("%d %q (%s)", ex.status, ex.out.String(), w.last.Detail)
	}
	w.script = []any{refused, refused, refused, answer(200, "ok")}
	ex = asked("/a")
	w.proxy.Inbound(ex, peer)
	if ex.status != 502 || ex.field("isthmus-not-executed") == "" {
		t.Errorf("%d %q: want it said that it was not executed", ex.status, ex.fields)
	}
}

// arrived is a client all of whose request has come, as http2's exchange tells of one.
type arrived struct{ *exchange }

func (a arrived) Whole() (int, bool) { return a.body.(*strings.Reader).Len(), true }

// TestABodyThatHasComeIsSentAtOnce: no goroutine carries it beside the answer, whose time has begun,
// so that the server is told how much is left; and any try has all of it.
func TestABodyThatHasComeIsSentAtOnce(t *testing.T) {
	for name, body := range map[string]string{"nothing": "", "a message": "message", "as much as is kept": strings.Repeat("x", 64<<10)} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 3, nil)
			ex, first, second := streaming(), answer(503, "").says("isthmus-not-executed", "app_unreachable"), answer(200, "ok")
			ex.body = strings.NewReader(body)
			w.script = []any{first, second}
			w.proxy.Outbound(arrived{ex}, proxy.Via{})
			if ex.status != 200 || first.in.String() != body || second.in.String() != body || w.last.RequestBytes != int64(len(body)) {
				t.Errorf("%d; the servers got %d and %d bytes of %d, counted %d (%s)", ex.status, first.in.Len(), second.in.Len(), len(body), w.last.RequestBytes, w.last.Detail)
			}
			if second.sent.Get(proxy.FieldDeadline) == nil {
				t.Errorf("the server is not told how much time is left: %q", second.sent.Fields)
			}
		})
	}
	w := newWorld(t, 1, nil)
	ex, s := streaming(), answer(200, "ok")
	s.waitBody = true
	ex.body = strings.NewReader(strings.Repeat("x", 64<<10+1))
	ex.more <- nil
	w.script = []any{s}
	w.proxy.Outbound(arrived{ex}, proxy.Via{})
	if ex.status != 200 || s.in.Len() != 64<<10+1 || s.sent.Get(proxy.FieldDeadline) != nil {
		t.Errorf("%d; above what is kept %d bytes came (%s); want a stream", ex.status, s.in.Len(), w.last.Detail)
	}
}
