package http2

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// floods are what CVEs of HTTP/2 servers are made of. Each sends step without end;
// the server must end the connection long before limit steps.
var floods = []struct {
	name  string
	start func(p *peer)
	step  func(p *peer, i uint32)
}{
	{"rapid reset, CVE-2023-44487", nil, func(p *peer, i uint32) {
		p.headers(2*i+1, false, post...)
		p.fr.WriteRSTStream(2*i+1, 8)
	}},
	{"MadeYouReset by WINDOW_UPDATE of 0, CVE-2025-8671", nil, func(p *peer, i uint32) {
		p.headers(2*i+1, false, post...)
		p.raw(frameWindowUpdate, 0, 2*i+1, 0, 0, 0, 0)
	}},
	{"MadeYouReset by DATA above content-length", nil, func(p *peer, i uint32) {
		p.headers(2*i+1, false, with(post, "content-length: 1")...)
		p.data(2*i+1, false, "")
		p.data(2*i+1, true, "")
	}},
	{"malformed requests", nil, func(p *peer, i uint32) { p.headers(2*i+1, true, "x: y") }},
	{"streams above the limit", nil, func(p *peer, i uint32) { p.headers(2*i+1, false, with(post, "x-hang: yes")...) }},
	{"PING, CVE-2019-9512", nil, func(p *peer, i uint32) { p.fr.WritePing(false, [8]byte{byte(i)}) }},
	{"PING acknowledgements nobody asked for", nil, func(p *peer, i uint32) { p.fr.WritePing(true, [8]byte{byte(i)}) }},
	{"SETTINGS, CVE-2019-9515", nil, func(p *peer, i uint32) { p.fr.WriteSettings() }},
	{"SETTINGS acknowledgements", nil, func(p *peer, i uint32) { p.fr.WriteSettingsAck() }},
	{"empty DATA, CVE-2019-9518", func(p *peer) { p.headers(1, false, with(post, "x-hang: yes")...) },
		func(p *peer, i uint32) { p.data(1, false, "") }},
	{"DATA after RST_STREAM", func(p *peer) { p.headers(1, false, post...); p.fr.WriteRSTStream(1, 8) }, func(p *peer, i uint32) { p.data(1, false, "x") }},
	{"PRIORITY, CVE-2019-9513", nil, func(p *peer, i uint32) { p.raw(framePriority, 0, 2*i+1, 0, 0, 0, 0, 1) }},
	{"WINDOW_UPDATE", nil, func(p *peer, i uint32) { p.fr.WriteWindowUpdate(0, 1) }},
	{"unknown frames", nil, func(p *peer, i uint32) { p.raw(0xbe, 0, 0) }},
	{"CONTINUATION in every request", nil, func(p *peer, i uint32) {
		p.raw(frameHeaders, flagEndStream, 2*i+1, p.block("x: y")...)
		p.raw(frameContinuation, 0, 2*i+1)
		p.raw(frameContinuation, flagEndHeaders, 2*i+1)
	}},
	{"a dribbling window, CVE-2019-9517", func(p *peer) {
		p.fr.WriteSettings(xhttp2.Setting{ID: settingInitialWindowSize, Val: 0})
		p.headers(1, true, with(get, "x-large: yes")...)
	}, func(p *peer, i uint32) { p.fr.WriteWindowUpdate(1, 1) }},
}

