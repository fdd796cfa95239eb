package load

import (
	"fmt"
	"sync"
	"testing"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestBytesAreCounted by all that end at once, of so many services, and without allocations once they are known.
func TestBytesAreCounted(t *testing.T) {
	var b Bytes
	var all sync.WaitGroup
	for k := range 8 {
		all.Go(func() {
			for i := range 100 {
				b.Add(mesh.ServiceName{Namespace: "shop", Name: fmt.Sprint(i % 10)}, int64(k), 2)
			}
		})
	}
	all.Wait()
	for i := range 10 {
		if sent, received := b.read(mesh.ServiceName{Namespace: "shop", Name: fmt.Sprint(i)}); sent != 280 || received != 160 {
			t.Errorf("service %d: %d sent and %d received, want 280 and 160", i, sent, received)
		}
	}
	n := mesh.ServiceName{Namespace: "shop", Name: "3"}
	if got := testing.AllocsPerRun(100, func() { b.Add(n, 1, 1) }); got != 0 {
		t.Errorf("%g allocations a request", got)
	}
	for i := range 2 * bytesMost {
		b.Add(mesh.ServiceName{Namespace: "flood", Name: fmt.Sprint(i)}, 1, 1)
	}
	if got := len(*b.by.Load()); got != bytesMost {
		t.Errorf("%d services are counted, want %d at most", got, bytesMost)
	}
}
