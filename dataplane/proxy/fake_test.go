package proxy_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/mesh"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// gate is a deadline that wakes who waits.
type gate struct {
	mu    sync.Mutex
	sets  int
	timer *time.Timer
	past  chan struct{}
}

func (g *gate) set(t time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sets++
	if g.timer != nil {
		g.timer.Stop()
	}
	past := make(chan struct{})
	if g.past != nil {
		select {
		case <-g.past:
		default:
			past = g.past // those who wait go on waiting on it
		}
	}
	g.past, g.timer = past, nil
	if t.IsZero() {
		return
	}
	if d := time.Until(t); d > 0 {
		n := g.sets
		g.timer = time.AfterFunc(d, func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			if g.sets == n { // one that had fired when it was set anew is no deadline any more
				closeOnce(past)
			}
		})
	} else {
		closeOnce(past)
	}
}

func (g *gate) wait() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.past == nil {
		g.past = make(chan struct{})
	}
	return g.past
}

func (g *gate) stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.timer != nil {
		g.timer.Stop()
	}
}

func closeOnce(c chan struct{}) {
	defer func() { _ = recover() }()
	close(c)
}

// exchange is a client in memory.
type exchange struct {
	gate
	head     message.Head
	body     io.Reader
	more     chan []byte // nil: body only; closed: broken off
	left     []byte      // of the last of more
	asked    int         // the size of the last Read that waited
	trailers []message.Field

	onBreak func()
	status  int
	fields  []message.Field
	out     bytes.Buffer
	after   []message.Field
	interim []int
	ends    int
	aborted error
}

func get(host, path string) *exchange {
	e := &exchange{body: bytes.NewReader(nil)}
	e.head.Reset()
	e.head.Method, e.head.Scheme = []byte("GET"), []byte("http")
	e.head.Authority, e.head.Path = []byte(host), []byte(path)
	return e
}

func post(host, path, body string) *exchange {
	e := get(host, path)
	e.head.Method, e.head.Length, e.body = []byte("POST"), int64(len(body)), bytes.NewReader([]byte(body))
	return e
}

func (e *exchange) with(name, value string) *exchange { e.head.Add(name, value); return e }

func (e *exchange) Request() *message.Head    { return &e.head }
func (e *exchange) Trailers() []message.Field { return e.trailers }
func (e *exchange) SetDeadline(t time.Time)   { e.set(t) }

func (e *exchange) Read(p []byte) (int, error) {
	n, err := e.body.Read(p)
	if n > 0 || e.more == nil {
		return n, err
	}
	if len(e.left) > 0 {
		n := copy(p, e.left)
		e.left = e.left[n:]
		return n, nil
	}
	e.asked = len(p)
	select {
	case b, ok := <-e.more:
		if !ok {
			return 0, io.ErrUnexpectedEOF
		}
		if b == nil {
			return 0, io.EOF
		}
		n := copy(p, b)
		e.left = b[n:]
		return n, nil
	case <-e.wait():
		return 0, os.ErrDeadlineExceeded
	}
}

func (e *exchange) expired() bool {
	select {
	case <-e.wait():
		return true
	default:
		return false
	}
}

func (e *exchange) Respond(h *message.Head, end bool) error {
	if e.expired() {
		return os.ErrDeadlineExceeded
	}
	if h.Status < 200 && h.Status != 101 {
		e.interim = append(e.interim, h.Status)
		return nil
	}
	if e.status != 0 {
		return errors.New("a second response")
	}
	e.status = h.Status
	var keep message.Head
	keep.CopyFrom(h)
	e.fields = keep.Fields
	if end {
		e.ends++
	}
	return nil
}

func (e *exchange) Write(p []byte) (int, error) {
	if e.expired() {
		return 0, os.ErrDeadlineExceeded
	}
	return e.out.Write(p)
}

func (e *exchange) Finish(t []message.Field) error { e.ends++; e.after = t; return nil }
func (e *exchange) Abort(err error)                { e.ends++; e.aborted = err }

func (e *exchange) field(name string) string {
	for _, f := range e.fields {
		if string(f.Name) == name {
			return string(f.Value)
		}
	}
	return ""
}

// breaking is an exchange that tells when its client left, as http2's.
type breaking struct{ *exchange }

func (b breaking) OnBreak(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.onBreak = f
}

// leave is the engine's word that the client is gone.
func (b breaking) leave() {
	b.mu.Lock()
	f := b.onBreak
	b.mu.Unlock()
	if f != nil {
		f()
	}
}

// stream is a server in memory.
type stream struct {
	gate
	// sendErr, receiveErr and readErr fail the step; silent never answers.
	sendErr, receiveErr, readErr error
	silent                       bool
	unheard                      bool          // silent, and nothing else comes either
	delay                        time.Duration // before the answer
	interim                      []int
	status                       int
	fields                       []message.Field
	body                         string
	waitBody                     bool // answers after the request's body
	stuck                        bool // takes nothing of a body

	sent     message.Head
	in       bytes.Buffer
	trailers []message.Field
	after    []message.Field
	bodyEnd  chan struct{}
	read     int
	closed   int
}

func answer(status int, body string) *stream {
	return &stream{status: status, body: body, bodyEnd: make(chan struct{})}
}

func (s *stream) Send(h *message.Head, end bool) error {
	s.sent.CopyFrom(h)
	if end && s.bodyEnd != nil {
		closeOnce(s.bodyEnd)
	}
	return s.sendErr
}

func (s *stream) Write(p []byte) (int, error) {
	if s.stuck {
		<-s.wait()
		return 0, os.ErrDeadlineExceeded
	}
	return s.in.Write(p)
}

func (s *stream) CloseWrite(t []message.Field) error {
	s.trailers = t
	closeOnce(s.bodyEnd)
	return nil
}