// flooded is a server under one of them, and whether it said so before it answered a PING that came after 1,000 steps.
func flooded(t *testing.T, flood int, cfg Config) (ended bool) {
	f := floods[flood]
	hang := make(chan struct{})
	script := scriptHandler(hang)
	p, _ := serverPeer(t, cfg, func(x message.Exchange) {
		if x.Request().Has("x-large") {
			if x.Respond(&message.Head{Status: 200, Length: message.LengthUnknown}, false) == nil {
				x.Write(make([]byte, 1<<20))
			}
			return
		}
		script(x)
	})
	t.Cleanup(func() { close(hang) })
	p.hello(true)
	seen := make(chan string, 1)
	go func() {
		for {
			l := p.next()
			if strings.HasPrefix(l, "GOAWAY ENHANCE_YOUR_CALM") || l == "EOF" || l == "TIMEOUT" || strings.HasPrefix(l, "PING ACK") && strings.Contains(l, "6c617374") {
				seen <- l
				return
			}
		}
	}()
	if f.start != nil {
		f.start(p)
	}
	for i := range uint32(1000) {
		f.step(p, i)
	}
	p.fr.WritePing(false, [8]byte{0x6c, 0x61, 0x73, 0x74})
	l := <-seen
	if ended = strings.HasPrefix(l, "GOAWAY"); !ended && !strings.HasPrefix(l, "PING") {
		t.Errorf("the connection: %s", l)
	}
	return ended
}

// TestFloodsAreEnded: each is ended before its thousandth step. The control has a budget without end, and goes on.
func TestFloodsAreEnded(t *testing.T) {
	for i, f := range floods {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			if !flooded(t, i, Config{ControlBurst: 200, ControlRate: 1, MaxConcurrentStreams: 10}) {
				t.Error("no GOAWAY ENHANCE_YOUR_CALM after 1,000 steps")
			}
		})
		t.Run("control: "+f.name, func(t *testing.T) {
			t.Parallel()
			if flooded(t, i, Config{ControlBurst: 1 << 20, ControlRate: 1 << 20, MaxConcurrentStreams: 10}) {
				t.Error("it was ended without a budget, so nothing was shown")
			}
		})
	}
}

// An honest peer acknowledges and updates windows for all it gets: it must never run dry.
func TestAnHonestPeerIsNotTakenForAFlood(t *testing.T) {
	p, _ := serverPeer(t, Config{ControlBurst: 50, ControlRate: 1}, scriptHandler(nil))
	p.hello(true)
	for i := range uint32(500) {
		id := 2*i + 1
		p.headers(id, false, post...)
		p.data(id, true, "x")
		if lines, ok := p.until("DATA"); !ok {
			t.Fatalf("request %d: %q", i, lines)
		}
		p.fr.WriteWindowUpdate(0, 1)
		p.fr.WritePing(false, [8]byte{})
		if i%2 == 0 {
			p.fr.WriteWindowUpdate(id, 1)
		}
	}
}

// What was reset before a goroutine got to begin it costs nobody anything more: most of a rapid reset.
func TestWhatIsResetBeforeItIsBegunIsNotBegun(t *testing.T) {
	nc, _ := net.Pipe()
	for _, reset := range []bool{true, false} {
		called := false
		s := &server{handler: func(message.Exchange) { called = true }}
		s.role = s
		s.init(nc, Config{}, false)
		s.pace.init(s)
		x := &exchange{wake: make(chan struct{}, 1)}
		x.init(&s.conn)
		x.recycle()
		s.running = 1
		if reset {
			x.err = &StreamError{ID: 1, Code: Cancel, Remote: true}
		}
		s.serve(x)
		if called == reset || s.running != 0 {
			t.Errorf("reset %v: begun %v, %d run", reset, called, s.running)
		}
	}
}

