package carrier_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/isthmus-mesh/isthmus/xds/carrier"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bound is far more than anything here takes.
const bound = time.Minute

const echoMethod = "/test.Echo/Talk"

// echo is a conversation that says everything again, times times.
type echo struct {
	wake  func(here bool)
	times int

	mu     sync.Mutex
	queue  [][]byte
	end    error
	ended  bool
	closed chan struct{}
}

func (e *echo) Take(m []byte) error {
	switch string(m) {
	case "\n\x05panic": // a StringValue
		panic("as asked")
	case "\n\x04fail":
		return status.Error(codes.FailedPrecondition, "as asked: 50 %\n é")
	}
	for range e.times {
		e.say(append([]byte(nil), m...))
	}
	e.wake(false)
	return nil
}

func (e *echo) say(m []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.queue = append(e.queue, m)
}

func (e *echo) Next() (mem.BufferSlice, bool, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.queue) == 0 {
		return nil, e.ended, e.end
	}
	m := e.queue[0]
	e.queue = e.queue[1:]
	half := len(m) / 2
	return mem.BufferSlice{mem.SliceBuffer(m[:half]), mem.SliceBuffer(m[half:])}, false, nil
}

func (e *echo) Close() { close(e.closed) }

// health is a unary service of somebody else's making.
type health struct {
	grpc_health_v1.UnimplementedHealthServer
	waiting chan struct{}
}

func (h *health) Check(ctx context.Context, r *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	switch r.Service {
	case "slow":
		h.waiting <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	case "unknown":
		return nil, status.Error(codes.NotFound, "no such service")
	case "panic":
		panic("as asked")
	case "who":
		p, _ := peer.FromContext(ctx)
		if _, ok := p.AuthInfo.(credentials.TLSInfo); !ok {
			return nil, status.Error(codes.Unauthenticated, "no TLS")
		}
	}
	return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}, nil
}

// server is one under test.
type server struct {
	addr   string
	stop   func()
	opened atomic.Int64
	talks  chan *echo
	health *health
}

// checkOnly is the service of health without its stream.
func checkOnly() *grpc.ServiceDesc {
	d := grpc_health_v1.Health_ServiceDesc
	d.Streams = nil
	methods := d.Methods
	d.Methods = nil
	for _, m := range methods {
		if m.MethodName == "Check" {
			d.Methods = append(d.Methods, m)
		}
	}
	return &d
}

