package proxy_test

import (
	"io"
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

// rests is a server whose answer comes in pieces, and which says when one is there. It notes the size of each Read that
// waited, and of the largest.
type rests struct {
	*stream
	more          chan []byte // nil: the end
	left          []byte
	waited, asked int
}

func (s *rests) Ready() bool { return len(s.left) > 0 }

func (s *rests) Read(p []byte) (int, error) {
	s.asked = max(s.asked, len(p))
	if len(s.left) == 0 {
		s.waited = len(p)
		if s.left = <-s.more; s.left == nil {
			return 0, io.EOF
		}
	}
	n := copy(p, s.left)
	s.left = s.left[n:]
	return n, nil
}

// roomy is a client with room for so many bytes.
type roomy struct {
	*exchange
	room int
}

func (r roomy) Room() int { return r.room }

// TestAnAnswerThatRestsIsWaitedForWithASmallBuffer: so is one that the client has no room for; one that comes in bulk is read
// into much, but no more than there is room for.
func TestAnAnswerThatRestsIsWaitedForWithASmallBuffer(t *testing.T) {
	for _, tt := range []struct {
		name               string
		size, room         int
		waited, asked, all int
	}{
		{"little at a time", 10, 1 << 20, 512, 512, 40},
		{"bulk", 8 << 10, 1 << 20, 16 << 10, 16 << 10, 32 << 10},
		{"bulk, with little room", 8 << 10, 3000, 3000, 3000, 32 << 10},
		{"bulk, and no room", 8 << 10, 0, 512, 512, 32 << 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, nil)
				ex := roomy{get("catalog.shop", "/"), tt.room}
				server := &rests{stream: answer(200, "x"), more: make(chan []byte)}
				w.script = []any{server}
				for i := range 4 {
					time.AfterFunc(time.Duration(i+1)*100*time.Millisecond, func() { server.more <- make([]byte, tt.size) })
				}
				time.AfterFunc(time.Second, func() { server.more <- nil })
				w.proxy.Outbound(ex, proxy.Via{})
				if ex.status != 200 || ex.out.Len() != tt.all {
					t.Errorf("%d, and %d bytes came, want %d", ex.status, ex.out.Len(), tt.all)
				}
				if server.waited != tt.waited || server.asked != tt.asked {
					t.Errorf("waited with %d bytes, and asked for %d at most, want %d and %d", server.waited, server.asked, tt.waited, tt.asked)
				}
			})
		})
	}
}
