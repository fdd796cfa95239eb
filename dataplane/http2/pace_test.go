package http2

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// paced serves a client in memory, whose bytes are taken only when they are read, and counts the handlers that
// have begun. The windows have room for all answers.
func paced(t *testing.T, cfg Config, handler func(message.Exchange)) (p *peer, begun *atomic.Int32) {
	p, begun = pacedBy(t, cfg, 1<<30, handler)
	p.fr.WriteWindowUpdate(0, 1<<30)
	return p, begun
}

// pacedBy is paced with the window given for each stream, and that of RFC 9113 §6.9.2 for all.
func pacedBy(t *testing.T, cfg Config, window uint32, handler func(message.Exchange)) (p *peer, begun *atomic.Int32) {
	a, b := net.Pipe()
	begun = new(atomic.Int32)
	done := make(chan error, 1)
	go func() {
		done <- ServeConn(context.Background(), b, cfg, func(x message.Exchange) {
			begun.Add(1)
			handler(x)
		})
	}()
	t.Cleanup(func() { a.Close(); <-done })
	p = newPeer(t, a)
	_ = a.SetDeadline(time.Time{})
	p.hello(true, xhttp2.Setting{ID: settingInitialWindowSize, Val: window})
	p.fr.WriteSettingsAck()
	return p, begun
}

// ask sends requests for as long as they are taken.
func (p *peer) ask(from, n int) { go p.asks(from, n) }

// asks is ask that waits.
func (p *peer) asks(from, n int) {
	for i := from; i < from+n; i++ {
		block := p.block(with(get, "x-fill: "+strings.Repeat("z", 700))...)
		if p.fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: block, EndStream: true, EndHeaders: true}) != nil {
			return
		}
	}
}

// TestAClientThatTakesNoAnswersIsNotReadFrom has room for all answers by the protocol, and a socket that
// nobody reads. The control takes up all that it is asked.
func TestAClientThatTakesNoAnswersIsNotReadFrom(t *testing.T) {
	for _, tt := range []struct {
		name        string
		first       int
		least, most int32
	}{{"bound", 0, 4, 48}, {"control: no bound", -1, 200, 300}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, begun := paced(t, Config{FirstStreams: tt.first, OpenHeadBytes: -1}, func(x message.Exchange) {
					if x.Respond(&message.Head{Status: 200, Length: 8 << 10}, false) == nil {
						_, _ = x.Write(make([]byte, 8<<10))
						_ = x.Finish(nil)
					}
				})
				p.ask(0, 300)
				<-time.After(5 * time.Second)
				if n := begun.Load(); n < tt.least || n > tt.most {
					t.Errorf("%d requests were taken up, want %d to %d", n, tt.least, tt.most)
				}
				go func() { // it reads after all
					for {
						if l := p.next(); l == "EOF" {
							return
						}
					}
				}()
				if <-time.After(5 * time.Second); tt.first == 0 && begun.Load() != 300 {
					t.Errorf("%d of 300 requests were taken up in the end", begun.Load())
				}
			})
		})
	}
}

// TestAConnectionBeginsGently asks an application that takes its time, and one that does not.
func TestAConnectionBeginsGently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		p, begun := paced(t, Config{}, func(x message.Exchange) {
			if !strings.HasPrefix(string(x.Request().Path), "/quick") {
				<-hang
			}
			_ = x.Respond(&message.Head{Status: 204, Length: 0}, true)
		})
		go func() {
			for p.next() != "EOF" {
			}
		}()
		p.ask(0, 250)
		synctest.Wait()
		if n := begun.Load(); n != 32 {
			t.Errorf("%d requests were taken up at once, want 32", n)
		}
		<-time.After(141 * time.Millisecond)
		synctest.Wait()
		if n := begun.Load(); n != 250 {
			t.Errorf("%d requests of 250 were taken up within 141 ms", n)
		}
		close(hang)
		synctest.Wait()
		p.ask(250, 250)
		synctest.Wait()
		if n := begun.Load(); n != 500 {
			t.Errorf("%d requests of a connection that is well known were taken up at once, want all 250", n-250)
		}
	})
}

// TestTimeGivesNoMoreToWhoReadsNothing asks a slow application over a socket that nobody reads: the first requests are taken
// up, and no more of them as time goes by, until somebody does.
func TestTimeGivesNoMoreToWhoReadsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		p, begun := paced(t, Config{}, func(x message.Exchange) {
			<-hang
			_ = x.Respond(&message.Head{Status: 204, Length: 0}, true)
		})
		p.ask(0, 250)
		<-time.After(5 * time.Second)
		if n := begun.Load(); n != 32 {
			t.Errorf("%d requests were taken up for a client that reads nothing, want 32", n)
		}
		p.watch(nil)
		<-time.After(200 * time.Millisecond)
		if n := begun.Load(); n != 250 {
			t.Errorf("%d requests of 250 were taken up when it read", n)
		}
		close(hang)
		synctest.Wait()
	})
}
