//go:build !race

package tunnel_test

import (
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// A stream on a connection that lives allocates nothing; crypto/tls does 24 bytes for each record
// it reads, at either end (Conn.readFromUntil). (The race detector makes sync.Pool forget,
// so this is not measured under it.)
func TestOpenAllocatesNothing(t *testing.T) {
	m := newMesh(t)
	r, _ := m.server(t, m.east.svid(t, orders, time.Hour), benchHandler())
	d, _ := m.dialer(t, nil)
	w := want(r.addr, 0)
	var h message.Head
	buf := make([]byte, 1<<10)
	deadline := time.Now().Add(time.Hour)
	f := func() {
		if err := roundTrip(d, w, &h, buf, deadline); err != nil {
			t.Fatal(err)
		}
	}
	for range 200 {
		f()
	}
	// Both ends run here and PINGs come by once a second: all goroutines' allocations count.
	if n := testing.AllocsPerRun(1000, f); n > 2 {
		t.Errorf("%v allocations a request, want crypto/tls's two", n)
	}
}
