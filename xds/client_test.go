package xds_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/xds"
)

func TestReconnectSendsTheDifference(t *testing.T) {
	story(t, nil, func(t *testing.T, r *replica) {
		r.keep([]xds.Update{put(typeTarget, "a", "1"), put(typeTarget, "b", "1"), put(typeLoose, "n", "1")})
		p := newProxy(r, "shop/cart-0", nil)
		p.Subscribe(typeTarget, xds.Wildcard)
		p.Subscribe(typeLoose, "n")
		p.start()
		defer p.stop()
		r.settle()
		p.take()
		r.cut()
		pass(backoffOver)
		wantBatches(t, p, "test/Target complete", "test/Loose complete") // nothing known is sent again
		r.stopListening()
		r.cut()
		r.change(put(typeTarget, "b", "2"), remove(typeTarget, "a"), put(typeTarget, "c", "1"), remove(typeLoose, "n"))
		pass(backoffOver)
		if p.Connected() {
			t.Error("connected to nobody")
		}
		r.listen()
		pass(20 * time.Second)
		wantBatches(t, p, "test/Target +b=2 +c=1", "test/Loose -n complete", "test/Target -a complete")
	})
}

func TestVectorNeverGoesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ahead, behind := newReplica(nil), newReplica(func(c *xds.ServerConfig) { c.CatchUp = 5 * time.Second })
		defer ahead.stop()
		defer behind.stop()
		ahead.revision, behind.revision = 9, 4
		ahead.change(put(typeTarget, "a", "new"))
		behind.change(put(typeTarget, "a", "old"))
		turn := ahead
		p := newProxy(ahead, "shop/cart-0", func(c *xds.ClientConfig) {
			c.Dial = func(ctx context.Context) (grpc.ClientConnInterface, io.Closer, error) { return turn.dial(ctx) }
		})
		p.Subscribe(typeTarget, xds.Wildcard)
		p.start()
		defer p.stop()
		ahead.settle()
		wantBatches(t, p, "test/Target +a=new complete")

		turn = behind
		ahead.cut()
		pass(backoffOver)
		behind.settle()
		pass(time.Second)
		wantBatches(t, p) // it waits for the replica
		if c := behind.Clients(); len(c) != 1 || !c[0].Behind || c[0].InSync() {
			t.Fatalf("clients %+v, want one that waits", c)
		}
		behind.revision = 10
		behind.change(put(typeTarget, "a", "newer"))
		wantBatches(t, p, "test/Target +a=newer complete")

		behind.revision = 20
		behind.change(put(typeTarget, "a", "newest")) // at revision 21, beyond ahead's
		wantBatches(t, p, "test/Target +a=newest")
		turn = ahead
		behind.cut()
		ahead.Publish(mesh.Vector{"eu": {Epoch: mesh.Epoch{StartMillis: 0, ID: "z"}, Revision: 99}}, nil) // an older history is not newer
		pass(backoffOver)
		wantBatches(t, p)
		pass(12 * time.Second)
		wantBatches(t, p) // nor from the one that was ahead
		turn = behind
		ahead.cut()
		pass(20 * time.Second)
		wantBatches(t, p, "test/Target complete")
	})
}

func TestAReplicaThatStaysBehindSendsClientsOn(t *testing.T) {
	story(t, func(c *xds.ServerConfig) { c.CatchUp = 5 * time.Second }, func(t *testing.T, r *replica) {
		p := newProxy(r, "shop/cart-0", func(c *xds.ClientConfig) {
			c.Node = func() xds.Node {
				return xds.Node{ID: "shop/cart-0", Vector: mesh.Vector{"unheard-of": {Epoch: mesh.Epoch{StartMillis: 1, ID: "a"}, Revision: 1}}}
			}
		})
		p.Subscribe(typeTarget, xds.Wildcard)
		p.start()
		defer p.stop()
		r.settle()
		pass(4900 * time.Millisecond)
		if s := p.State(); !s.Connected || s.Batches != 0 {
			t.Errorf("state %+v, want connected and sent nothing", s)
		}
		pass(150 * time.Millisecond)
		if s := p.State(); s.Connected || !strings.Contains(s.Error, codes.Unavailable.String()) {
			t.Errorf("state %+v, want unavailable", s)
		}
		if n := len(r.Clients()); n != 0 {
			t.Errorf("%d clients are left", n)
		}
	})
}

