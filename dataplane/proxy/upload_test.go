package proxy_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
)

// TestWhoDribblesIsWaitedForWithASmallBuffer: a body that comes little by little is read into little, and one that comes in
// bulk into much.
func TestWhoDribblesIsWaitedForWithASmallBuffer(t *testing.T) {
	for size, want := range map[int]int{10: 512, 8 << 10: 16 << 10} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 1, nil)
			ex, server := streaming(), answer(200, "ok")
			server.waitBody = true
			w.script = []any{server}
			for i := range 4 {
				time.AfterFunc(time.Duration(i+1)*100*time.Millisecond, func() { ex.more <- make([]byte, size) })
			}
			time.AfterFunc(time.Second, func() { ex.more <- nil })
			w.proxy.Outbound(ex, proxy.Via{})
			if ex.status != 200 || server.in.Len() != 4*size {
				t.Errorf("%d, and %d bytes came, want %d", ex.status, server.in.Len(), 4*size)
			}
			if ex.asked != want {
				t.Errorf("pieces of %d bytes: the last was waited for with %d bytes, want %d", size, ex.asked, want)
			}
		})
	}
}
