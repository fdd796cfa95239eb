package plane_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/control/plane"
	"github.com/isthmus-mesh/isthmus/dataplane/agent"
	"github.com/isthmus-mesh/isthmus/internal/failpoint"
	"github.com/isthmus-mesh/isthmus/internal/loopback"
)

// post sends a request that must not be repeated and wants its whole answer.
func post(c *http.Client, body io.Reader) error {
	a, err := c.Post("http://catalog.shop/", "text/plain", body)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err == nil && a.StatusCode != 200 {
		err = fmt.Errorf("POST: %d %s", a.StatusCode, b)
	}
	return err
}

// crossing is load from one cluster to another.
type crossing struct {
	client *http.Client
	done   atomic.Int64

	mu     sync.Mutex
	failed []error
}

func (l *crossing) note(err error) {
	if err == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = append(l.failed, err)
}

// more waits for more requests, failed ones included.
func (l *crossing) more(t *testing.T, n int64) {
	t.Helper()
	n += l.done.Load()
	eventually(t, "more", func() string {
		if l.done.Load() >= n {
			return "more"
		}
		return fmt.Sprint(l.done.Load(), " requests")
	})
}

// stopOneOfTwo stops the gateway that carries all load from another cluster, and returns what failed. Defended, the
// other cluster learns of it.
func stopOneOfTwo(t *testing.T, defended bool) []error {
	ctx, stop := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	defer parts.Wait()
	defer stop()
	eu, us := newCluster(t, ctx, &parts, "eu"), newCluster(t, ctx, &parts, "us")
	delay := 3 * time.Second // the other cluster may have met the gateways before they had certificates: it comes again
	if !defended {
		delay = 0
		eu.points = failpoint.New(plane.PointWithdraw)
		if err := eu.points.Enable(plane.PointWithdraw, failpoint.Error(errors.New("nobody learns of it"))); err != nil {
			t.Fatal(err)
		}
	}
	eu.start()
	us.start()
	for _, k := range []string{"gateway", "second gateway"} {
		us.addr[k] = loopback.AddrPort(t)
	}
	gateway := func(id string, at string) *agent.Agent {
		return us.agent(agent.Config{ID: "isthmus-system/" + id, Mode: agent.ModeGateway, ServiceAccount: "gateway", Gateway: us.addr[at],
			DrainDelay: delay, DrainTime: 5 * time.Second})
	}
	// With one slot, the first gateway carries all.
	first, second := gateway("gateway-0", "gateway"), gateway("gateway-1", "second gateway")
	us.run("the second gateway", second.Run)
	firstCtx, terminate := context.WithCancel(ctx)
	ended := make(chan struct{})
	us.run("the first gateway", func(context.Context) error {
		defer close(ended)
		if err := first.Run(firstCtx); !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	})
	for _, c := range []*cluster{eu, us} {
		c.join(eu)
		c.join(us)
	}
	us.serve("catalog")
	eventually(t, "true true", func() string { return fmt.Sprint(first.Ready(), second.Ready()) })
	l := &crossing{client: eu.client()}
	eventually(t, "200 us catalog", func() string { return get(l.client, "http://catalog.shop/") })

	var work sync.WaitGroup
	quit := make(chan struct{})
	for range 3 {
		work.Go(func() {
			for {
				select {
				case <-quit:
					return
				default:
				}
				l.note(post(l.client, strings.NewReader("x")))
				l.done.Add(1)
			}
		})
	}
	body, long := io.Pipe()
	work.Go(func() {
		c := &http.Client{Transport: l.client.Transport}
		if err := post(c, body); err != nil {
			l.note(fmt.Errorf("what is long: %w", err))
		}
	})
	if _, err := io.WriteString(long, "begun"); err != nil {
		t.Fatal(err)
	}
	l.more(t, 50)
	terminate()
	if defended {
		l.more(t, 100)
	} else {
		<-ended
		l.more(t, 10)
	}
	_, _ = io.WriteString(long, "ended") // where it was cut, the POST says so
	long.Close()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Error("the first gateway does not end")
	}
	l.more(t, 20)
	close(quit)
	work.Wait()
	l.client.CloseIdleConnections()
	return l.failed
}

// TestAGatewayThatStopsFailsNothing sends one of two gateways SIGTERM, as a context's end, under load from
// another cluster: requests that must not be repeated and one that is long, none of which may fail.
func TestAGatewayThatStopsFailsNothing(t *testing.T) {
	for _, err := range stopOneOfTwo(t, true) {
		t.Error(err)
	}
}

// TestAGatewayThatStopsUnheardFailsRequests is the control run: nobody learns that it stops.
func TestAGatewayThatStopsUnheardFailsRequests(t *testing.T) {
	if failed := stopOneOfTwo(t, false); len(failed) == 0 {
		t.Error("nothing failed: the load proves nothing")
	} else {
		t.Logf("%d failed, first %v", len(failed), failed[0])
	}
}
