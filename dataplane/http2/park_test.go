package http2

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// seen counts what a client reads.
type seen struct{ heads, refused, ends, octets atomic.Int32 }

// watch reads frames until the connection ends, and hands each octet of DATA to took.
func (p *peer) watch(took func(stream uint32, n int)) *seen {
	s := new(seen)
	go func() {
		for {
			f, err := p.fr.ReadFrame()
			if err != nil {
				return
			}
			end := f.Header().Flags&1 != 0
			switch f := f.(type) {
			case *xhttp2.HeadersFrame:
				s.heads.Add(1)
			case *xhttp2.RSTStreamFrame:
				if f.ErrCode == xhttp2.ErrCodeRefusedStream {
					s.refused.Add(1)
				}
				continue
			case *xhttp2.DataFrame:
				s.octets.Add(int32(len(f.Data())))
				if took != nil && len(f.Data()) > 0 {
					took(f.StreamID, len(f.Data()))
				}
			default:
				continue
			}
			if end {
				s.ends.Add(1)
			}
		}
	}()
	return s
}

// answers is a handler whose answers have n octets.
func answers(n int) func(message.Exchange) {
	return func(x message.Exchange) {
		if x.Respond(&message.Head{Status: 200, Length: int64(n)}, false) == nil {
			if _, err := x.Write(make([]byte, n)); err == nil {
				_ = x.Finish(nil)
			}
		}
	}
}

// TestWhoTakesNothingIsGivenNoMore asks for 200 answers that fit into no window: sixteen are worked on, some heads
// wait, and what is beyond those is refused. When the client takes what there is, the rest is given too. The control works
// on all that it is asked.
func TestWhoTakesNothingIsGivenNoMore(t *testing.T) {
	const asks = 200
	for _, tt := range []struct {
		name           string
		bound          int
		begun, refused int32
		told           int32
	}{{"bound", 0, 16, asks - 16 - parkOctets/912, 1}, {"control: no bound", -1, asks, 0, 0}} { // 912 is the size of a head
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var told atomic.Int32
				p, begun := pacedBy(t, Config{StuckStreams: tt.bound, Stuck: func() { told.Add(1) }}, 0, answers(100))
				got := p.watch(nil)
				p.asks(0, asks)
				<-time.After(time.Second)
				if n, r := begun.Load(), got.refused.Load(); n != tt.begun || r != tt.refused {
					t.Errorf("%d requests were begun and %d refused, want %d and %d", n, r, tt.begun, tt.refused)
				}
				if told.Load() != tt.told {
					t.Errorf("it was told %d times, want %d", told.Load(), tt.told)
				}
				p.fr.WriteSettings(xhttp2.Setting{ID: settingInitialWindowSize, Val: 1000})
				<-time.After(time.Second)
				if b, r := begun.Load(), got.refused.Load(); b+r != asks || r != tt.refused || got.ends.Load() != b {
					t.Errorf("%d requests were begun, %d refused and %d answered when the client took its answers", b, r, got.ends.Load())
				}
				p.asks(asks, 10)
				<-time.After(time.Second)
				if n := got.ends.Load() + got.refused.Load(); n != asks+10 {
					t.Errorf("%d of 10 more were answered", n-asks)
				}
			})
		})
	}
}

// TestParkedRequestsEnd has requests of a client that takes nothing broken off, refused when they have waited for long, and
// refused when the server drains.
func TestParkedRequestsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, begun := pacedBy(t, Config{}, 0, answers(100))
		got := p.watch(nil)
		p.asks(0, 40)
		<-time.After(time.Second)
		for i := range uint32(8) {
			p.fr.WriteRSTStream(2*(20+i)+1, xhttp2.ErrCodeCancel)
		}
		<-time.After(parkTime - 2*time.Second)
		if n := got.refused.Load(); n != 0 || begun.Load() != 16 {
			t.Errorf("%d requests were refused and %d begun before their time", n, begun.Load())
		}
		<-time.After(2 * time.Second)
		if n := got.refused.Load(); n != 40-16-8 || begun.Load() != 16 {
			t.Errorf("%d requests were refused and %d begun in the end, want %d and 16", n, begun.Load(), 40-16-8)
		}
		p.fr.WriteSettings(xhttp2.Setting{ID: settingInitialWindowSize, Val: 1000})
		<-time.After(time.Second)
		p.asks(40, 20)
		<-time.After(time.Second)
		if n := got.ends.Load(); n != 16+20 {
			t.Errorf("%d answers came, want 36", n)
		}
	})
}

// TestStreamsThatRestHoldUpNobody has a hundred streams of which the client took something, and rests: the next request is
// begun at once.
func TestStreamsThatRestHoldUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, begun := pacedBy(t, Config{}, freshOctets, answers(1<<20))
		p.fr.WriteWindowUpdate(0, 1<<30)
		got := p.watch(nil)
		p.asks(0, 200)
		<-time.After(time.Minute)
		if n := begun.Load(); n != 200 || got.octets.Load() != 200*freshOctets || got.refused.Load() != 0 {
			t.Errorf("%d of 200 streams were begun, %d refused, %d octets taken", n, got.refused.Load(), got.octets.Load())
		}
	})
}

