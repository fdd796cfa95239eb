package tunnel_test

import (
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/tunnel"
)

// TestSlownessIsNotSilence has nothing come back for a while: because the peer does not get to run, which its kernel
// betrays by acknowledging what it is sent, or that its queue is full, or because we do not, which our own late timers
// betray.
func TestSlownessIsNotSilence(t *testing.T) {
	for _, tt := range []struct {
		name string
		held time.Duration
		// late makes the dialer's looks come late: its clock jumps between them.
		late bool
		body int  // of the request: more than the peer's narrow queue takes, less than a window of HTTP/2
		want bool // the request survives
	}{
		{"a peer that does not get to run for 0.7 s", 700 * time.Millisecond, false, 0, true},
		{"a peer that does not get to run for 0.7 s, whose queue is full", 700 * time.Millisecond, false, 60 << 10, true},
		{"we do not get to run for 1.4 s", 1400 * time.Millisecond, true, 0, true},
		{"control: silence that goes on, while we run", 15 * time.Second, false, 0, false},
		{"control: silence that goes on, behind a full queue", 15 * time.Second, false, 60 << 10, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := newMesh(t)
			hang, inside := make(chan struct{}), make(chan struct{}, 10)
			srv, _ := m.server(t, m.east.svid(t, orders, time.Hour), func(ex message.Exchange, p tunnel.Peer) {
				if string(ex.Request().Path) == "/hang" {
					inside <- struct{}{}
					<-hang
				}
				answerWith("hello")(ex, p)
			})
			l := newLink(t, func() netip.AddrPort { return srv.addr })
			l.mu.Lock()
			l.narrow = tt.body > 0
			l.mu.Unlock()
			var jumped atomic.Int64
			d, _ := m.dialer(t, func(c *tunnel.DialerConfig) {
				c.Now = func() time.Time { return time.Now().Add(time.Duration(jumped.Load())) }
			})
			mustGet(t, d, want(l.addr, 0))
			s, err := d.Open(time.Time{}, want(l.addr, 0))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			var h message.Head
			requestHead(&h)
			h.Path, h.Method, h.Length = h.KeepString("/hang"), h.KeepString("POST"), int64(tt.body)
			if err := s.Send(&h, tt.body == 0); err != nil {
				t.Fatal(err)
			}
			<-inside
			l.hold(true, false)
			done := make(chan error, 1)
			go func() {
				if tt.body > 0 {
					_, _ = s.Write(make([]byte, tt.body))
					_ = s.CloseWrite(nil)
				}
				_, err := s.Receive(&h)
				done <- err
			}()
			jump := time.NewTicker(20 * time.Millisecond)
			defer jump.Stop()
			release := time.After(tt.held)
			over := false
			for held := true; held; {
				select {
				case err = <-done:
					over, held = true, false
				case <-jump.C:
					if tt.late { // every look, of one in 100 ms, is 50 ms late
						jumped.Add(int64(10 * time.Millisecond))
					}
				case <-release:
					held = false
				}
			}
			l.hold(false, false)
			close(hang)
			if !over {
				err = <-done
			}
			if (err == nil) != tt.want || err != nil && !errors.Is(err, tunnel.ErrSilent) {
				t.Errorf("%v, want survived %v", err, tt.want)
			}
		})
	}
}
