package http2

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/internal/foreign"
)

// TestH2Spec runs github.com/summerwind/h2spec in strict mode against ServeConn. The listeners
// that stand on it are held against it too, where they are: in the packages tunnel and agent.
func TestH2Spec(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer l.Close()
	defer cancel()
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				_ = ServeConn(ctx, c, Config{}, func(x message.Exchange) {
					if _, err := io.Copy(io.Discard, x); err != nil {
						return
					}
					if x.Respond(&message.Head{Status: 200, Length: 5}, false) == nil {
						x.Write([]byte("hello"))
						x.Finish(nil)
					}
				})
			})
		}
	})
	foreign.H2Spec(t, l.Addr().String())
}