// TestASlowClientOfManyStreamsIsServed asks for a hundred answers at once and takes 2,000 octets every 100 ms, by one window
// of 65,535 for all of them: each answer comes whole, and none is refused.
func TestASlowClientOfManyStreamsIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const answer = 6000
		p, _ := pacedBy(t, Config{}, 1<<30, answers(answer))
		var owed atomic.Int32
		got := p.watch(func(_ uint32, n int) { owed.Add(int32(n)) })
		p.asks(0, 100)
		for end := time.Now().Add(5 * time.Minute); got.ends.Load() < 100 && time.Now().Before(end); {
			<-time.After(100 * time.Millisecond)
			if n := min(owed.Load(), 2000); n > 0 {
				owed.Add(-n)
				p.fr.WriteWindowUpdate(0, uint32(n))
			}
		}
		if got.ends.Load() != 100 || got.refused.Load() != 0 || got.octets.Load() != 100*answer {
			t.Errorf("%d of 100 answers came whole, %d were refused, of %d octets %d came", got.ends.Load(), got.refused.Load(), 100*answer, got.octets.Load())
		}
	})
}

// TestLargeHeadsBeginGently: a stranger's first heads are as many as their size allows.
func TestLargeHeadsBeginGently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		p, begun := paced(t, Config{}, func(x message.Exchange) {
			<-hang
			_ = x.Respond(&message.Head{Status: 204, Length: 0}, true)
		})
		p.watch(nil)
		go func() {
			for i := range uint32(30) {
				p.headers(2*i+1, true, with(get, "x-fill: "+strings.Repeat("z", 8000), fmt.Sprintf("x-n: %d", i))...)
			}
		}()
		synctest.Wait()
		if n := begun.Load(); n != 3 {
			t.Errorf("%d requests with heads of 8 KiB were taken up at once, want 3", n)
		}
		<-time.After(200 * time.Millisecond)
		if n := begun.Load(); n != 30 {
			t.Errorf("%d of 30 requests were taken up in time", n)
		}
		close(hang)
		synctest.Wait()
	})
}

// TestManyLargeHeadsWaitForASlowApplication: it has not answered yet, so that nothing shows whether their client takes answers. They
// come by and by, as clients that are honest need; those of a connection that has had many answers come at once, and so do
// small heads, which is the control.
func TestManyLargeHeadsWaitForASlowApplication(t *testing.T) {
	for _, tt := range []struct {
		name        string
		had, fill   int
		most, later int32 // begun at 250 ms, and at 5 s
	}{{"large heads", 0, 8000, 39, 240}, {"control: small heads", 0, 700, 240, 240}, {"control: a well-known client", 2000, 8000, 240, 240}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hang := make(chan struct{})
				p, begun := paced(t, Config{}, func(x message.Exchange) {
					if !strings.HasPrefix(string(x.Request().Path), "/quick") {
						<-hang
					}
					_ = x.Respond(&message.Head{Status: 204, Length: 0}, true)
				})
				p.watch(nil)
				id := uint32(1)
				for ; id < uint32(2*tt.had); id += 2 {
					p.headers(id, true, ":method: GET", ":scheme: https", ":authority: a", ":path: /quick")
				}
				synctest.Wait()
				had := begun.Load()
				go func() {
					for range 240 {
						p.headers(id, true, with(get, "x-fill: "+strings.Repeat("z", tt.fill), fmt.Sprintf("x-n: %d", id))...)
						id += 2
					}
				}()
				<-time.After(250 * time.Millisecond)
				synctest.Wait()
				if n := begun.Load() - had; n > tt.most || n < min(tt.most, 28) {
					t.Errorf("%d requests were taken up within 250 ms, want %d", n, tt.most)
				}
				<-time.After(5 * time.Second)
				if n := begun.Load() - had; n != tt.later {
					t.Errorf("%d requests were taken up in the end, want %d", n, tt.later)
				}
				close(hang)
				synctest.Wait()
			})
		})
	}
}

// TestASettledExchangeHoldsNoHead answers a request whose head was given back.
func TestASettledExchangeHoldsNoHead(t *testing.T) {
	p, _ := serverPeer(t, Config{}, func(x message.Exchange) {
		before := len(x.Request().Path)
		x.(interface{ Settle() }).Settle()
		if before != 1 || x.Request().Path != nil {
			t.Errorf("a path of %d octets, and %q when it was given back", before, x.Request().Path)
		}
		_ = x.Respond(&message.Head{Status: 204, Length: 0}, true)
	})
	p.hello(true)
	for i := range uint32(3) { // the exchange is used again
		p.headers(2*i+1, true, get...)
		if _, ok := p.until(fmt.Sprintf("HEADERS %d 204 END", 2*i+1)); !ok {
			t.Fatal("no answer")
		}
	}
}
