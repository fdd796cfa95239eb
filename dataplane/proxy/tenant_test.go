package proxy_test

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/dataplane/tenancy"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// slack is a client that takes nothing of an answer's body, or sends nothing of its own, until it is
// thrown out.
type slack struct {
	*exchange
	out  chan struct{} // closed by Abort
	once sync.Once
}

func (s *slack) Write([]byte) (int, error) { <-s.out; return 0, net.ErrClosed }

func (s *slack) Read(p []byte) (int, error) {
	if s.head.Length == 0 {
		return s.exchange.Read(p)
	}
	<-s.out
	return 0, net.ErrClosed
}

func (s *slack) Abort(error) { s.once.Do(func() { close(s.out) }) }

// waiting is a stream that answers when the request's body has ended, or when it is cut.
type waiting struct{ *stream }

func (s waiting) Receive(h *message.Head) (bool, error) {
	select {
	case <-s.bodyEnd:
		return s.stream.Receive(h)
	case <-s.wait():
		return false, net.ErrClosed
	}
}

// TestClientsThatKeepTheApplicationWaitingGiveWay fills every connection of an application with requests
// whose clients take nothing of their answers or send nothing of their bodies. The control has more
// patience with them than others have.
func TestClientsThatKeepTheApplicationWaitingGiveWay(t *testing.T) {
	for _, tt := range []struct {
		name  string
		ask   func() *exchange
		grace time.Duration
		want  int
	}{
		{"answers that are not taken", func() *exchange { return asked("/") }, time.Second, 200},
		{"bodies that do not come", func() *exchange {
			ex := asked("/")
			ex.head.Method, ex.head.Length = []byte("POST"), 10<<20
			return ex
		}, time.Second, 200},
		{"control: they are let have it", func() *exchange { return asked("/") }, time.Hour, 503},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := limited(t, &ir.Traffic{})
				cfg := w.cfg
				cfg.Places = tenancy.Config{Most: 8, Grace: tt.grace}
				var open atomic.Int32
				cfg.App = func(string, mesh.Protocol) (message.Stream, error) {
					if open.Add(1) > 8 {
						t.Error("more connections to the application than there are places")
					}
					return counted{waiting{answer(200, "ok")}, &open}, nil
				}
				var blamed atomic.Int32
				cfg.Done = func(r *proxy.Record) {
					if r.Reason == mesh.ReasonOverloaded {
						blamed.Add(1)
					}
				}
				p := proxy.New(cfg)
				var all sync.WaitGroup
				var slow []*slack
				for i := range 8 {
					s := &slack{exchange: tt.ask(), out: make(chan struct{})}
					slow = append(slow, s)
					who := peer
					if i%2 == 0 {
						who.Identity.ServiceAccount = "cart"
					}
					all.Go(func() { p.Inbound(s, who) })
				}
				synctest.Wait()
				if open.Load() != 8 {
					t.Fatalf("%d connections are held", open.Load())
				}
				began := time.Now()
				honest := asked("/")
				p.Inbound(honest, peer)
				if honest.status != tt.want {
					t.Errorf("%d %q after %v, want %d", honest.status, honest.out.String(), time.Since(began), tt.want)
				}
				synctest.Wait() // who had to go may still be on its way out
				if tt.want == 200 && (time.Since(began) > 2*tt.grace || blamed.Load() != 1) {
					t.Errorf("answered after %v; %d requests had to go", time.Since(began), blamed.Load())
				}
				if tt.want != 200 && honest.field("isthmus-not-executed") != "overloaded" {
					t.Errorf("%q, want it refused as overload", honest.fields)
				}
				for _, s := range slow {
					s.Abort(nil)
				}
				all.Wait()
				if open.Load() != 0 {
					t.Errorf("%d connections are still held", open.Load())
				}
			})
		})
	}
}

// counted is a stream that counts when it is closed.
type counted struct {
	message.Stream
	open *atomic.Int32
}

func (c counted) Close() { c.open.Add(-1); c.Stream.Close() }