// A flood is abuse if it wasted more than its peer had made use of, and a request that is broken off costs much while it is
// young: who leaves what he had waited for is no flood.
func TestAbuseIsToldFromBadLuck(t *testing.T) {
	now := int64(0)
	begin := func() *server {
		nc, _ := net.Pipe()
		s := &server{}
		s.role = s
		s.init(nc, Config{Now: func() int64 { return now }}, false)
		s.pace.init(s)
		s.ackTimer = time.NewTimer(time.Hour)
		return s
	}
	// breaks breaks off so many requests of that age, at most one a millisecond, and returns how many it took to fail.
	breaks := func(s *server, n int, age time.Duration) int {
		for i := range n {
			now += int64(2 * time.Millisecond)
			s.lastRead.Store(now)
			st := &stream{}
			st.init(&s.conn)
			st.enter(uint32(2*i + 1))
			st.began = now - int64(age)
			worked := st.working()
			s.breakStream(st, &StreamError{}, closedByPeer)
			if err := s.wasted(worked); err != nil {
				s.fail(err)
				return i + 1
			}
		}
		return n
	}
	s := begin()
	if n := breaks(s, 10_000, 0); n > 600 || s.err == nil || !s.err.Abuse {
		t.Errorf("%d that were broken off at once: %v", n, s.err)
	}
	if s = begin(); breaks(s, 10_000, time.Second) < 10_000 {
		t.Errorf("those that were waited for were taken for a flood: %v", s.err)
	}
	s = begin()
	s.bucket.earn(1 << 20) // much was in order before
	if breaks(s, 10_000, 0); s.err == nil || s.err.Abuse {
		t.Errorf("one who had made use of us: %v", s.err)
	}
}

func TestHandlersThatOutliveTheirStreamsAreBounded(t *testing.T) {
	const most = 10 // twice MaxConcurrentStreams
	hang, begun := make(chan struct{}), make(chan struct{}, 100)
	p, _ := serverPeer(t, Config{MaxConcurrentStreams: most / 2}, func(x message.Exchange) {
		begun <- struct{}{}
		<-hang
	})
	t.Cleanup(func() { close(hang) })
	p.hello(true)
	for i := range uint32(100) {
		p.headers(2*i+1, false, post...)
		if i < most { // one that is reset before its handler begins has none
			select {
			case <-begun:
			case <-time.After(bound):
				t.Fatalf("handler %d does not begin", i)
			}
		}
		p.fr.WriteRSTStream(2*i+1, 8)
	}
	if lines, ok := p.until("RST_STREAM 21 REFUSED_STREAM"); !ok {
		t.Fatalf("got %q", lines)
	}
	p.fr.WritePing(false, [8]byte{7: 1})
	p.until("PING ACK")
	if n := len(begun); n > 0 {
		t.Errorf("%d handlers at once; want at most twice MaxConcurrentStreams", most+n)
	}
}

// TestControlHandlersWithoutABound is the control: where as many streams are allowed as the attacker resets, each has a handler that goes on.
func TestControlHandlersWithoutABound(t *testing.T) {
	const resets = 40
	hang, begun := make(chan struct{}), make(chan struct{}, resets)
	p, _ := serverPeer(t, Config{MaxConcurrentStreams: resets}, func(message.Exchange) {
		begun <- struct{}{}
		<-hang
	})
	t.Cleanup(func() { close(hang) })
	p.hello(true)
	for i := range uint32(resets) {
		p.headers(2*i+1, false, post...)
		select {
		case <-begun:
		case <-time.After(bound):
			t.Fatalf("handler %d does not begin: the bound of %d is not what held the others", i, resets)
		}
		p.fr.WriteRSTStream(2*i+1, 8)
	}
}

// A stream whose reader does not drain stops itself only.
func TestASlowReaderDoesNotStallItsNeighbours(t *testing.T) {
	hang := make(chan struct{})
	c, s := tcpPair(t)
	cc := pair(t, Config{}, c, s, func(x message.Exchange) {
		if x.Request().Has("x-hang") {
			<-hang
			x.Respond(&message.Head{Status: 200, Length: 0}, true)
			return
		}
		echo(x)
	})
	defer close(hang)
	var wg sync.WaitGroup
	defer wg.Wait()
	sent := make([]atomic.Int64, 10)
	for i := range sent {
		st, err := cc.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		h := request("POST", "/slow")
		h.Add("x-hang", "yes")
		if err := st.Send(h, false); err != nil {
			t.Fatal(err)
		}
		st.SetDeadline(time.Now().Add(200 * time.Millisecond))
		wg.Go(func() {
			defer st.Close()
			for {
				n, err := st.Write(make([]byte, 10<<10))
				sent[i].Add(int64(n))
				if err != nil {
					if !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("slow stream: %v", err)
					}
					return
				}
			}
		})
	}
	body := bytes.Repeat([]byte("y"), 2<<20)
	for range 3 {
		if _, got, _, err := do(cc, request("POST", "/fast"), body, nil); err != nil || len(got) != len(body) {
			t.Fatalf("a neighbour of slow streams: %d octets, %v", len(got), err)
		}
	}
	wg.Wait()
	for i := range sent {
		if n := sent[i].Load(); n > defaultWindow {
			t.Errorf("stream %d took %d octets that nobody read; want at most its window", i, n)
		}
	}
}

func TestDeadlinesCutEveryWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := net.Pipe()
		hang := make(chan struct{})
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() {
			done <- ServeConn(ctx, s, Config{MaxConcurrentStreams: 2}, func(x message.Exchange) {
				<-hang
				x.SetDeadline(time.Now().Add(time.Second))
				if _, err := x.Read(make([]byte, 1<<17)); err != nil {
					t.Errorf("server reads what there is: %v", err)
				}
			})
		}()
		cc, err := NewClientConn(c, Config{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cc.Ping(ctx); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		expect := func(what string, err error, after time.Duration) {
			t.Helper()
			if !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v; want the deadline", what, err)
			}
			if d := time.Since(start); d != after {
				t.Errorf("%s returned after %v; want %v", what, d, after)
			}
		}
		st, err := cc.Open(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Send(request("POST", "/"), false); err != nil {
			t.Fatal(err)
		}
		var h message.Head
		st.SetDeadline(start.Add(time.Minute))
		st.SetDeadline(start.Add(time.Second)) // earlier
		_, err = st.Receive(&h)
		expect("Receive", err, time.Second)
		st.SetDeadline(start.Add(3 * time.Second)) // later: the timer looks again
		_, err = st.Write(make([]byte, 1<<20))
		expect("Write", err, 3*time.Second)
		st.SetDeadline(start.Add(2 * time.Second)) // past
		_, err = st.Read(make([]byte, 1))
		expect("Read", err, 3*time.Second)

		second, err := cc.Open(ctx)
		if err != nil {
			t.Fatal(err)
		}
		octx, cancel := context.WithTimeout(ctx, time.Second)
		_, err = cc.Open(octx)
		cancel()
		expect("Open", err, 4*time.Second)
		if !errors.Is(err, message.ErrNotExecuted) {
			t.Errorf("Open: %v; want ErrNotExecuted", err)
		}
		second.Close()
		st.Close()
		close(hang)
		synctest.Wait() // what the handler gave back of the window is written, and not to a pipe that is closed
		if n := cc.InFlight(); n != 0 {
			t.Errorf("%d in flight", n)
		}
		cc.Close()
		stop()
		if err := <-done; err != nil {
			t.Errorf("ServeConn: %v", err)
		}
	})
}