func start(t *testing.T, cfg carrier.Config, times int) *server {
	t.Helper()
	s := &server{talks: make(chan *echo, 1000), health: &health{waiting: make(chan struct{}, 10)}}
	c := carrier.New(cfg)
	c.RegisterService(checkOnly(), s.health)
	c.Converse(echoMethod, func(_ context.Context, wake func(bool)) (carrier.Conversation, error) {
		s.opened.Add(1)
		e := &echo{wake: wake, times: times, closed: make(chan struct{})}
		select {
		case s.talks <- e:
		default: // nobody wants so many
		}
		return e, nil
	})
	c.Converse("/test.Echo/Refused", func(context.Context, func(bool)) (carrier.Conversation, error) {
		return nil, status.Error(codes.PermissionDenied, "not you")
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = ln.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = c.Serve(ctx, ln) }()
	s.stop = sync.OnceFunc(func() { stop(); <-ended })
	t.Cleanup(s.stop)
	return s
}

func (s *server) dial(t *testing.T, creds credentials.TransportCredentials, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:"+s.addr, append(opts, grpc.WithTransportCredentials(creds))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func talk(t *testing.T, conn *grpc.ClientConn, method string) grpc.ClientStream {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), bound)
	t.Cleanup(stop)
	st, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func plain() carrier.Config { return carrier.Config{Plain: true} }

// TestMessagesOfEverySize goes back and forth with grpc-go's client, small windows and large ones.
func TestMessagesOfEverySize(t *testing.T) {
	s := start(t, plain(), 1)
	for _, window := range []int32{0, 64 << 10, 1 << 20} {
		var opts []grpc.DialOption
		if window > 0 {
			opts = append(opts, grpc.WithStaticStreamWindowSize(window), grpc.WithStaticConnWindowSize(window))
		}
		st := talk(t, s.dial(t, insecure.NewCredentials(), opts...), echoMethod)
		for _, n := range []int{0, 1, 4, 5, 16<<10 - 8, 16 << 10, 16<<10 + 1, 70_000, 1 << 20, 4<<20 - 100} {
			want := strings.Repeat("x", n)
			if err := st.SendMsg(wrapperspb.String(want)); err != nil {
				t.Fatalf("window %d, message of %d: %v", window, n, err)
			}
			var got wrapperspb.StringValue
			if err := st.RecvMsg(&got); err != nil || got.Value != want {
				t.Fatalf("window %d, message of %d: %d bytes came back, %v", window, n, len(got.Value), err)
			}
		}
		if err := st.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if err := st.RecvMsg(new(wrapperspb.StringValue)); err != io.EOF {
			t.Errorf("a client that has said all is told %v, want the end", err)
		}
	}
}

// TestManyStreamsAtOnce has a hundred conversations on each of several connections, each with messages on
// the way both ways.
func TestManyStreamsAtOnce(t *testing.T) {
	s := start(t, plain(), 3)
	var all sync.WaitGroup
	for range 4 {
		conn := s.dial(t, insecure.NewCredentials())
		for i := range 50 {
			st := talk(t, conn, echoMethod)
			all.Go(func() {
				for k := range 20 {
					want := fmt.Sprint(i, " ", k, strings.Repeat("y", 100*k))
					if err := st.SendMsg(wrapperspb.String(want)); err != nil {
						t.Errorf("send: %v", err)
						return
					}
					for range 3 {
						var got wrapperspb.StringValue
						if err := st.RecvMsg(&got); err != nil || got.Value != want {
							t.Errorf("stream %d: got %.20q, %v; want %.20q", i, got.Value, err, want)
							return
						}
					}
				}
			})
		}
	}
	all.Wait()
}

func TestUnaryCalls(t *testing.T) {
	s := start(t, plain(), 1)
	c := grpc_health_v1.NewHealthClient(s.dial(t, insecure.NewCredentials()))
	ctx, stop := context.WithTimeout(t.Context(), bound)
	defer stop()
	for service, want := range map[string]codes.Code{"": codes.OK, "unknown": codes.NotFound, "panic": codes.Internal, "who": codes.Unauthenticated} {
		r, err := c.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
		if status.Code(err) != want || err == nil && r.Status != grpc_health_v1.HealthCheckResponse_SERVING {
			t.Errorf("service %q: %v, %v; want %v", service, r, err, want)
		}
	}
	short, end := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer end()
	if _, err := c.Check(short, &grpc_health_v1.HealthCheckRequest{Service: "slow"}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a call that takes longer than it may: %v", err)
	}
	if _, err := c.List(ctx, &grpc_health_v1.HealthListRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("an unknown method: %v", err)
	}
}

func TestHowStreamsEnd(t *testing.T) {
	s := start(t, plain(), 1)
	conn := s.dial(t, insecure.NewCredentials())
	recv := func(st grpc.ClientStream) error { return st.RecvMsg(new(wrapperspb.StringValue)) }
	if err := recv(talk(t, conn, "/test.Echo/Refused")); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "not you") {
		t.Errorf("a stream that is not opened: %v", err)
	}
	for word, want := range map[string]codes.Code{"fail": codes.FailedPrecondition, "panic": codes.Internal} {
		st := talk(t, conn, echoMethod)
		e := <-s.talks
		if err := st.SendMsg(wrapperspb.String(word)); err != nil {
			t.Fatal(err)
		}
		err := recv(st)
		if status.Code(err) != want || word == "fail" && status.Convert(err).Message() != "as asked: 50 %\n é" {
			t.Errorf("%s: %v, want %v", word, err, want)
		}
		<-e.closed
	}
	// By the conversation, after what was due.
	st := talk(t, conn, echoMethod)
	e := <-s.talks
	e.mu.Lock()
	e.queue, e.ended, e.end = [][]byte{[]byte("\n\x04last")}, true, status.Error(codes.Unavailable, "over")
	e.mu.Unlock()
	e.wake(false)
	if err := recv(st); err != nil {
		t.Errorf("what was due before the end: %v", err)
	}
	if err := recv(st); status.Code(err) != codes.Unavailable {
		t.Errorf("ended by the server: %v", err)
	}
	<-e.closed
	// By the client's leaving, and by the server's.
	ctx, leave := context.WithCancel(t.Context())
	if _, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, echoMethod); err != nil {
		t.Fatal(err)
	}
	e = <-s.talks
	leave()
	<-e.closed
	st = talk(t, conn, echoMethod)
	e = <-s.talks
	s.stop()
	if err := recv(st); err == nil {
		t.Error("a stream outlives its server")
	}
	<-e.closed
}

