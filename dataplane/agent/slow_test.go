package agent_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/agent"
	"github.com/isthmus-mesh/isthmus/dataplane/http1"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/internal/loopback"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// slowWorld is a client's sidecar and two of servers in this process, between slow clients and an
// application whose answers to /big nobody could hold.
type slowWorld struct {
	t       *testing.T
	client  *member
	patient time.Duration // what the bounds say; zero: there are none
	asked   atomic.Int64  // requests for /big and /sink that have reached the application
	ended   atomic.Int64  // those that the client's sidecar has done with
}

// bigBody is the length of an answer to /big, in bytes: more than all on its way can hold.
const bigBody = 64 << 20

func newSlowWorld(t *testing.T, patient time.Duration) *slowWorld {
	s := &slowWorld{t: t, patient: patient}
	target := serveBoth(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/sink":
			s.asked.Add(1)
			_, _ = io.Copy(io.Discard, r.Body)
		case "/big":
			s.asked.Add(1)
			w.Header().Set("content-length", fmt.Sprint(bigBody))
			piece := make([]byte, 4<<10)
			for range bigBody / len(piece) {
				if _, err := w.Write(piece); err != nil {
					return
				}
			}
		default:
			fmt.Fprint(w, "hello")
		}
	}))
	w := newWorld(t)
	server, e := w.serverOf("eu-west", "catalog-0", catalog, target)
	second, e2 := w.serverOf("eu-west", "catalog-1", catalog, target)
	w.service(catalog, []ir.Group{{Cluster: "eu-west", Exported: true, Identities: w.identity("eu-west", catalog), Endpoints: []ir.Endpoint{e, e2}}}, nil)
	bounds := func(c *http1.Config) { c.ReadHeaderTimeout, c.ReadRateMin = -1, 0 }
	traffic := ir.Traffic{Strategy: mesh.StrategyAuto, ConnectTimeout: 10 * time.Second, Retry: mesh.RetryPolicy{Attempts: 3, BudgetPercent: 100, BudgetBurst: 100},
		RequestTimeout: time.Hour} // no request is ended by that, however long the machine takes
	if patient > 0 {
		bounds = func(c *http1.Config) { c.ReadHeaderTimeout, c.RateGrace = patient, patient }
		traffic.IdleTimeout = patient
	}
	w.script.set(catalog.String(), &ir.Service{Name: catalog, Ports: []ir.Port{{Port: 80, Protocol: mesh.ProtocolHTTP}}, Traffic: traffic})
	w.script.set("shop/frontend", &ir.Proxy{ID: "shop/frontend"})
	o := agent.Options{Done: func(r *proxy.Record) {
		if p := string(r.Path); !r.Inbound && (p == "/big" || p == "/sink") {
			s.ended.Add(1)
		}
	}}
	s.client = w.startWith("eu-west", "shop/frontend", "frontend", o.WithBounds(bounds), func(cfg *agent.Config) { cfg.Outbound = loopback.AddrPort(t) })
	server.waitReady(t)
	second.waitReady(t)
	s.client.waitReady(t)
	return s
}

// slowClients are connections that one goroutine keeps busy: others would be counted as the proxy's.
type slowClients struct {
	conns []net.Conn
	drip  string // what each sends a byte of, every now and then
}

// open makes n connections that begin with text.
func (s *slowWorld) open(n int, text, drip string) *slowClients {
	s.t.Helper()
	c := &slowClients{drip: drip}
	s.t.Cleanup(func() {
		for _, nc := range c.conns {
			nc.Close()
		}
	})
	for range n {
		nc, err := net.Dial("tcp", s.client.cfg.Outbound.String())
		if err != nil {
			s.t.Fatal(err)
		}
		_ = nc.(*net.TCPConn).SetReadBuffer(4 << 10)
		c.conns = append(c.conns, nc)
		if _, err := io.WriteString(nc, text); err != nil {
			s.t.Fatal(err)
		}
	}
	return c
}

// dribble sends a byte on each connection every half a second, until stop is closed.
func dribble(stop <-chan struct{}, all ...*slowClients) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		for _, c := range all {
			for _, nc := range c.conns {
				_, _ = io.WriteString(nc, c.drip[i%len(c.drip):][:1]) // one that was ended says so when it is read
			}
		}
	}
}

// alive counts the connections that the proxy has not ended by a time.
func (c *slowClients) alive(by time.Time) (n int) {
	for _, nc := range c.conns {
		_ = nc.SetReadDeadline(by)
		if _, err := io.Copy(io.Discard, nc); os.IsTimeout(err) {
			n++
		}
	}
	return n
}

