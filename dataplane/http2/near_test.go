package http2

import (
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// TestWhoStopsReadingHoldsNoMoreThanHeTook: on a connection whose window has grown for others, a reader takes some of a large answer and
// stops. From a peer that is near no more than the first window comes while he has taken little, and as much as he took in the end, so that
// bulk is not held up; the control is far, where half of the window for all, or all of it, does, or at once a first window that is large.
func TestWhoStopsReadingHoldsNoMoreThanHeTook(t *testing.T) {
	const first, window, piece = 32 << 10, 4 << 20, 8 << 10
	for _, near := range []bool{true, false} {
		for _, took := range []int{0, 160 << 10, 1 << 20} {
			t.Run(fmt.Sprintf("near %v, %d KiB", near, took>>10), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					client, server := net.Pipe()
					var sent atomic.Int64
					cfg := Config{Near: near, ConnBuffer: 16 << 20}
					if near {
						cfg.InitialWindow = first
					}
					cc := pair(t, cfg, client, server, func(x message.Exchange) {
						if x.Respond(&message.Head{Status: 200, Length: message.LengthUnknown}, false) != nil {
							return
						}
						for {
							n, err := x.Write(make([]byte, piece))
							if sent.Add(int64(n)); err != nil {
								return
							}
						}
					})
					cc.mu.Lock()
					cc.window = window
					cc.replenish()
					cc.mu.Unlock()
					s, err := cc.Open(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					h := request("GET", "/")
					if err := s.Send(h, true); err != nil {
						t.Fatal(err)
					}
					if _, err := s.Receive(h); err != nil {
						t.Fatal(err)
					}
					if _, err := io.ReadFull(struct{ io.Reader }{s}, make([]byte, took)); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
					held := int(sent.Load()) - took
					least, most := first-piece, first
					switch {
					case near && took >= nearTaken*first:
						least, most = took/4, took
					case !near && took == 0:
						least, most = defaultWindow-piece, defaultWindow
					case !near:
						least, most = window/2, window
					}
					if held < least-piece || held > most+piece {
						t.Errorf("%d KiB came that nobody reads, want %d to %d", held>>10, least>>10, most>>10)
					}
					s.Close()
				})
			})
		}
	}
}
