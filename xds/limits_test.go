package xds_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/xds"
)

func TestLargeSetsAreSplit(t *testing.T) {
	story(t, nil, func(t *testing.T, r *replica) {
		for i := range 10 {
			r.keep([]xds.Update{put(typeTarget, fmt.Sprint(i), strings.Repeat(fmt.Sprint(i), 300<<10))})
		}
		p := newProxy(r, "shop/cart-0", nil)
		p.Subscribe(typeTarget, xds.Wildcard)
		p.start()
		defer p.stop()
		r.settle()
		batches := p.take()
		if len(batches) != 4 { // three fit a message
			t.Errorf("%d batches, want 4", len(batches))
		}
		for i, b := range batches {
			if last := i == len(batches)-1; b.Complete != last {
				t.Errorf("batch %d of %d: complete %v", i, len(batches), b.Complete)
			}
		}
		if n := len(p.held(typeTarget)); n != 10 {
			t.Errorf("%d held, want 10", n)
		}
		r.change(put(typeTarget, "large", strings.Repeat("x", xds.MaxMessage)), put(typeTarget, "0", strings.Repeat("x", xds.MaxMessage)), put(typeTarget, "small", "1"))
		wantBatches(t, p, "test/Target +small=1")
		if n := r.Counters().TooLarge; n != 2 {
			t.Errorf("%d resources counted as too large, want 2", n)
		}
	})
}

func TestASlowReaderSkipsToTheNewest(t *testing.T) {
	story(t, nil, func(t *testing.T, r *replica) {
		slow, fast := newProxy(r, "shop/slow", nil), newProxy(r, "shop/fast", nil)
		slow.model.gate = make(chan struct{}, 100)
		slow.model.gate <- struct{}{}
		for _, p := range []*proxy{slow, fast} {
			p.Subscribe(typeTarget, xds.Wildcard)
			p.start()
			defer p.stop()
		}
		r.settle()
		for i := range 50 {
			r.change(put(typeTarget, "a", fmt.Sprint(i)), put(typeTarget, "b", fmt.Sprint(i)))
			synctest.Wait()
		}
		if c := r.Clients()[1]; c.Node.ID != "shop/slow" || c.InSync() || !c.Types[0].Pending || c.Types[0].Queued != 2 {
			t.Errorf("%+v, want a response pending and two names queued", c)
		}
		close(slow.model.gate)
		wantBatches(t, slow, "test/Target complete", "test/Target +a=0 +b=0", "test/Target +a=49 +b=49")
		if n := len(fast.take()); n != 51 {
			t.Errorf("the fast reader was sent %d batches, want 51", n)
		}
	})
}

func TestRemovalsWaitForAnswers(t *testing.T) {
	story(t, nil, func(t *testing.T, r *replica) {
		p := newProxy(r, "shop/cart-0", nil)
		p.model.gate = make(chan struct{}, 100)
		p.Subscribe(typeRefer, xds.Wildcard)
		p.Subscribe(typeTarget, xds.Wildcard)
		p.start()
		defer p.stop()
		p.model.gate <- struct{}{}
		p.model.gate <- struct{}{}
		r.settle()
		r.change(put(typeTarget, "old", "1"), put(typeRefer, "a", "old"))
		p.model.gate <- struct{}{}
		p.model.gate <- struct{}{}
		synctest.Wait()
		p.take()
		sent := r.Counters().Responses
		r.change(remove(typeTarget, "old"), put(typeTarget, "new", "1"), put(typeRefer, "a", "new"))
		synctest.Wait()
		if n := r.Counters().Responses - sent; n != 2 {
			t.Errorf("%d responses before any was answered, want the two additions", n)
		}
		p.model.gate <- struct{}{}
		wantBatches(t, p, "test/Target +new=1")
		p.model.gate <- struct{}{}
		wantBatches(t, p, "test/Refer +a=new")
		p.model.gate <- struct{}{}
		wantBatches(t, p, "test/Target -old")
	})
}