// TestWhatIsKnownOfAClusterThatLeftHoldsNobodyUp: no server will ever catch up with it.
func TestWhatIsKnownOfAClusterThatLeftHoldsNobodyUp(t *testing.T) {
	story(t, func(c *xds.ServerConfig) { c.Joined = func(n mesh.ClusterName) bool { return n == "eu" } }, func(t *testing.T, r *replica) {
		p := newProxy(r, "shop/cart-0", func(c *xds.ClientConfig) {
			c.Node = func() xds.Node {
				return xds.Node{ID: "shop/cart-0", Vector: mesh.Vector{"left": {Epoch: mesh.Epoch{StartMillis: 1, ID: "a"}, Revision: 1}}}
			}
		})
		p.Subscribe(typeTarget, xds.Wildcard)
		p.start()
		defer p.stop()
		r.settle()
		if s := p.State(); !s.Connected || s.Batches == 0 {
			t.Errorf("state %+v, want connected and served", s)
		}
	})
}

func TestBackoffDoublesAndIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		start := time.Now()
		c := xds.NewClient(xds.ClientConfig{MinBackoff: time.Second, MaxBackoff: 8 * time.Second, Rand: func() float64 { return 0.5 },
			Node: func() xds.Node { return xds.Node{ID: "x"} }, Handler: &model{},
			Dial: func(context.Context) (grpc.ClientConnInterface, io.Closer, error) {
				at = append(at, time.Since(start))
				return nil, nil, errors.New("no way")
			}})
		ctx, stop := context.WithTimeout(t.Context(), 15*time.Second)
		defer stop()
		if err := c.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Run = %v", err)
		}
		ms := time.Millisecond
		if want := []time.Duration{0, 500 * ms, 1500 * ms, 3500 * ms, 7500 * ms, 11500 * ms}; !slices.Equal(at, want) {
			t.Errorf("attempts at %v, want %v", at, want)
		}
	})
}

func TestTwoHundredClientsGetOneChange(t *testing.T) {
	story(t, nil, func(t *testing.T, r *replica) {
		for i := range 100 {
			r.keep([]xds.Update{put(typeTarget, fmt.Sprint(i), "1")})
		}
		var all []*proxy
		for i := range 200 {
			p := newProxy(r, fmt.Sprintf("shop/cart-%03d", i), nil)
			p.Subscribe(typeTarget, xds.Wildcard)
			p.start()
			defer p.stop()
			all = append(all, p)
		}
		r.settle()
		for _, p := range all {
			if n := len(p.held(typeTarget)); n != 100 {
				t.Fatalf("a client holds %d, want 100", n)
			}
			p.take()
		}
		before := r.Counters()
		r.change(put(typeTarget, "7", "2"))
		for _, p := range all {
			wantBatches(t, p, "test/Target +7=2")
		}
		after := r.Counters()
		if r, f := after.Responses-before.Responses, after.Frames-before.Frames; r != 200 || f != 1 {
			t.Errorf("%d responses of %d frames, want 200 of 1", r, f)
		}
		for _, c := range r.Clients() {
			if !c.InSync() || c.Types[0].AckedDigest != all[0].State().Types[0].Digest {
				t.Fatalf("%+v is not in sync", c)
			}
		}
	})
}

func TestSnapshotsBeyondOneRequestResume(t *testing.T) {
	story(t, nil, func(t *testing.T, r *replica) {
		p := newProxy(r, "shop/cart-0", nil)
		var seed []xds.Resource
		name := func(i int) string { return fmt.Sprintf("%s/%05d", strings.Repeat("n", 100), i) }
		for i := range 8000 { // of 8000 × 130 bytes some 7500 fit the first request
			seed = append(seed, resource(typeTarget, name(i), "1"))
			if i%1000 != 999 {
				r.keep([]xds.Update{put(typeTarget, name(i), "1")})
			}
		}
		p.Seed(seed)
		p.Subscribe(typeTarget, xds.Wildcard)
		p.start()
		defer p.stop()
		r.settle()
		removed, again := map[string]bool{}, 0
		for _, b := range p.take() {
			again += len(b.Resources)
			for _, n := range b.Removed {
				removed[n] = true
			}
		}
		for i := 999; i < 8000; i += 1000 {
			if !removed[name(i)] {
				t.Errorf("%s is not said to be gone", name(i))
			}
		}
		if again == 0 || again > 1000 || len(removed) != 8 {
			t.Errorf("%d were sent again, %d removed, want few and 8", again, len(removed))
		}
		if s := p.State(); s.Types[0].Held != 7992 || s.Types[0].Digest != r.Clients()[0].Types[0].AckedDigest {
			t.Errorf("the client holds %d, want 7992 and the server's digest", s.Types[0].Held)
		}
	})
}
