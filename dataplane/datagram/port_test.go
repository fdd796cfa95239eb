package datagram_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/datagram"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/internal/clock"
)

type packet struct {
	peer netip.AddrPort
	data string
}

// socket is one in memory.
type socket struct {
	in     chan packet
	out    chan packet
	woken  chan struct{}
	closed chan struct{}
}

func newSocket() *socket {
	return &socket{in: make(chan packet), out: make(chan packet, 64), woken: make(chan struct{}), closed: make(chan struct{})}
}

func (s *socket) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	select {
	case p := <-s.in:
		return copy(b, p.data), p.peer, nil
	case <-s.woken:
		return 0, netip.AddrPort{}, os.ErrDeadlineExceeded
	case <-s.closed:
		return 0, netip.AddrPort{}, net.ErrClosed
	}
}

func (s *socket) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	s.out <- packet{to, string(b)}
	return len(b), nil
}

func (s *socket) SetReadDeadline(time.Time) error { close(s.woken); return nil }

func peer(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(10000+n))
}

// table is a port whose sessions are counted, and carried by carry.
type table struct {
	*socket
	opened, ended, dropped atomic.Uint64
	leave, cut             context.CancelFunc
	over                   chan struct{}
}

func serve(most int, carry func(message.Exchange)) *table {
	return serveWith(datagram.Config{Most: most}, carry)
}

// serveWith is serve with what cfg says of bounds.
func serveWith(cfg datagram.Config, carry func(message.Exchange)) *table {
	t := &table{socket: newSocket(), over: make(chan struct{})}
	ctx, leave := context.WithCancel(context.Background())
	hard, cut := context.WithCancel(context.Background())
	t.leave, t.cut = leave, cut
	cfg.Socket, cfg.Authority, cfg.Clock, cfg.Dropped = t.socket, "dns.shop:53", clock.Real{}, &t.dropped
	cfg.Idle, cfg.Grace = func() time.Duration { return time.Minute }, func() time.Duration { return time.Second }
	cfg.Open = func(ex message.Exchange) { t.opened.Add(1); carry(ex); t.ended.Add(1) }
	p := datagram.NewPort(cfg)
	go func() { defer close(t.over); p.Serve(ctx, hard) }()
	return t
}

func (t *table) send(n int, data string) { t.in <- packet{peer(n), data}; synctest.Wait() }

func (t *table) end() { t.leave(); t.cut(); <-t.over }

// accept grants the tunnel.
func accept(ex message.Exchange) {
	h := message.Head{Status: 200}
	_ = ex.Respond(&h, false)
}

// echo answers what it gets until the session ends.
func echo(ex message.Exchange) {
	accept(ex)
	_, _ = io.Copy(ex, ex)
	_ = ex.Finish(nil)
}

func TestASessionIsAClientAndEndsWhenIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := serve(0, echo)
		defer p.end()
		for i, want := range []struct {
			peer   int
			after  time.Duration
			opened uint64
		}{{1, 0, 1}, {2, 0, 2}, {1, 0, 2}, {1, 59 * time.Second, 2}, {1, 59 * time.Second, 2}, {2, 0, 3}, {1, time.Minute, 4}} {
			time.Sleep(want.after)
			synctest.Wait()
			p.send(want.peer, "x")
			if got := <-p.out; got != (packet{peer(want.peer), "x"}) {
				t.Errorf("%d: answered %v", i, got)
			}
			if got := p.opened.Load(); got != want.opened {
				t.Errorf("%d: %d sessions were opened, want %d", i, got, want.opened)
			}
		}
		time.Sleep(61 * time.Second)
		synctest.Wait()
		if o, e := p.opened.Load(), p.ended.Load(); o != e {
			t.Errorf("%d sessions were opened and %d ended", o, e)
		}
	})
}

