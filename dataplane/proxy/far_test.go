package proxy_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
)

// TestAConnectionToAFarClusterHasTime: where no policy says how long a connection may take, a path of 500 ms has
// its round trips, and so has the first of several tries, which else ends after a second.
func TestAConnectionToAFarClusterHasTime(t *testing.T) {
	for _, c := range []struct {
		name         string
		policy, rtt  time.Duration
		connect, try time.Duration
	}{
		{"near", 0, 80 * time.Millisecond, time.Second, time.Second},
		{"far", 0, 500 * time.Millisecond, 3 * time.Second, 3 * time.Second},
		{"far, and a policy", 2 * time.Second, 500 * time.Millisecond, 2 * time.Second, 3 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 0, func(s *ir.Service, eps *ir.Endpoints) {
					s.Traffic.ConnectTimeout, s.Traffic.Retry.On = c.policy, []string{"timeout"}
					eps.Groups = append(eps.Groups, ir.Group{Cluster: "us-east", Exported: true, Slots: make([]uint64, 4)})
				})
				w.state.Clusters["us-east"].RTT = c.rtt
				open := w.cfg.Open
				var try time.Duration
				w.cfg.Open = func(deadline time.Time, d *proxy.Destination) (message.Stream, error) {
					try = time.Until(deadline)
					return open(deadline, d)
				}
				w.proxy = proxy.New(w.cfg)
				w.script = []any{answer(200, "")}
				w.proxy.Outbound(get("catalog", "/"), proxy.Via{})
				if w.last.Status != 200 || len(w.opened) != 1 {
					t.Fatalf("%d after %d tries: %s %s", w.last.Status, len(w.opened), w.last.Reason, w.last.Detail)
				}
				if got := w.opened[0].Timeout; got != c.connect || try != c.try {
					t.Errorf("%v for a connection and %v for the try, want %v and %v", got, try, c.connect, c.try)
				}
			})
		})
	}
}
