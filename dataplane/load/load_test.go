package load

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestBytesAreCounted by all that end at once, of so many services, and without allocations once they are known.
func TestBytesAreCounted(t *testing.T) {
	var b Bytes
	var all sync.WaitGroup
	for k := range 8 {
		all.Go(func() {
			for i := range 100 {
				b.Add(mesh.ServiceName{Namespace: "shop", Name: fmt.Sprint(i % 10)}, int64(k), 2, time.Millisecond)
			}
		})
	}
	all.Wait()
	for i := range 10 {
		if sent, received, took := b.read(mesh.ServiceName{Namespace: "shop", Name: fmt.Sprint(i)}); sent != 280 || received != 160 || took != 80e6 {
			t.Errorf("service %d: %d sent, %d received and %d ns, want 280, 160 and 80 ms", i, sent, received, took)
		}
	}
	n := mesh.ServiceName{Namespace: "shop", Name: "3"}
	if got := testing.AllocsPerRun(100, func() { b.Add(n, 1, 1, 2*longest) }); got != 0 {
		t.Errorf("%g allocations a request", got)
	}
	if _, _, took := b.read(n); took != 80e6 {
		t.Errorf("a stream counts as a call that takes %d ns", took-80e6)
	}
	for i := range 2 * bytesMost {
		b.Add(mesh.ServiceName{Namespace: "flood", Name: fmt.Sprint(i)}, 1, 1, 0)
	}
	if got := len(*b.by.Load()); got != bytesMost {
		t.Errorf("%d services are counted, want %d at most", got, bytesMost)
	}
}