// stuckHTTP2 is a connection of HTTP/2 that asks for so many large answers and takes none.
func (s *slowWorld) stuckHTTP2(streams int) net.Conn {
	s.t.Helper()
	nc := s.open(1, http2.ClientPreface, "").conns[0]
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	fr := http2.NewFramer(nc, nc)
	err := fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	for i := range uint32(streams) {
		block.Reset()
		for _, f := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "catalog.shop"}, {":path", "/big"}} {
			_ = enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
		}
		if err == nil {
			err = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
		}
	}
	if err == nil { // who does not acknowledge is ended after 10 s, which is not what is to be seen here
		err = fr.WriteSettingsAck()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return nc
}

// honest asks until stop is closed and returns how long each request took and how many failed.
func (s *slowWorld) honest(c *http.Client, stop <-chan struct{}) (took []time.Duration, failed []string) {
	for {
		select {
		case <-stop:
			slices.Sort(took)
			return took, failed
		case <-time.After(5 * time.Millisecond):
		}
		begin := time.Now()
		r, err := c.Get("http://catalog.shop/hello")
		if err == nil {
			var body []byte
			if body, err = io.ReadAll(r.Body); err == nil && r.StatusCode != 200 {
				err = fmt.Errorf("%d %s", r.StatusCode, body)
			}
			r.Body.Close()
		}
		if err != nil {
			failed = append(failed, err.Error())
		}
		took = append(took, time.Since(begin))
	}
}

