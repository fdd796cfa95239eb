package healthcheck

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/application"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/mesh"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// dial is what a proxy without an address of its own does.
func dial(ctx context.Context, place string, p mesh.Protocol) (net.Conn, error) {
	return application.New(application.Config{}).Dial(ctx, place, p)
}

func listenTest(t *testing.T) (net.Listener, string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln, ln.Addr().String()
}

// judge asks once and holds the answer against want: empty is well, else part of the error.
func judge(t *testing.T, q question, want string) {
	t.Helper()
	if q.Timeout == 0 {
		q.Timeout = 10 * time.Second
	}
	err := q.ask(t.Context(), dial)
	switch {
	case want == "" && err != nil:
		t.Errorf("%s: want well", err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), q.String()+": ")):
		t.Errorf("%v: want %q", err, want)
	}
}

func TestQuestionsOfHTTP(t *testing.T) {
	ln, at := listenTest(t)
	release := make(chan struct{})
	both := new(http.Protocols)
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true)
	srv := &http.Server{Protocols: both, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/never":
			select {
			case <-release:
			case <-r.Context().Done():
			}
		case r.URL.Path == "/host" && r.Host != "shop.example", r.URL.Path == "/address" && r.Host != at,
			r.URL.Path == "/two" && r.ProtoMajor != 2, r.URL.Path == "/one" && r.ProtoMajor != 1, r.Method != "GET":
			w.WriteHeader(503)
		case r.URL.Path == "/early":
			w.WriteHeader(103)
			w.WriteHeader(200)
		case r.URL.Path == "/moved":
			w.WriteHeader(302)
		case r.URL.Path == "/endless": // the status is the answer, whatever follows it
			_, _ = io.Copy(w, iotest.DataErrReader(io.LimitReader(zeros{}, 1<<20)))
		case r.URL.Path == "/ill":
			w.WriteHeader(503)
			_, _ = io.WriteString(w, "the database is away")
		}
	})}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { close(release); srv.Close() })
	only204 := []mesh.StatusRange{{First: 204, Last: 204}, {First: 500, Last: 599}}
	for _, c := range []struct {
		check mesh.HealthCheck
		http2 bool
		want  string
	}{
		{mesh.HealthCheck{}, false, ""},
		{mesh.HealthCheck{Path: "/one?deep=1"}, false, ""},
		{mesh.HealthCheck{Path: "/two"}, true, ""},
		{mesh.HealthCheck{Path: "/two"}, false, "status 503"},
		{mesh.HealthCheck{Path: "/host", Host: "shop.example"}, false, ""},
		{mesh.HealthCheck{Path: "/host", Host: "shop.example"}, true, ""},
		{mesh.HealthCheck{Path: "/address"}, false, ""},
		{mesh.HealthCheck{Path: "/early"}, false, ""},
		{mesh.HealthCheck{Path: "/moved"}, false, ""},
		{mesh.HealthCheck{Path: "/endless"}, false, ""},
		{mesh.HealthCheck{Path: "/ill"}, false, "status 503: want 200-399"},
		{mesh.HealthCheck{Path: "/ill"}, true, "status 503: want 200-399"},
		{mesh.HealthCheck{Path: "/ill", Statuses: only204}, false, ""},
		{mesh.HealthCheck{Path: "/", Statuses: only204}, false, "status 200: want 204, 500-599"},
		{mesh.HealthCheck{Path: "/never", Timeout: 50 * time.Millisecond}, false, "no answer within 50ms"},
		{mesh.HealthCheck{Path: "/never", Timeout: 50 * time.Millisecond}, true, "no answer within 50ms"},
	} {
		c.check.Kind = mesh.HealthHTTP
		judge(t, question{c.check, at, at, c.http2}, c.want)
	}
	srv.Close()
	judge(t, question{mesh.HealthCheck{Kind: mesh.HealthHTTP}, at, at, false}, "connection refused")
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestQuestionsOfGRPC(t *testing.T) {
	ln, at := listenTest(t)
	srv, state := grpc.NewServer(), health.NewServer()
	grpc_health_v1.RegisterHealthServer(srv, state)
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(srv.Stop)
	state.SetServingStatus("shop.Catalog", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	ask := func(service, want string) {
		t.Helper()
		judge(t, question{mesh.HealthCheck{Kind: mesh.HealthGRPC, Service: service}, at, at, true}, want)
	}
	ask("", "")
	ask("shop.Catalog", "it says NOT_SERVING")
	state.SetServingStatus("shop.Catalog", grpc_health_v1.HealthCheckResponse_SERVING)
	ask("shop.Catalog", "")
	ask("shop.Nobody", `grpc-status "5": unknown service`)
	state.Shutdown()
	ask("", "it says NOT_SERVING")

	bare, without := listenTest(t)
	other := grpc.NewServer(grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return status.Error(codes.Unavailable, "warming up") }))
	go func() { _ = other.Serve(bare) }()
	t.Cleanup(other.Stop)
	judge(t, question{mesh.HealthCheck{Kind: mesh.HealthGRPC}, without, without, true}, `grpc-status "14": warming up`)

	plain, web := listenTest(t)
	h2 := new(http.Protocols)
	h2.SetUnencryptedHTTP2(true)
	page := &http.Server{Protocols: h2, Handler: http.NotFoundHandler()}
	go func() { _ = page.Serve(plain) }()
	t.Cleanup(func() { page.Close() })
	judge(t, question{mesh.HealthCheck{Kind: mesh.HealthGRPC}, web, web, true}, "the port does not speak gRPC")
}