func TestWhatFindsNoRoomIsDroppedAndNeverWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		got := make(chan int, 1)
		p := serve(0, func(ex message.Exchange) {
			<-release // the service is slow to be reached
			b, err := io.ReadAll(ex)
			if err != nil {
				t.Error(err)
			}
			got <- len(b)
		})
		defer p.end()
		large := string(make([]byte, datagram.MaxSize))
		for range 5 {
			p.send(1, large)
		}
		if n := p.dropped.Load(); n != 3 {
			t.Errorf("%d datagrams were dropped, want all but two of five", n)
		}
		close(release)
		if n := <-got; n != 2*(datagram.MaxSize+5) { // and then the session was idle
			t.Errorf("%d bytes were carried", n)
		}
	})
}

func TestSessionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := serve(4, echo)
		defer p.end()
		for i := range 6 {
			p.send(i, "x")
		}
		if o, d := p.opened.Load(), p.dropped.Load(); o != 4 || d != 2 {
			t.Errorf("%d sessions and %d drops, want 4 and 2", o, d)
		}
		time.Sleep(4 * time.Second)
		p.send(0, "x")
		time.Sleep(2 * time.Second) // the others have been quiet for six, this one for two
		p.send(7, "x")
		if o, e := p.opened.Load(), p.ended.Load(); o != 5 || e != 1 {
			t.Errorf("%d sessions were opened and %d ended, want 5 and 1: a quiet one makes room", o, e)
		}
		p.send(0, "x")
		if o := p.opened.Load(); o != 5 {
			t.Errorf("the session that was not quiet had to go")
		}
	})
}

// TestThoseThatMakeRoomAreBoundedToo: sessions that were told to end and do not are not joined by
// any number of others.
func TestThoseThatMakeRoomAreBoundedToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		p := serve(8, func(message.Exchange) { <-stuck })
		defer p.end()
		defer close(stuck)
		for round := range 4 {
			for i := range 8 {
				p.send(100*round+i, "x")
			}
			time.Sleep(10 * time.Second)
		}
		if o := p.opened.Load(); o != 10 {
			t.Errorf("%d sessions run, want 8 and an eighth and one more", o)
		}
	})
}

func TestARefusedSessionEndsAndTheNextDatagramTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := serve(0, func(ex message.Exchange) {
			h := message.Head{Status: 503}
			_ = ex.Respond(&h, false)
			if n, err := ex.Write([]byte("no endpoint\n")); n != 12 || err != nil {
				t.Errorf("the text of a refusal: %d, %v", n, err)
			}
			_ = ex.Finish(nil)
		})
		defer p.end()
		p.send(1, "x")
		p.send(1, "x")
		if o, e := p.opened.Load(), p.ended.Load(); o != 2 || e != 2 || len(p.out) > 0 {
			t.Errorf("%d opened, %d ended, %d answers: want 2, 2 and none", o, e, len(p.out))
		}
	})
}

func TestDrainWaitsForAnswersAndThenCuts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := make(chan struct{})
		p := serve(0, func(ex message.Exchange) {
			ex.(interface{ OnBreak(func()) }).OnBreak(func() { close(broken) })
			accept(ex)
			b := make([]byte, 100)
			n, _ := ex.Read(b)
			time.Sleep(900 * time.Millisecond) // within the grace
			_, _ = ex.Write(b[:n])
			if _, err := ex.Read(b); !errors.Is(err, io.EOF) {
				t.Errorf("after the grace: %v, want EOF", err)
			}
			<-broken // its other end does not end
		})
		p.send(1, "late")
		p.leave()
		if got := <-p.out; got.data != "late" {
			t.Errorf("answered %q", got.data)
		}
		time.Sleep(time.Minute)
		select {
		case <-p.over:
			t.Error("the port was over before its session")
		default:
		}
		p.cut()
		<-p.over
	})
}

func TestADeadlineWakesWhoReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		read := make(chan error, 1)
		p := serve(0, func(ex message.Exchange) {
			b := make([]byte, 100)
			_, _ = ex.Read(b)
			go func() { _, err := ex.Read(b); read <- err }()
			synctest.Wait()
			ex.SetDeadline(time.Unix(1, 0))
			if err := <-read; !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%v", err)
			}
		})
		p.in <- packet{peer(1), "x"}
		for p.ended.Load() == 0 {
			time.Sleep(time.Millisecond)
		}
		p.end()
	})
}

