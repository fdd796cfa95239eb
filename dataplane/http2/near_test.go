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
// stops. From a peer that is near as much as he took comes in the end; the control is far, where half of the window for all, or all of it, does.
func TestWhoStopsReadingHoldsNoMoreThanHeTook(t *testing.T) {
	const window, piece = 4 << 20, 8 << 10
	for _, near := range []bool{true, false} {
		for _, took := range []int{0, 160 << 10, 1 << 20} {
			t.Run(fmt.Sprintf("near %v, %d KiB", near, took>>10), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					client, server := net.Pipe()
					var sent atomic.Int64
					cc := pair(t, Config{Near: near, ConnBuffer: 16 << 20}, client, server, func(x message.Exchange) {
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
					least, most := 0, max(took, defaultWindow)+piece
					if !near && took > 0 {
						least, most = window/2, window+piece
					}
					if held < least || held > most {
						t.Errorf("%d KiB came that nobody reads, want %d to %d", held>>10, least>>10, most>>10)
					}
					s.Close()
				})
			})
		}
	}
}
