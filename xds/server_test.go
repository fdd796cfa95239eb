package xds_test

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/xds"
)

func TestNamesAreAnsweredAndFollowed(t *testing.T) {
	story(t, nil, func(t *testing.T, r *replica) {
		r.keep([]xds.Update{put(typeLoose, "a", "1")})
		p := newProxy(r, "shop/cart-0", nil)
		p.Subscribe(typeLoose, "a", "nothing")
		p.start()
		defer p.stop()
		r.settle()
		wantBatches(t, p, "test/Loose +a=1 -nothing complete")
		r.change(put(typeLoose, "a", "2"), put(typeLoose, "other", "1"))
		wantBatches(t, p, "test/Loose +a=2")
		r.change(put(typeLoose, "a", "2"))
		wantBatches(t, p)
		r.change(remove(typeLoose, "a"), put(typeLoose, "nothing", "now"))
		wantBatches(t, p, "test/Loose +nothing=now -a")
		p.Unsubscribe(typeLoose, "nothing")
		synctest.Wait()
		r.change(put(typeLoose, "nothing", "later"))
		wantBatches(t, p)
		p.Subscribe(typeLoose, "nothing")
		r.settle()
		wantBatches(t, p, "test/Loose +nothing=later complete")
		if c := r.Clients(); len(c) != 1 || !c[0].InSync() || c[0].Types[0].AckedDigest != p.State().Types[0].Digest {
			t.Errorf("clients %+v, want one in sync with %+v", c, p.State())
		}
	})
}

func TestWildcardIsSentWholeAndFollowed(t *testing.T) {
	story(t, nil, func(t *testing.T, r *replica) {
		r.keep([]xds.Update{put(typeTarget, "a", "1"), put(typeTarget, "b", "1")})
		p := newProxy(r, "shop/cart-0", nil)
		p.Subscribe(typeTarget, xds.Wildcard)
		p.start()
		defer p.stop()
		r.settle()
		wantBatches(t, p, "test/Target +a=1 +b=1 complete")
		r.change(put(typeTarget, "c", "1"), remove(typeTarget, "a"))
		wantBatches(t, p, "test/Target +c=1", "test/Target -a")
		r.change(put(typeTarget, "a", "1"))
		wantBatches(t, p, "test/Target +a=1")
	})
}

func TestResumeSendsTheDifference(t *testing.T) {
	story(t, nil, func(t *testing.T, r *replica) {
		r.change(put(typeTarget, "same", "1"), put(typeTarget, "changed", "2"), put(typeTarget, "new", "1"))
		r.keep([]xds.Update{put(typeRefer, "same", "1")})
		p := newProxy(r, "shop/cart-0", nil)
		p.Seed([]xds.Resource{resource(typeTarget, "same", "1"), resource(typeTarget, "changed", "1"),
			resource(typeTarget, "gone", "1"), resource(typeRefer, "same", "1"), resource(typeRefer, "unwanted", "1")})
		p.Subscribe(typeTarget, xds.Wildcard)
		p.Subscribe(typeRefer, "same")
		p.start()
		defer p.stop()
		r.settle()
		got := brief(p.take())
		want := map[string]bool{"test/Target +changed=2 +new=1": true, "test/Refer complete": true, "test/Target -gone complete": true}
		for _, b := range got {
			if !want[b] {
				t.Errorf("batch %q is not expected", b)
			}
			delete(want, b)
		}
		if len(want) > 0 {
			t.Errorf("missing %v among %q", want, got)
		}
	})
}

func TestRefusalIsolatesTheResource(t *testing.T) {
	story(t, nil, func(t *testing.T, r *replica) {
		p := newProxy(r, "shop/cart-0", nil)
		p.model.refuse = map[string]error{"bad": errors.New("cannot be")}
		p.Subscribe(typeTarget, xds.Wildcard)
		p.start()
		defer p.stop()
		r.settle()
		r.change(put(typeTarget, "a", "1"), put(typeTarget, "b", "1"))
		synctest.Wait()
		r.change(put(typeTarget, "a", "bad"), put(typeTarget, "b", "2"))
		synctest.Wait()
		p.take()
		if got := p.held(typeTarget); got["a"] != "1" || got["b"] != "2" {
			t.Errorf("holds %v, want the good version of a and the new b", got)
		}
		c := r.Clients()[0]
		if c.InSync() || len(c.Types[0].Refused) != 1 || c.Types[0].Refused[0] != (xds.Refusal{Name: "a", Version: "vbad", Message: "cannot be"}) ||
			c.Types[0].AckedDigest != p.State().Types[0].Digest {
			t.Errorf("status %+v, want a refused and the digest of what %+v holds", c, p.State())
		}
		pass(time.Second)
		if len(r.delivered) != 1 || r.delivered[0] != (xds.Delivery{Scope: "all", Type: typeTarget, Name: "a", Version: "vbad", Message: "cannot be", Nodes: 1}) {
			t.Errorf("delivered %+v", r.delivered)
		}
		r.change(put(typeTarget, "b", "3"), put(typeTarget, "a", "bad"))
		wantBatches(t, p, "test/Target +b=3") // what was refused is not sent again
		r.change(put(typeTarget, "a", "1"))
		wantBatches(t, p) // the client has it still
		pass(time.Second)
		if n := len(r.delivered); n != 2 || r.delivered[1].Nodes != 0 || !r.Clients()[0].InSync() {
			t.Errorf("delivered %+v, want the refusal withdrawn", r.delivered)
		}
		r.change(put(typeTarget, "a", "4"))
		wantBatches(t, p, "test/Target +a=4")
	})
}

// wholesale is a client that refuses a response as a whole if anything in it cannot be, as the protocol allows.
type wholesale struct {
	*model
	bad string
}

func (w wholesale) Apply(b xds.Batch) map[string]error {
	if !slices.ContainsFunc(b.Resources, func(r xds.Resource) bool { return string(r.Body) == w.bad }) {
		return w.model.Apply(b)
	}
	out := map[string]error{}
	for _, r := range b.Resources {
		out[r.Name] = errors.New("in a response with what cannot be")
	}
	return out
}

// TestControlRefusalOfAWholeResponse is the control of TestRefusalIsolatesTheResource: where a response is refused as a whole, what came beside the poison is held
// up with it.
func TestControlRefusalOfAWholeResponse(t *testing.T) {
	story(t, nil, func(t *testing.T, r *replica) {
		p := newProxy(r, "shop/cart-0", func(c *xds.ClientConfig) { c.Handler = wholesale{c.Handler.(*model), "bad"} })
		p.Subscribe(typeTarget, xds.Wildcard)
		p.start()
		defer p.stop()
		r.settle()
		r.change(put(typeTarget, "a", "1"), put(typeTarget, "b", "1"))
		synctest.Wait()
		r.change(put(typeTarget, "a", "bad"), put(typeTarget, "b", "2"))
		synctest.Wait()
		if got := p.held(typeTarget); got["b"] != "1" {
			t.Errorf("holds %v: b was not held up, and the other test shows nothing", got)
		}
		if c := r.Clients()[0]; len(c.Types[0].Refused) != 2 {
			t.Errorf("refused %+v, want both", c.Types[0].Refused)
		}
	})
}