// TestASlowClientDelaysNobody: one takes nothing, though megabytes are due to it; another goes on, and waking the slow
// one's stream never waits.
func TestASlowClientDelaysNobody(t *testing.T) {
	s := start(t, plain(), 200)
	slow := talk(t, s.dial(t, insecure.NewCredentials()), echoMethod)
	for range 20 {
		if err := slow.SendMsg(wrapperspb.String(strings.Repeat("z", 10_000))); err != nil {
			t.Fatal(err)
		}
	}
	e := <-s.talks
	quick := talk(t, s.dial(t, insecure.NewCredentials()), echoMethod)
	if err := quick.SendMsg(wrapperspb.String("a")); err != nil {
		t.Fatal(err)
	}
	for range 200 {
		e.wake(false)
		if err := quick.RecvMsg(new(wrapperspb.StringValue)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWhoWakesHereNeverWaits: a client reads nothing, and whoever has words for it sends them from his own goroutine until the socket is full, and
// goes on. None is lost, and none comes before another, when the client reads again.
func TestWhoWakesHereNeverWaits(t *testing.T) {
	const messages, size = 2000, 8 << 10 // more than sockets hold
	s := start(t, plain(), 1)
	f := s.foreign(t)
	_ = f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
	_ = f.WriteWindowUpdate(0, 1<<31-1-65535)
	f.head(1, ":method", "POST", ":path", echoMethod, ":scheme", "http", ":authority", "x", "content-type", "application/grpc")
	_ = f.WriteData(1, false, []byte{0, 0, 0, 0, 1, 'x'}) // whose echo says that the windows have come
	e := <-s.talks
	read := func(n int) (got []byte) {
		if f.until(func(fr http2.Frame) bool {
			if d, ok := fr.(*http2.DataFrame); ok {
				got = append(got, d.Data()...)
			}
			return len(got) >= n
		}) == nil {
			t.Fatalf("the connection ended after %d bytes", len(got))
		}
		return got
	}
	read(6)
	var want []byte
	for i := range messages {
		m := binary.BigEndian.AppendUint32(nil, uint32(i))
		m = append(m, make([]byte, size)...)
		want = append(binary.BigEndian.AppendUint32(append(want, 0), uint32(len(m))), m...)
		e.say(m)
		e.wake(true)
	}
	if !bytes.Equal(read(len(want)), want) {
		t.Error("what arrives is not what was said")
	}
}

// TestTLS is what a control plane uses: h2 by ALPN, the peer's certificate in the call's context, and no word to whom
// asks for another protocol.
func TestTLS(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"x"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, carrier.Config{TLS: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: []string{"h2"}}}, 1)
	c := grpc_health_v1.NewHealthClient(s.dial(t, credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})))
	ctx, stop := context.WithTimeout(t.Context(), bound)
	defer stop()
	if _, err := c.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "who"}); err != nil {
		t.Errorf("who: %v", err)
	}
	conn, err := tls.Dial("tcp", s.addr, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(bound))
	if n, err := conn.Read(make([]byte, 1)); n > 0 || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a client without ALPN reads %d, %v; want the end", n, err)
	}
}

