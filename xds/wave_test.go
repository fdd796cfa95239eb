package xds_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// TestEndlessChangesGoInWaves changes a resource each millisecond of virtual time, to fifty clients: the first
// change waits for nothing, then messages keep to their rate, and the last change arrives soon.
func TestEndlessChangesGoInWaves(t *testing.T) {
	const clients, changes = 50, 300
	story(t, nil, func(t *testing.T, r *replica) {
		var all []*proxy
		for i := range clients {
			p := newProxy(r, fmt.Sprint("shop/cart-", i), nil)
			p.Subscribe(typeTarget, "a")
			p.start()
			defer p.stop()
			all = append(all, p)
		}
		r.settle()
		pass(time.Second)
		value := func(p *proxy) string { return p.held(typeTarget)["a"] }
		before := r.Counters().Responses
		for i := range changes {
			r.change(put(typeTarget, "a", fmt.Sprint(i)))
			synctest.Wait()
			if got := value(all[clients-1]); i < 2000/clients && got != fmt.Sprint(i) {
				t.Fatalf("%q is held after change %d, want it at once: there was quiet before", got, i)
			}
			pass(time.Millisecond)
		}
		sent := r.Counters().Responses - before
		if most := uint64(2_000 + 10_000*changes/1000 + clients); sent > most || sent < most*9/10 {
			t.Errorf("%d messages to %d clients, want %d, as many as the rate allows", sent, clients, most)
		}
		r.change(put(typeTarget, "a", "last"), put(typeTarget, "b", "new"))
		all[0].Subscribe(typeTarget, "b")
		r.settle()
		if got := all[0].held(typeTarget); got["a"] != "last" || got["b"] != "new" {
			t.Errorf("who asks holds %q, want that it does not wait", got)
		}
		pass(20 * time.Millisecond)
		for i, p := range all {
			if got := value(p); got != "last" {
				t.Errorf("client %d holds %q, want the last change", i, got)
			}
		}
	})
}
