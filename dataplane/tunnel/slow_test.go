package tunnel_test

import (
	"errors"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/tunnel"
)

// bulkOver sends so many bytes to a server and back over a link of 32 KiB a second, the kernel's
// queues before it, and returns how that ends.
func bulkOver(t *testing.T, m *mesh2, up, down int64, slow time.Duration) error {
	t.Helper()
	srv, _ := m.server(t, m.east.svid(t, orders, time.Hour), func(ex message.Exchange, _ tunnel.Peer) {
		if _, err := io.Copy(io.Discard, struct{ io.Reader }{ex}); err != nil {
			return
		}
		var h message.Head
		h.Reset()
		h.Status, h.Length = 200, down
		if ex.Respond(&h, false) != nil {
			return
		}
		if _, err := ex.Write(make([]byte, down)); err == nil {
			_ = ex.Finish(nil)
		}
	})
	l := newLink(t, func() netip.AddrPort { return srv.addr })
	d, _ := m.dialer(t, nil)
	first, err := d.Open(time.Time{}, want(l.addr, 0)) // a connection, and its round trip, as long as the link is quick
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	l.mu.Lock()
	l.slow = slow
	l.mu.Unlock()
	s, err := d.Open(time.Time{}, want(l.addr, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.SetDeadline(time.Now().Add(2 * time.Minute))
	var h message.Head
	requestHead(&h)
	h.Method, h.Length = h.KeepString("POST"), up
	if err := s.Send(&h, false); err != nil {
		return err
	}
	if _, err := s.Write(make([]byte, up)); err != nil {
		return err
	}
	if err := s.CloseWrite(nil); err != nil {
		return err
	}
	if _, err := s.Receive(&h); err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, struct{ io.Reader }{s})
	if err == nil && n != down {
		t.Errorf("%d bytes of %d", n, down)
	}
	return err
}

// TestAVerySlowLinkIsNeverSilent moves bulk over a link on which a PING stands behind seconds of it.
// The control is a server that does not say what reaches it, behind a link on which that takes longer than what a
// peer whose kernel acknowledges is given.
func TestAVerySlowLinkIsNeverSilent(t *testing.T) {
	t.Run("up", func(t *testing.T) {
		t.Parallel()
		if err := bulkOver(t, newMesh(t), 256<<10, 1, 64*time.Millisecond); err != nil {
			t.Error(err)
		}
	})
	t.Run("down", func(t *testing.T) {
		t.Parallel()
		if err := bulkOver(t, newMesh(t), 1, 256<<10, 64*time.Millisecond); err != nil {
			t.Error(err)
		}
	})
	t.Run("control", func(t *testing.T) {
		t.Parallel()
		m := newMesh(t)
		m.mute = true
		if err := bulkOver(t, m, 256<<10, 1, 256*time.Millisecond); !errors.Is(err, tunnel.ErrSilent) {
			t.Errorf("%v without reports, want ErrSilent", err)
		}
	})
}

// TestAnswersThatNobodyReadsHoldUpNoOther has streams of one connection stand full and unread, and asks for one more. The
// control is a room that they fill together.
func TestAnswersThatNobodyReadsHoldUpNoOther(t *testing.T) {
	const streams = 80
	for name, room := range map[string]int{"room for all": 0, "control": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMesh(t)
			full := make(chan struct{}, streams)
			srv, _ := m.server(t, m.east.svid(t, orders, time.Hour), func(ex message.Exchange, p tunnel.Peer) {
				if string(ex.Request().Path) != "/big" {
					answerWith("hello")(ex, p)
					return
				}
				var h message.Head
				h.Reset()
				h.Status, h.Length = 200, 1<<20
				err := ex.Respond(&h, false)
				if err == nil {
					_, err = ex.Write(make([]byte, tunnel.NearWindow))
				}
				if err == nil {
					full <- struct{}{}
					_, err = ex.Write(make([]byte, 1<<20-tunnel.NearWindow))
				}
				ex.Abort(err)
			})
			d, _ := m.dialer(t, nil)
			if room > 0 {
				d.SetConnBuffer(room)
			}
			for range streams {
				s, err := d.Open(time.Time{}, want(srv.addr, 0))
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				var h message.Head
				requestHead(&h)
				h.Path = h.KeepString("/big")
				if err := s.Send(&h, true); err != nil {
					t.Fatal(err)
				}
			}
			limit := time.After(10 * time.Second)
			if room > 0 {
				limit = time.After(2 * time.Second)
			}
			n := 0
			for late := false; n < streams && !late; {
				select {
				case <-full:
					n++
				case <-limit:
					late = true
				}
			}
			if (n == streams) != (room == 0) {
				t.Errorf("%d of %d streams got their window's worth with room for %d bytes", n, streams, room)
			}
			if room == 0 {
				mustGet(t, d, want(srv.addr, 0))
			}
		})
	}
}