// TestAnswersOfGRPC: what no server of good faith sends is an error and not health.
func TestAnswersOfGRPC(t *testing.T) {
	good := []message.Field{{Name: []byte("grpc-status"), Value: []byte("0")}}
	for _, c := range []struct {
		name, body string
		trailers   []message.Field
		well       bool
	}{
		{"serving", "\x00\x00\x00\x00\x02\x08\x01", good, true},
		{"fields of a later version", "\x00\x00\x00\x00\x06\x12\x02hi\x08\x01", good, true},
		{"the last of two holds", "\x00\x00\x00\x00\x04\x08\x01\x08\x02", good, false},
		{"unknown", "\x00\x00\x00\x00\x00", good, false},
		{"a status of a later version", "\x00\x00\x00\x00\x02\x08\x09", good, false},
		{"no status of gRPC", "\x00\x00\x00\x00\x02\x08\x01", nil, false},
		{"no message", "", good, false},
		{"compressed", "\x01\x00\x00\x00\x02\x08\x01", good, false},
		{"short", "\x00\x00\x00\x00\x03\x08\x01", good, false},
		{"two messages", "\x00\x00\x00\x00\x02\x08\x01\x00\x00\x00\x00\x02\x08\x01", good, false},
		{"a number without an end", "\x00\x00\x00\x00\x02\x08\x81", good, false},
		{"text in the number's place", "\x00\x00\x00\x00\x03\x0a\x01\x01", good, false},
		{"a tag without an end", "\x00\x00\x00\x00\x01\xff", good, false},
	} {
		if err := grpcAnswer([]byte(c.body), c.trailers); (err == nil) != c.well {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestQuestionsOfTCP(t *testing.T) {
	ln, at := listenTest(t)
	tcp := question{mesh.HealthCheck{Kind: mesh.HealthTCP}, at, at, false}
	judge(t, tcp, "")
	ln.Close()
	judge(t, tcp, "connection refused")
}

func TestWhereAQuestionIsAsked(t *testing.T) {
	at := netip.MustParseAddrPort
	ports := []ir.InboundPort{{Port: 79}, {Port: 80, Target: at("127.0.0.5:8080"), Protocol: mesh.ProtocolHTTP},
		{Port: 81, Target: at("127.0.0.5:8081"), Protocol: mesh.ProtocolGRPC}}
	for _, c := range []struct {
		check *mesh.HealthCheck
		want  string // empty: nobody asks
	}{
		{nil, ""},
		{&mesh.HealthCheck{Kind: "of a later version"}, ""},
		{&mesh.HealthCheck{Kind: mesh.HealthTCP}, "a connection to 127.0.0.5:8080 false 5s 1s 2 3"},
		{&mesh.HealthCheck{Kind: mesh.HealthHTTP, Port: 8081, Path: "/x"}, "GET /x at 127.0.0.5:8081 true 5s 1s 2 3"},
		{&mesh.HealthCheck{Kind: mesh.HealthHTTP, Port: 9000, Interval: time.Millisecond}, "GET / at 127.0.0.5:9000 false 1ms 1ms 2 3"},
		{&mesh.HealthCheck{Kind: mesh.HealthGRPC, Service: "a", Timeout: 1, Healthy: 4, Unhealthy: 5},
			`grpc.health.v1.Health/Check of "a" at 127.0.0.5:8080 true 5s 1ns 4 5`},
	} {
		in, err := proxy.NewInbound(&ir.Inbound{}, nil, &ir.Traffic{Health: c.check}, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if q, asks := questionOf(in, ports); asks {
			got = fmt.Sprint(q.String(), " ", q.http2, " ", q.Interval, " ", q.Timeout, " ", q.Healthy, " ", q.Unhealthy)
		}
		if got != c.want {
			t.Errorf("%+v: %q, want %q", c.check, got, c.want)
		}
		if _, asks := questionOf(in, ports[:1]); asks {
			t.Errorf("%+v is asked where nothing listens", c.check)
		}
	}
}

// TestQuestionsEndWithTheirAsker: a check that ends does not wait for an application that says nothing.
func TestQuestionsEndWithTheirAsker(t *testing.T) {
	for _, kind := range []mesh.HealthKind{mesh.HealthHTTP, mesh.HealthGRPC} {
		ln, at := listenTest(t)
		ctx, stop := context.WithCancel(t.Context())
		go func() {
			if c, err := ln.Accept(); err == nil {
				defer c.Close()
				_, _ = c.Read(make([]byte, 1))
				stop()
				_, _ = io.Copy(io.Discard, c)
			}
		}()
		q := question{mesh.HealthCheck{Kind: kind, Timeout: time.Hour}, at, at, kind == mesh.HealthGRPC}
		if err := q.ask(ctx, dial); err == nil {
			t.Errorf("%s: an answer that nobody gave", kind)
		}
	}
}
