package proxy_test

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
)

// stalled is a client that takes nothing of a body until it is let go.
type stalled struct {
	roomy
	wrote *sync.WaitGroup
	goOn  chan struct{}
}

func (s *stalled) Settle() { s.head = message.Head{} }

func (s *stalled) Write(p []byte) (int, error) {
	if s.out.Len() == 0 {
		s.wrote.Done()
		<-s.goOn
	}
	return s.out.Write(p)
}

// TestAnAnswerThatWaitsHoldsNoHeads has answers wait for clients that take none, who asked with large heads: those are not
// held, and what is told of the requests in the end is what was. The control has clients that said that they had room.
func TestAnAnswerThatWaitsHoldsNoHeads(t *testing.T) {
	const many, size = 64, 16 << 10
	held := func(room int) (each int) {
		heap := func() int {
			runtime.GC()
			runtime.GC() // what pools hold
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return int(m.HeapAlloc)
		}
		w := newWorld(t, 1, nil)
		var wrote, served sync.WaitGroup
		goOn := make(chan struct{})
		clients := make([]*stalled, many)
		worlds := make([]*world, many)
		before := heap()
		for i := range clients {
			c := &stalled{roomy{get("catalog.shop", fmt.Sprintf("/%d", i)), room}, &wrote, goOn}
			c.with("x-fill", strings.Repeat("z", size)).with("x-request-id", fmt.Sprintf("id-%d", i))
			worlds[i] = newWorld(t, 1, nil) // its record and script are not for many at once
			worlds[i].state = w.state
			worlds[i].script = []any{answer(200, "yes").says("x-more", strings.Repeat("y", 2000))}
			clients[i] = c
			wrote.Add(1)
			served.Go(func() { worlds[i].proxy.Outbound(c, proxy.Via{}) })
		}
		wrote.Wait()
		each = (heap() - before) / many
		close(goOn)
		served.Wait()
		for i, c := range clients {
			r := worlds[i].last
			want := fmt.Sprintf("GET catalog.shop/%d id-%d 200 yes", i, i)
			if got := fmt.Sprintf("%s %s%s %s %d %s", r.Method, r.Host, r.Path, r.RequestID, r.Status, bytes.TrimSpace(c.out.Bytes())); got != want {
				t.Errorf("told of a request: %q, want %q", got, want)
			}
		}
		return each
	}
	with, without := held(0), held(1<<20)
	if without-with < 2*size {
		t.Errorf("a request holds %d bytes, and %d without, want two heads of %d less", with, without, size)
	}
	t.Logf("a request holds %d bytes, control %d", with, without)
}