// A peer that is silent, does not acknowledge SETTINGS, or does not read is given up in virtual time. The control of each, without its
// deadline, waits for as long as the peer likes, which is an hour.
func TestSilentPeers(t *testing.T) {
	const hello, hour = preface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00", time.Hour
	for _, c := range []struct {
		name           string
		says           string
		reads          bool
		cfg, without   Config
		least, most    time.Duration
		unacknowledged bool // the fault is SETTINGS that were not acknowledged
	}{
		{"no preface", "", true, Config{SettingsTimeout: 2 * hour}, Config{SettingsTimeout: 2 * hour, HandshakeTimeout: 2 * hour}, 10 * time.Second, 10 * time.Second, false},
		{"no acknowledgement", hello, true, Config{}, Config{SettingsTimeout: 2 * hour}, 10 * time.Second, 11 * time.Second, true},
		// Nobody reads: the first write cannot end.
		{"a peer that does not read", hello, false, Config{SettingsTimeout: 2 * hour}, Config{SettingsTimeout: 2 * hour, WriteTimeout: 2 * hour}, 15 * time.Second, 15 * time.Second, false},
	} {
		for _, control := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				cfg, least, most := c.cfg, c.least, c.most
				if control {
					cfg, least, most = c.without, hour, hour
				}
				client, server := net.Pipe()
				leave := time.AfterFunc(hour, func() { client.Close() })
				if c.reads {
					go io.Copy(io.Discard, client)
				}
				go io.WriteString(client, c.says)
				start := time.Now()
				err := ServeConn(t.Context(), server, cfg, echo)
				d := time.Since(start)
				leave.Stop()
				client.Close()
				var ce *ConnError
				named := errors.As(err, &ce) && ce.Code == SettingsTimeout
				if d < least || d > most || !control && (err == nil || named != c.unacknowledged) {
					t.Errorf("%s, control %v: %v after %v", c.name, control, err, d)
				}
			})
		}
	}
}

// Drains lose no request: either it was answered, or its error proves that it may be tried again. In the control the connection is
// closed without one, and some are lost.
func TestDrainLosesNoRequest(t *testing.T) {
	for _, side := range []string{"server", "client", "control"} {
		t.Run(side, func(t *testing.T) {
			var served, lost atomic.Int64
			for range 20 {
				c, s := tcpPair(t)
				ctx, stop := context.WithCancel(context.Background())
				done := make(chan error, 1)
				go func() {
					done <- ServeConn(ctx, s, Config{}, func(x message.Exchange) {
						served.Add(1)
						runtime.Gosched()
						echo(x)
					})
				}()
				cc, err := NewClientConn(c, Config{})
				if err != nil {
					t.Fatal(err)
				}
				var answered, again atomic.Int64
				var wg sync.WaitGroup
				for range 8 {
					wg.Go(func() {
						for i := 0; ; i++ {
							_, _, _, err := do(cc, request("POST", "/"), []byte("body"), nil)
							switch {
							case err == nil:
								answered.Add(1)
							case errors.Is(err, message.ErrNotExecuted):
								again.Add(1)
								return
							default:
								if lost.Add(1); side != "control" {
									t.Errorf("request %d failed: %v", i, err)
								}
								return
							}
						}
					})
				}
				for answered.Load() < 100 {
					runtime.Gosched()
				}
				switch side {
				case "server":
					stop()
				case "client":
					cc.Drain()
				default:
					c.Close()
				}
				wg.Wait()
				select {
				case <-cc.Done():
				case <-time.After(bound):
					t.Fatal("the connection did not end")
				}
				stop()
				err = <-done
				cc.Close()
				if n := served.Swap(0); side != "control" && (err != nil || n != answered.Load()) {
					t.Errorf("ServeConn: %v; %d served, %d answered", err, n, answered.Load())
				}
			}
			if side == "control" && lost.Load() == 0 {
				t.Error("none was lost without a drain: the load proves nothing")
			}
		})
	}
}

// CONNECT, and extended CONNECT, carry octets both ways and half-close.
func TestTunnels(t *testing.T) {
	c, s := tcpPair(t)
	cc := pair(t, Config{ConnectProtocol: true}, c, s, func(x message.Exchange) {
		h := x.Request()
		status := 200
		if string(h.Upgrade) == "websocket" {
			status = 101
		}
		if !h.IsConnect() || x.Respond(&message.Head{Status: status, Length: message.LengthUnknown}, false) != nil {
			return
		}
		x.Write([]byte("server first\n"))
		x.Finish(nil) // half-close: Read goes on
		b, err := io.ReadAll(x)
		if err != nil || string(b) != "client last" {
			t.Errorf("server read %q, %v", b, err)
		}
	})
	for _, upgrade := range []string{"", "websocket"} {
		st, err := cc.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		h := request("CONNECT", "/chat")
		if upgrade == "" {
			h.Path, h.Scheme = nil, nil
		}
		h.Upgrade = []byte(upgrade)
		if err := st.Send(h, false); err != nil {
			t.Fatal(err)
		}
		var resp message.Head
		if _, err := st.Receive(&resp); err != nil || resp.Status != 200 {
			t.Fatalf("%q: %d %v", upgrade, resp.Status, err)
		}
		if b, err := io.ReadAll(st); err != nil || string(b) != "server first\n" {
			t.Errorf("client read %q, %v", b, err)
		}
		st.Write([]byte("client last"))
		st.CloseWrite(nil)
		st.Close()
	}
}