// TestAnAddressHasItsShareOfSessions, and what it leaves is there for others.
func TestAnAddressHasItsShareOfSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := serveWith(datagram.Config{Most: 4, Each: 2}, echo)
		defer p.end()
		for i := range 3 {
			p.send(i, "x")
		}
		if o, d := p.opened.Load(), p.dropped.Load(); o != 2 || d != 1 {
			t.Errorf("%d sessions and %d drops of one address, want 2 and 1", o, d)
		}
		p.in <- packet{netip.MustParseAddrPort("127.0.0.2:1"), "x"}
		synctest.Wait()
		if o := p.opened.Load(); o != 3 {
			t.Errorf("%d sessions, want 3: another address had room", o)
		}
		time.Sleep(2 * time.Minute)
		p.send(5, "x")
		if o, e := p.opened.Load(), p.ended.Load(); o != 4 || e != 3 {
			t.Errorf("%d sessions and %d ended, want 4 and 3: those that were idle count no more", o, e)
		}
	})
}

// TestControlAnAddressTakesAllSessions is the control: without a share for each one address has all, and others get none.
func TestControlAnAddressTakesAllSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := serveWith(datagram.Config{Most: 4, Each: 4}, echo)
		defer p.end()
		for i := range 4 {
			p.send(i, "x")
		}
		p.in <- packet{netip.MustParseAddrPort("127.0.0.2:1"), "x"}
		synctest.Wait()
		if o, d := p.opened.Load(), p.dropped.Load(); o != 4 || d != 1 {
			t.Errorf("%d sessions and %d drops, want 4 of one address, and none for the other", o, d)
		}
	})
}

// TestAnswersAreRationed: whoever sends in another's name has no more sent to him than he asked for. Without a ration, as between
// workloads of the mesh, a service says as much as it likes.
func TestAnswersAreRationed(t *testing.T) {
	for _, c := range []struct{ ration, one, two int }{{0, 5, 10}, {250, 2, 5}, {100, 1, 2}, {99, 0, 1}} {
		synctest.Test(t, func(t *testing.T) {
			p := serveWith(datagram.Config{Ration: c.ration}, func(ex message.Exchange) {
				accept(ex)
				for b := make([]byte, 100); ; {
					if _, err := ex.Read(b); err != nil {
						break
					}
					for range 5 { // answers of 100 bytes to each datagram
						_, _ = ex.Write(datagram.Append(nil, make([]byte, 100)))
					}
				}
				_ = ex.Finish(nil)
			})
			for i, want := range []int{c.one, c.two} {
				p.send(1, "x")
				if n, d := len(p.out), p.dropped.Load(); n != want || int(d) != 5*(i+1)-want {
					t.Errorf("ration %d: %d answers to %d datagrams and %d drops, want %d answers", c.ration, n, i+1, d, want)
				}
			}
			p.end()
		})
	}
}

// TestAnswersKeepNoRationedSession: it ends a minute after the client was last heard, whatever is sent to it.
func TestAnswersKeepNoRationedSession(t *testing.T) {
	for _, c := range []struct {
		ration int
		lasts  time.Duration
	}{{0, 6 * time.Minute}, {1000, time.Minute}} {
		synctest.Test(t, func(t *testing.T) {
			began, over := time.Now(), make(chan time.Duration, 1)
			p := serveWith(datagram.Config{Ration: c.ration}, func(ex message.Exchange) {
				accept(ex)
				go func() {
					for range 10 { // for five minutes
						<-time.After(30 * time.Second)
						_, _ = ex.Write(datagram.Append(nil, []byte("still here")))
					}
				}()
				_, _ = io.Copy(io.Discard, ex)
				over <- time.Since(began)
			})
			p.send(1, "x")
			if took := <-over; took != c.lasts {
				t.Errorf("ration %d: the session lasted %v, want %v", c.ration, took, c.lasts)
			}
			time.Sleep(10 * time.Minute)
			p.end()
		})
	}
}