// foreign is a client of frames.
type foreign struct {
	net.Conn
	*http2.Framer
	t *testing.T
}

func (s *server) foreign(t *testing.T) *foreign {
	t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(bound))
	f := &foreign{conn, http2.NewFramer(conn, conn), t}
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_, _ = io.WriteString(conn, http2.ClientPreface)
	_ = f.WriteSettings()
	return f
}

func (f *foreign) head(stream uint32, fields ...string) {
	f.t.Helper()
	var b strings.Builder
	e := hpack.NewEncoder(&b)
	for i := 0; i < len(fields); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: []byte(b.String()), EndHeaders: true})
}

// until reads frames until one fits; nil if the connection ended before.
func (f *foreign) until(fits func(http2.Frame) bool) http2.Frame {
	for {
		fr, err := f.ReadFrame()
		if err != nil {
			return nil
		}
		if fits(fr) {
			return fr
		}
	}
}

func goAway(f http2.Frame) bool { _, ok := f.(*http2.GoAwayFrame); return ok }

// TestFloodsAreEnded: a client that sends what carries nothing, or does not take the answers to it, is told
// ENHANCE_YOUR_CALM or nothing, and gone.
func TestFloodsAreEnded(t *testing.T) {
	s := start(t, plain(), 1)
	for name, flood := range map[string]func(*foreign, uint32) error{
		"PING":       func(f *foreign, _ uint32) error { return f.WritePing(false, [8]byte{}) },
		"SETTINGS":   func(f *foreign, _ uint32) error { return f.WriteSettings() },
		"PRIORITY":   func(f *foreign, i uint32) error { return f.WritePriority(2*i+1, http2.PriorityParam{}) },
		"empty DATA": func(f *foreign, _ uint32) error { return f.WriteData(1, false, nil) },
		"rapid resets": func(f *foreign, i uint32) error {
			f.head(2*i+3, ":method", "POST", ":path", echoMethod, ":scheme", "http", ":authority", "x", "content-type", "application/grpc")
			return f.WriteRSTStream(2*i+3, http2.ErrCodeCancel)
		},
	} {
		f := s.foreign(t)
		f.head(1, ":method", "POST", ":path", echoMethod, ":scheme", "http", ":authority", "x", "content-type", "application/grpc")
		sent := make(chan int, 1)
		go func() {
			n := 0
			for n < 100_000 && flood(f, uint32(n)) == nil {
				n++
			}
			sent <- n
		}()
		away := f.until(goAway)
		f.Close()
		if n := <-sent; n == 100_000 {
			t.Errorf("%s: %d were taken", name, n)
		}
		if away != nil && away.(*http2.GoAwayFrame).ErrCode != http2.ErrCodeEnhanceYourCalm {
			t.Errorf("%s: %v", name, away)
		}
	}
}

