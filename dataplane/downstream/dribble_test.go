package downstream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/downstream"
	"github.com/isthmus-mesh/isthmus/dataplane/http1"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// TestADribbledBodyIsCutOff has bodies of so many bytes a second, by the configuration that proxies have. The control has no least rate,
// and takes eighteen hours for a body of 66,000 bytes.
func TestADribbledBodyIsCutOff(t *testing.T) {
	for _, tt := range []struct {
		bytes   int // a second
		ends    bool
		control bool
	}{{1, true, false}, {90, true, false}, {110, false, false}, {1, false, true}} {
		t.Run(fmt.Sprint(tt.bytes, " bytes a second, control ", tt.control), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, conn := net.Pipe()
				var running sync.WaitGroup
				server := &downstream.Server{HTTP1: downstream.HTTP1(nil), Refused: func(*http1.ParseError) {}, Log: slog.New(slog.DiscardHandler), Go: func(_ net.Conn, f func()) { running.Go(f) }}
				if tt.control {
					server.HTTP1.ReadRateMin = 0
				}
				ctx, stop := context.WithCancel(t.Context())
				back := server.End(ctx, ctx, func() time.Duration { return 0 })
				began := time.Now()
				var err error
				var took time.Duration
				running.Go(func() {
					server.Serve(conn, func(ex message.Exchange) {
						_, err = io.Copy(io.Discard, struct{ io.Reader }{ex})
						took = time.Since(began)
						ex.Abort(err)
					})
				})
				_, _ = io.WriteString(client, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 66000\r\n\r\n")
				for sent := 0; sent < 66000; sent += tt.bytes {
					<-time.After(time.Second)
					if _, werr := io.WriteString(client, strings.Repeat("b", min(tt.bytes, 66000-sent))); werr != nil {
						break
					}
				}
				client.Close()
				stop()
				running.Wait()
				back()
				if tt.ends != errors.Is(err, http1.ErrTooSlow) || !tt.ends && err != nil {
					t.Errorf("%v after %v, want it cut off %v", err, took, tt.ends)
				}
				if tt.control && took < 18*time.Hour {
					t.Errorf("control: cut off after %v", took)
				}
				if tt.bytes == 1 && tt.ends && (took < 30*time.Second || took > 32*time.Second) {
					t.Errorf("cut off after %v, want 30 s and little more", took)
				}
			})
		})
	}
}