func TestUpgradeNeedsTheServersConsent(t *testing.T) {
	c, s := tcpPair(t)
	cc := pair(t, Config{}, c, s, echo)
	st, err := cc.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	h := request("CONNECT", "/chat")
	h.Upgrade = []byte("websocket")
	if err := st.Send(h, false); !errors.Is(err, message.ErrNotExecuted) {
		t.Errorf("Send: %v; want ErrNotExecuted", err)
	}
}

func TestCloseResetsAndTheHandlerLearns(t *testing.T) {
	begun, broke := make(chan struct{}), make(chan struct{})
	c, s := tcpPair(t)
	cc := pair(t, Config{}, c, s, func(x message.Exchange) {
		close(begun)
		gone := make(chan struct{})
		x.(interface{ OnBreak(func()) }).OnBreak(func() { close(gone) })
		<-gone
		if _, err := x.Read(make([]byte, 1)); !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), "CANCEL") {
			t.Errorf("Read after the client left: %v", err)
		}
		close(broke)
	})
	st, err := cc.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Send(request("POST", "/"), false); err != nil {
		t.Fatal(err)
	}
	select {
	case <-begun:
	case <-time.After(bound):
		t.Fatal("the request did not arrive")
	}
	st.Close()
	select {
	case <-broke:
	case <-time.After(bound):
		t.Fatal("the handler was not told")
	}
}

func TestWholeTellsOfARequestThatHasCome(t *testing.T) {
	type told struct {
		n  int
		ok bool
	}
	tells := make(chan told)
	p, _ := serverPeer(t, Config{}, func(x message.Exchange) {
		whole := func() {
			n, ok := x.(interface{ Whole() (int, bool) }).Whole()
			tells <- told{n, ok}
		}
		whole()
		_, _ = x.Read(make([]byte, 1))
		whole()
		_, _ = io.ReadAll(x)
		whole()
	})
	p.hello(true)
	for id, c := range []struct {
		head, trailers bool
		want           [3]told
	}{
		{want: [3]told{{0, false}, {2, true}, {0, true}}},
		{head: true, want: [3]told{{0, true}, {0, true}, {0, true}}},
		{trailers: true, want: [3]told{{0, false}, {2, false}, {0, false}}},
	} {
		stream := uint32(2*id + 1)
		p.headers(stream, c.head, post...)
		got := [3]told{<-tells}
		if !c.head {
			p.data(stream, !c.trailers, "abc")
		}
		got[1] = <-tells
		if c.trailers {
			p.headers(stream, true, "sum: 1")
		}
		got[2] = <-tells
		if got != c.want {
			t.Errorf("%+v: told %v", c, got)
		}
	}
}

func TestBodiesKeepTheirAnnouncedLength(t *testing.T) {
	c, s := tcpPair(t)
	cc := pair(t, Config{}, c, s, func(x message.Exchange) {
		long := string(x.Request().Path) == "/long"
		x.Respond(&message.Head{Status: 200, Length: 4}, false)
		var err error
		if long {
			_, err = x.Write([]byte("five!"))
		} else {
			x.Write([]byte("six"))
			err = x.Finish(nil)
		}
		if !errors.Is(err, ErrLength) {
			t.Errorf("server: %v; want ErrLength", err)
		}
	})
	for _, path := range []string{"/long", "/short"} {
		if _, _, _, err := do(cc, request("GET", path), nil, nil); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %v; want io.ErrUnexpectedEOF", path, err)
		}
	}
}