// TestHostileFrames: each ends its stream or its connection, with the status or code given, and the server serves on.
func TestHostileFrames(t *testing.T) {
	s := start(t, carrier.Config{Plain: true, MessageMax: 1000}, 1)
	call := []string{":method", "POST", ":path", echoMethod, ":scheme", "http", ":authority", "x", "content-type", "application/grpc"}
	message := func(flag byte, length uint32) []byte { return binary.BigEndian.AppendUint32([]byte{flag}, length) }
	for name, c := range map[string]struct {
		send   func(*foreign)
		status string // of the trailers
	}{
		"a GET":                       {func(f *foreign) { f.head(1, append([]string{":method", "GET"}, call[2:]...)...) }, "12"},
		"another type of content":     {func(f *foreign) { f.head(1, append(call[:8:8], "content-type", "text/plain")...) }, "13"},
		"an encoding":                 {func(f *foreign) { f.head(1, append(call[:10:10], "grpc-encoding", "gzip")...) }, "12"},
		"an unknown method":           {func(f *foreign) { f.head(1, append([]string{":method", "POST", ":path", "/x"}, call[4:]...)...) }, "12"},
		"a compressed message":        {func(f *foreign) { f.head(1, call...); _ = f.WriteData(1, false, message(1, 0)) }, "12"},
		"a message that is too large": {func(f *foreign) { f.head(1, call...); _ = f.WriteData(1, false, message(0, 1001)) }, "8"},
		"a head that is too large": {func(f *foreign) {
			f.head(1, append(call[:10:10], "x", strings.Repeat("a", 15<<10), "y", strings.Repeat("b", 1000))...)
		}, "8"},
		"an even stream":               {func(f *foreign) { f.head(2, call...) }, ""},
		"a stream that goes back":      {func(f *foreign) { f.head(3, call...); f.head(1, call...) }, ""},
		"DATA of a stream that is not": {func(f *foreign) { _ = f.WriteData(5, false, []byte("x")) }, ""},
		"a window beyond 2^31": {func(f *foreign) {
			_ = f.WriteWindowUpdate(0, 1<<31-1)
			_ = f.WriteWindowUpdate(0, 1<<31-1)
		}, ""},
		"CONTINUATION without a head": {func(f *foreign) { _ = f.WriteContinuation(1, true, nil) }, ""},
	} {
		f := s.foreign(t)
		c.send(f)
		got := f.until(func(fr http2.Frame) bool {
			h, ok := fr.(*http2.MetaHeadersFrame)
			return ok && h.StreamEnded() || goAway(fr)
		})
		if h, ok := got.(*http2.MetaHeadersFrame); ok != (c.status != "") {
			t.Errorf("%s: answered by %v", name, got)
		} else if ok {
			for _, field := range h.Fields {
				if field.Name == "grpc-status" && field.Value != c.status {
					t.Errorf("%s: status %s, want %s", name, field.Value, c.status)
				}
			}
		}
		f.Close()
	}
	conn := s.dial(t, insecure.NewCredentials())
	if _, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Errorf("the server serves no more: %v", err)
	}
}

// TestAClientThatIsGoneIsFound: one that answers no PING is left.
func TestAClientThatIsGoneIsFound(t *testing.T) {
	s := start(t, carrier.Config{Plain: true, PingAfter: 50 * time.Millisecond, Patience: 50 * time.Millisecond}, 1)
	f := s.foreign(t)
	f.head(1, ":method", "POST", ":path", echoMethod, ":scheme", "http", ":authority", "x", "content-type", "application/grpc")
	e := <-s.talks
	if ping := f.until(func(fr http2.Frame) bool { _, ok := fr.(*http2.PingFrame); return ok }); ping == nil {
		t.Error("it was not asked")
	}
	<-e.closed
}

// TestConnectionsAreBounded: one more than may be is closed.
func TestConnectionsAreBounded(t *testing.T) {
	s := start(t, carrier.Config{Plain: true, MaxConns: 1}, 1)
	first := talk(t, s.dial(t, insecure.NewCredentials()), echoMethod)
	<-s.talks
	f := s.foreign(t)
	if fr := f.until(func(http2.Frame) bool { return false }); fr != nil {
		t.Errorf("a second connection is served: %v", fr)
	}
	if err := first.SendMsg(wrapperspb.String("a")); err != nil {
		t.Fatal(err)
	}
	if err := first.RecvMsg(new(wrapperspb.StringValue)); err != nil {
		t.Errorf("the first: %v", err)
	}
}

// TestAClosedListenerEndsAll: the end of a context may close the listener before it reaches whoever else waits for it, and Serve ends its
// connections all the same.
func TestAClosedListenerEndsAll(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := carrier.New(plain())
	open := make(chan struct{}, 1)
	s.Converse(echoMethod, func(_ context.Context, wake func(bool)) (carrier.Conversation, error) {
		open <- struct{}{}
		return &echo{wake: wake, times: 1, closed: make(chan struct{})}, nil
	})
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, ln) }()
	conn := (&server{addr: ln.Addr().String()}).dial(t, insecure.NewCredentials())
	talk(t, conn, echoMethod)
	<-open
	ln.Close()
	select {
	case err := <-ended:
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(bound):
		stop()
		conn.Close() // or the test's end waits as well
		t.Fatal("it waits for a connection that nobody closes")
	}
}