func TestReconnectsDoNotEndWatches(t *testing.T) {
	story(t, func(c *xds.ServerConfig) { c.Linger = 30 * time.Second }, func(t *testing.T, r *replica) {
		named, all := [2]string{typeLoose, "a"}, [2]string{typeTarget, xds.Wildcard}
		watches := func(want int, when string) {
			t.Helper()
			synctest.Wait()
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.watched[named] != want || r.watched[all] != want {
				t.Errorf("%s: watched %v, want each %d times", when, r.watched, want)
			}
		}
		connect := func() *proxy {
			p := newProxy(r, "shop/cart-0", nil)
			p.Subscribe(typeLoose, "a")
			p.Subscribe(typeTarget, xds.Wildcard)
			p.start()
			r.settle()
			return p
		}
		r.keep([]xds.Update{put(typeTarget, "t", "1")})
		p := connect()
		watches(1, "connected")
		p.stop()
		pass(29 * time.Second)
		p = connect()
		wantBatches(t, p, "test/Target +t=1 complete", "test/Loose -a complete")
		pass(29 * time.Second)
		watches(1, "connected again within the linger")
		p.stop()
		pass(28 * time.Second)
		watches(1, "gone again") // though it is long since it left first
		pass(33 * time.Second)
		watches(0, "after the linger")
		p = connect()
		watches(1, "connected once more")
		wantBatches(t, p, "test/Target +t=1 complete", "test/Loose -a complete")
		p.stop()
	})
}

func TestFirstConfigurationsTakeTurns(t *testing.T) {
	story(t, func(c *xds.ServerConfig) { c.MaxFirst = 2 }, func(t *testing.T, r *replica) {
		r.keep([]xds.Update{put(typeTarget, "t", "1")})
		var stuck []*proxy
		for i := range 2 {
			p := newProxy(r, fmt.Sprint("shop/stuck-", i), nil)
			p.model.gate = make(chan struct{})
			p.Subscribe(typeTarget, xds.Wildcard)
			p.start()
			stuck = append(stuck, p)
		}
		r.settle()
		var others []*proxy
		for i := range 10 {
			p := newProxy(r, fmt.Sprint("shop/other-", i), nil)
			p.Subscribe(typeTarget, xds.Wildcard)
			p.start()
			defer p.stop()
			others = append(others, p)
		}
		r.settle()
		queued := 0
		for _, c := range r.Clients() {
			if c.Queued {
				queued++
			}
		}
		if queued != 10 {
			t.Errorf("%d streams wait for their turn, want 10", queued)
		}
		pass(2 * time.Second) // those that are stuck lose their place
		for _, p := range others {
			wantBatches(t, p, "test/Target +t=1 complete")
		}
		for _, p := range stuck {
			close(p.model.gate)
			wantBatches(t, p, "test/Target +t=1 complete")
			p.stop()
		}
	})
}

func TestRefusedStreams(t *testing.T) {
	tests := []struct {
		name string
		edit func(*xds.ServerConfig)
		on   func(*replica)
		code codes.Code
	}{
		{"unknown peer", func(c *xds.ServerConfig) {
			c.Identify = func(context.Context) (mesh.Identity, error) { return mesh.Identity{}, errors.New("no certificate") }
		}, nil, codes.Unauthenticated},
		{"no scope", nil, func(r *replica) { r.refuse = errors.New("not yours") }, codes.PermissionDenied},
		{"too many streams", func(c *xds.ServerConfig) { c.MaxStreams = -1 }, nil, codes.ResourceExhausted},
		{"fault of ours", func(c *xds.ServerConfig) {
			c.Identify = func(context.Context) (mesh.Identity, error) { panic("a fault") }
		}, nil, codes.Internal},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			story(t, tt.edit, func(t *testing.T, r *replica) {
				if tt.on != nil {
					tt.on(r)
				}
				p := newProxy(r, "shop/cart-0", nil)
				p.Subscribe(typeTarget, xds.Wildcard)
				p.start()
				defer p.stop()
				synctest.Wait()
				if s := p.State(); !strings.Contains(s.Error, tt.code.String()) || s.Connected {
					t.Errorf("state %+v, want an error of code %s", s, tt.code)
				}
				if n := len(r.Clients()); n != 0 {
					t.Errorf("%d streams are left", n)
				}
			})
		})
	}
}