func TestAnIdleConnectionIsDrained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := net.Pipe()
		done := make(chan error, 1)
		start := time.Now()
		go func() {
			done <- ServeConn(t.Context(), s, Config{IdleTimeout: time.Minute}, func(x message.Exchange) {
				hold := time.NewTimer(3 * time.Minute) // a stream that is open is not idle
				<-hold.C
				echo(x)
			})
		}()
		cc, err := NewClientConn(c, Config{})
		if err != nil {
			t.Fatal(err)
		}
		st, err := cc.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Send(request("GET", "/"), true); err != nil {
			t.Fatal(err)
		}
		var h message.Head
		if _, err := st.Receive(&h); err != nil || h.Status != 200 {
			t.Errorf("the slow request: %d, %v", h.Status, err)
		}
		io.Copy(io.Discard, st)
		st.Close()
		if err := <-done; err != nil {
			t.Errorf("ServeConn: %v", err)
		}
		if d := time.Since(start); d < 4*time.Minute || d > 6*time.Minute {
			t.Errorf("drained after %v", d)
		}
		<-cc.Done()
		cc.Close()
		if _, err := cc.Open(t.Context()); !errors.Is(err, message.ErrNotExecuted) {
			t.Errorf("Open afterwards: %v; want ErrNotExecuted", err)
		}
	})
}

// Heads of more than one frame go both ways, as CONTINUATION frames.
func TestLargeHeads(t *testing.T) {
	c, s := tcpPair(t)
	value := strings.Repeat("v", 1500)
	cc := pair(t, Config{}, c, s, func(x message.Exchange) {
		h := message.Head{Status: 200, Length: 0}
		for _, f := range x.Request().Fields {
			h.Add(string(f.Name), string(f.Value))
		}
		x.Respond(&h, true)
	})
	h := request("GET", "/")
	for i := range 40 {
		h.Add("x-large-"+string(rune('a'+i%26)), value)
	}
	for range 3 {
		resp, _, _, err := do(cc, h, nil, nil)
		if err != nil || len(resp.Fields) != 40 || string(resp.Fields[39].Value) != value {
			t.Fatalf("%v, %v", resp, err)
		}
	}
}

func TestConfigFaultsAreAllReported(t *testing.T) {
	err := Config{MaxConcurrentStreams: -1, InitialWindow: 10, HeaderTableBytes: 5000, WriteTimeout: -1}.Validate()
	if err == nil {
		t.Fatal("no fault found")
	}
	for _, name := range []string{"MaxConcurrentStreams", "InitialWindow", "HeaderTableBytes", "WriteTimeout"} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not named in %v", name, err)
		}
	}
	if err := (Config{}).Validate(); err != nil {
		t.Errorf("the zero Config: %v", err)
	}
}

// A goroutine that still copies into a stream that was closed gets errors; its octets
// never fall into another request.
func TestAClosedStreamStaysClosed(t *testing.T) {
	c, s := tcpPair(t)
	cc := pair(t, Config{}, c, s, echo)
	st, err := cc.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Send(request("POST", "/"), false); err != nil {
		t.Fatal(err)
	}
	blocked := make(chan error, 1)
	go func() {
		_, err := st.Write(make([]byte, 8<<20))
		blocked <- err
	}()
	st.Close()
	if err := <-blocked; err == nil {
		t.Error("a Write under way succeeded after Close")
	}
	for range 5 {
		next, err := cc.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer next.Close()
		if err := next.Send(request("POST", "/"), false); err != nil {
			t.Fatal(err)
		}
		if next == st {
			t.Fatal("a stream that was broken off was given out again")
		}
		if _, err := st.Write([]byte("stray")); err == nil {
			t.Error("a Write after Close succeeded")
		}
	}
}