// inUse is memory of this process in bytes: heap that is live, and stacks.
func inUse() int64 {
	runtime.GC()
	runtime.GC() // the first leaves what pools hold
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// grown is how much memory of the sidecars and the application each of n clients costs, once they
// have asked for what they take.
func (s *slowWorld) grown(n int, f func()) int64 {
	s.t.Helper()
	before := inUse()
	f()
	least := inUse()
	for range 8 { // what is on its way between the sidecars comes to rest, long before the bounds end anybody
		<-time.After(100 * time.Millisecond)
		least = min(least, inUse())
	}
	return (least - before) / int64(n)
}

const (
	absolute  = "http://catalog.shop"
	slowHead  = "GET " + absolute + "/hello HTTP/1.1\r\nHost: catalog.shop\r\nX-Slow: "
	slowBody  = "POST " + absolute + "/sink HTTP/1.1\r\nHost: catalog.shop\r\nContent-Length: 1000000\r\n\r\n"
	readsNone = "GET " + absolute + "/big HTTP/1.1\r\nHost: catalog.shop\r\n\r\n"
)

// descriptors is how many this process may have open.
func descriptors(t *testing.T) int {
	t.Helper()
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	return int(min(l.Cur, 1<<20))
}

// TestSlowClients has thousands of clients that send a head or a body byte by byte, take nothing of an
// answer, or ask by HTTP/2 and open no window, beside an honest one: none of its requests fails,
// each slow client costs little and is ended. The control has no deadlines and no least rates, and
// ends none of them.
func TestSlowClients(t *testing.T) {
	t.Run("bounds", func(t *testing.T) {
		slow := slowRun{heads: min(4600, descriptors(t)/4-400), bodies: 200, readers: 72, conns: 8, streams: 16} // more on one connection wait unasked
		// All are placed and measured long before they are ended: thousands that are told why hold 16 KiB each meanwhile.
		patient := 10 * time.Second
		if raceEnabled { // all of them are one process, which is to keep up with them when it gets a tenth of a core
			slow = slowRun{heads: 200, bodies: 60, readers: 24, conns: 2, streams: 16}
			patient *= 2
		}
		s := newSlowWorld(t, patient)
		honest := via(t, s.client)
		quiet := make(chan struct{})
		time.AfterFunc(time.Second, func() { close(quiet) })
		before, _ := s.honest(honest, quiet)

		slow.slowWorld = s
		var took, late []time.Duration
		var failed, failedLate []string
		stop := make(chan struct{})
		var beside sync.WaitGroup
		beside.Go(func() { took, failed = s.honest(honest, stop) })
		slow.placed = func() { // what it costs to open them, and to measure that, is no part of the latency
			beside.Go(func() { late, failedLate = s.honest(honest, stop) })
		}
		alive, lasting := slow.run()
		close(stop)
		beside.Wait()
		failed = append(failed, failedLate...)
		if alive > 0 || lasting > 0 {
			t.Errorf("%d slow connections and %d requests of slow clients go on", alive, lasting)
		}
		if len(failed) > 0 {
			t.Errorf("%d of %d honest requests failed: %s", len(failed), len(took), failed[0])
		}
		for what, most := range map[string]int64{"a slow head": 32 << 10, "a slow body": 128 << 10, "an answer that is not read": 384 << 10, "a stream without a window": 384 << 10} {
			if got := slow.cost[what]; got > most {
				t.Errorf("%s costs %d KiB in the sidecars and the application, want at most %d", what, got>>10, most>>10)
			}
		}
		p99 := func(d []time.Duration) time.Duration {
			if len(d) == 0 {
				return 0
			}
			return d[len(d)*99/100]
		}
		t.Logf("%d slow heads, %d slow bodies, %d that read nothing, %d streams of HTTP/2; memory each %v; honest p99 %v beside them, %v alone: %.1f times",
			slow.heads, slow.bodies, slow.readers, slow.conns*slow.streams, slow.cost, p99(late), p99(before), float64(p99(late))/float64(p99(before)))
	})
	t.Run("control: no bounds", func(t *testing.T) {
		s := newSlowWorld(t, 0)
		slow := slowRun{slowWorld: s, heads: 20, bodies: 20, readers: 20, conns: 2, streams: 10}
		if alive, lasting := slow.run(); alive != 40 || lasting != 60 {
			t.Errorf("%d slow connections of 40 and %d requests of 60 go on without bounds, want all", alive, lasting)
		}
	})
}

// slowRun is all kinds of slow clients at once.
type slowRun struct {
	*slowWorld
	heads, bodies, readers, conns, streams int
	cost                                   map[string]int64 // memory of each, in bytes
	placed                                 func()           // called when all have asked
}

// run returns how many connections and requests go on when all should long have been ended.
func (s *slowRun) run() (alive, lasting int) {
	s.cost = map[string]int64{}
	var heads, bodies *slowClients
	measure := func(what string, n, requests int, f func()) {
		want := s.asked.Load() + s.ended.Load() + int64(requests)
		s.cost[what] = s.grown(n, func() {
			f()
			eventually(s.t, what+" has reached the application, or failed", func() bool { return s.asked.Load()+s.ended.Load() >= want })
		})
	}
	measure("a slow head", s.heads, 0, func() { heads = s.open(s.heads, slowHead, strings.Repeat("z", 64)) })
	measure("a slow body", s.bodies, s.bodies, func() { bodies = s.open(s.bodies, slowBody, "b") })
	measure("an answer that is not read", s.readers, s.readers, func() { s.open(s.readers, readsNone, "") })
	measure("a stream without a window", s.conns*s.streams, s.conns*s.streams, func() {
		for range s.conns {
			s.stuckHTTP2(s.streams)
		}
	})
	if s.placed != nil {
		s.placed()
	}
	stop := make(chan struct{})
	var dribbling sync.WaitGroup
	dribbling.Go(func() { dribble(stop, heads, bodies) })
	requests := s.bodies + s.readers + s.conns*s.streams
	wait := 2 * time.Second
	if s.patient > 0 {
		wait = 24 * s.patient // at most: it ends when all have
	}
	by := time.Now().Add(wait)
	alive = heads.alive(by) + bodies.alive(by)
	for s.ended.Load() < int64(requests) && time.Now().Before(by) {
		<-time.After(20 * time.Millisecond)
	}
	close(stop)
	dribbling.Wait()
	return alive, requests - int(s.ended.Load())
}

// TestWhoPipelinesAndTakesNothingWaits has a client ask for hundreds of answers in a row over one connection and read none:
// some are asked for, as many as fit between the two, and the rest stay the client's own. TestWhoTakesNothingIsNotWrittenTo
// of dataplane/socket is the control, in which the kernel takes megabytes.
func TestWhoPipelinesAndTakesNothingWaits(t *testing.T) {
	const answer, asks, most = 8 << 10, 1000, 100
	var asked atomic.Int64
	p := newPair(t, serveBoth(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		_, _ = w.Write(make([]byte, answer))
	})))
	c, err := net.Dial("tcp", p.at(8080))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	request := fmt.Sprintf("GET / HTTP/1.1\r\nHost: catalog.shop:8080\r\nX-Fill: %s\r\n\r\n", strings.Repeat("z", 4<<10))
	var wrote sync.WaitGroup
	defer wrote.Wait()
	defer c.Close()
	wrote.Go(func() { _, _ = io.WriteString(c, strings.Repeat(request, asks)) })
	honest := speaking(t, 1)
	end := time.Now().Add(bound)
	for still, before := 0, int64(0); still < 20; { // no further one is asked for while another client is served twenty times
		if time.Now().After(end) {
			t.Fatalf("after %v %d answers were asked for, and that is not all", bound, before)
		}
		r, err := honest.Get("http://" + p.at(8080) + "/")
		if err != nil {
			t.Fatal(err)
		}
		if _, err = io.Copy(io.Discard, r.Body); err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		now := asked.Add(-1)
		if still++; now != before || now == 0 {
			still = 0
		}
		if before = now; now > most {
			t.Fatalf("%d answers were asked for on behalf of a client that takes none, want at most %d", now, most)
		}
	}
}