func (s *stream) Receive(h *message.Head) (bool, error) {
	h.Reset()
	if len(s.interim) > 0 {
		h.Status, s.interim = s.interim[0], s.interim[1:]
		return false, nil
	}
	if s.receiveErr != nil {
		return false, s.receiveErr
	}
	if s.silent {
		<-s.wait()
		if s.unheard {
			return false, fmt.Errorf("%w: %w", os.ErrDeadlineExceeded, message.ErrUnheard)
		}
		return false, os.ErrDeadlineExceeded
	}
	if s.delay > 0 {
		<-time.After(s.delay)
	}
	if s.waitBody {
		select {
		case <-s.bodyEnd:
		case <-s.wait():
			return false, os.ErrDeadlineExceeded
		}
	}
	h.Status, h.Length = s.status, int64(len(s.body))
	for _, f := range s.fields {
		h.Add(string(f.Name), string(f.Value))
	}
	return s.body == "" && s.readErr == nil, nil
}

func (s *stream) Read(p []byte) (int, error) {
	if s.read < len(s.body) {
		n := copy(p, s.body[s.read:])
		s.read += n
		return n, nil
	}
	if s.readErr != nil {
		return 0, s.readErr
	}
	return 0, io.EOF
}

func (s *stream) Trailers() []message.Field { return s.after }
func (s *stream) SetDeadline(t time.Time)   { s.set(t) }
func (s *stream) Close()                    { s.closed++; s.stop() }

func (s *stream) says(name, value string) *stream {
	s.fields = append(s.fields, message.Field{Name: []byte(name), Value: []byte(value)})
	return s
}

// world is a proxy with one service "shop/catalog" and what its endpoints do.
type world struct {
	state  *proxy.State
	proxy  *proxy.Proxy
	cfg    proxy.Config
	script []any // *stream or error, in order of tries
	opened []proxy.Destination
	last   proxy.Record
	lines  []string // method, host, path and reason of each request that ended
	panics int
}

var catalog = mesh.ServiceName{Namespace: "shop", Name: "catalog"}

func newWorld(t testing.TB, endpoints int, change func(*ir.Service, *ir.Endpoints)) *world {
	t.Helper()
	svc := &ir.Service{Name: catalog, Ports: []ir.Port{{Port: 80, Protocol: mesh.ProtocolHTTP}, {Port: 5432, Protocol: mesh.ProtocolTCP}},
		Traffic: ir.Traffic{Strategy: mesh.StrategyAuto, ConnectTimeout: time.Second, RequestTimeout: 15 * time.Second, Retry: mesh.RetryPolicy{Attempts: 2}, Outlier: mesh.Outlier{ConsecutiveFailures: 3}}}
	eps := &ir.Endpoints{Service: catalog, Groups: []ir.Group{{Cluster: "eu-west", Exported: true}}}
	for i := range endpoints {
		eps.Groups[0].Endpoints = append(eps.Groups[0].Endpoints, ir.Endpoint{Tag: fmt.Sprint("e", i),
			Proxy: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, 0, byte(i)}), 15008)})
	}
	if change != nil {
		change(svc, eps)
	}
	clusters := map[mesh.ClusterName]*ir.Cluster{"eu-west": {Name: "eu-west"}, "us-east": {Name: "us-east", RTT: 80 * time.Millisecond},
		"ap-south": {Name: "ap-south", RTT: 120 * time.Millisecond}, "silent": {Name: "silent", StaleSinceMillis: 1}}
	view := balance.NewView(balance.Config{Endpoints: eps, Clusters: func(c mesh.ClusterName) *ir.Cluster { return clusters[c] }, Cluster: "eu-west",
		Staleness: svc.Traffic.Staleness, Balancing: svc.Traffic.Balancing, Outlier: svc.Traffic.Outlier, Sessions: true})
	s, err := proxy.NewService(svc, view, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{state: &proxy.State{Ready: true, Self: &ir.Proxy{}, Names: map[mesh.ServiceName]*ir.Name{catalog: {Service: catalog}},
		Services: map[mesh.ServiceName]*proxy.Service{catalog: s}, Clusters: clusters}}
	var seq atomic.Uint64
	w.cfg = proxy.Config{
		State: func() *proxy.State { return w.state },
		Demand: func(mesh.ServiceName, int64) (*proxy.State, error) {
			return nil, os.ErrDeadlineExceeded
		},
		Open: func(_ time.Time, d *proxy.Destination) (message.Stream, error) {
			w.opened = append(w.opened, *d)
			return w.next()
		},
		App:       func(string, mesh.Protocol) (message.Stream, error) { return w.next() },
		Namespace: "shop", Now: time.Now, Rand: func() uint64 { return seq.Add(0x9E3779B97F4A7C15) },
		Done: func(r *proxy.Record) {
			w.last = *r
			w.lines = append(w.lines, fmt.Sprintf("%s %s%s %d %s", r.Method, r.Host, r.Path, r.Status, r.Reason))
		},
		Panicked: func(any, []byte) { w.panics++ },
	}
	w.proxy = proxy.New(w.cfg)
	return w
}

func (w *world) next() (message.Stream, error) {
	if len(w.script) == 0 {
		return nil, errors.New("the script has ended")
	}
	step := w.script[0]
	w.script = w.script[1:]
	if err, ok := step.(error); ok {
		return nil, err
	}
	return step.(message.Stream), nil
}

var (
	errRefused = fmt.Errorf("dial: connection refused: %w", message.ErrNotExecuted)
	errBroken  = fmt.Errorf("stream: %w", io.ErrUnexpectedEOF)
	errStale   = fmt.Errorf("stream: %w: %w", message.ErrStale, io.ErrUnexpectedEOF)
)
