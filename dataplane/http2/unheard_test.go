package http2

import (
	"context"
	"errors"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// TestAnUnheardWaitIsTold: of a stream whose time is up it is known whether anything was read meanwhile, of whatever: here the
// answer to a PING.
func TestAnUnheardWaitIsTold(t *testing.T) {
	for name, heard := range map[string]bool{"silence": false, "a PING is answered": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, s := net.Pipe()
				ctx, stop := context.WithCancel(t.Context())
				served, release := make(chan error, 1), make(chan struct{})
				go func() { served <- ServeConn(ctx, s, Config{}, func(message.Exchange) { <-release }) }()
				cc, err := NewClientConn(c, Config{})
				if err != nil {
					t.Fatal(err)
				}
				<-time.After(time.Second) // both have settled
				st, err := cc.Open(ctx)
				if err != nil {
					t.Fatal(err)
				}
				st.SetDeadline(time.Now().Add(time.Second))
				if err := st.Send(request("GET", "/"), true); err != nil {
					t.Fatal(err)
				}
				if heard {
					<-time.After(100 * time.Millisecond)
					if _, err := cc.Ping(ctx); err != nil {
						t.Fatal(err)
					}
				}
				_, err = st.Receive(new(message.Head))
				if !errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, message.ErrUnheard) == heard {
					t.Errorf("%v, want a deadline, unheard %v", err, !heard)
				}
				st.Close()
				close(release)
				cc.Close()
				stop()
				<-served
			})
		})
	}
}