// faulty is a source with a fault for one node.
type faulty struct{ *origin }

func (f faulty) Scope(n xds.Node, typ string) (string, error) {
	if n.ID == "shop/bad" {
		panic("a fault")
	}
	return f.origin.Scope(n, typ)
}

func TestAFaultCostsOneStream(t *testing.T) {
	story(t, func(c *xds.ServerConfig) { c.Source = faulty{c.Source.(*origin)} }, func(t *testing.T, r *replica) {
		good, bad := newProxy(r, "shop/good", nil), newProxy(r, "shop/bad", nil)
		for _, p := range []*proxy{good, bad} {
			p.Subscribe(typeTarget, xds.Wildcard)
			p.start()
			defer p.stop()
		}
		r.settle()
		wantBatches(t, good, "test/Target complete")
		r.change(put(typeTarget, "t", "1"))
		wantBatches(t, good, "test/Target +t=1")
		wantBatches(t, bad)
		if n := r.Counters().Panics; n == 0 {
			t.Error("the fault was not counted")
		}
	})
}

func TestShutdownTellsClientsToGoElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(nil)
		p := newProxy(r, "shop/cart-0", nil)
		p.Subscribe(typeTarget, xds.Wildcard)
		p.start()
		defer p.stop()
		synctest.Wait()
		if !p.Connected() {
			t.Fatal("not connected")
		}
		r.stop()
		synctest.Wait()
		if s := p.State(); s.Connected || !strings.Contains(s.Error, codes.Unavailable.String()) {
			t.Errorf("state %+v, want unavailable", s)
		}
	})
}

func TestSilenceEndsAConnection(t *testing.T) {
	story(t, nil, func(t *testing.T, r *replica) {
		p := newProxy(r, "shop/cart-0", func(c *xds.ClientConfig) {
			c.Dial = func(context.Context) (grpc.ClientConnInterface, io.Closer, error) {
				conn, err := grpc.NewClient("passthrough:test", append(xds.DialOptions(),
					grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(r.quiet))...)
				return conn, conn, err
			}
		})
		p.Subscribe(typeTarget, xds.Wildcard)
		p.start()
		defer p.stop()
		r.settle()
		p.take()
		pass(time.Minute)
		if s := p.State(); !s.Connected || s.Streams != 1 {
			t.Fatalf("state %+v after a minute without a change, want the first stream", s)
		}
		r.stopped.Store(true) // as SIGSTOP does: open, and silent
		pass(10 * time.Second)
		if p.Connected() {
			t.Error("still connected to a server that was silent for 10 s")
		}
		r.stopped.Store(false)
		pass(10 * time.Second)
		if !p.Connected() {
			t.Errorf("state %+v, want connected again", p.State())
		}
	})
}

// TestSilenceIsNotNoticedBelow is the control of TestSilenceEndsAConnection: without the client that listens for signs of life, the same stream to a server that was
// stopped is as good as ever a minute later, for nothing is sent on it.
func TestSilenceIsNotNoticedBelow(t *testing.T) {
	story(t, nil, func(t *testing.T, r *replica) {
		conn, err := grpc.NewClient("passthrough:test", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(r.quiet))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, xds.Method)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() {
			_, err := stream.Header() // which comes with the first message: never
			ended <- err
		}()
		synctest.Wait()
		r.stopped.Store(true)
		pass(time.Minute)
		if len(ended) > 0 {
			t.Error("the stream ended by itself: the other test shows nothing")
		}
		cancel()
		<-ended
	})
}
