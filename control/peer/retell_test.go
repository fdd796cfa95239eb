package peer_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/control/peer"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestAReplicaTellsReportsOn: one that is told of a peer by another replica hears what the peer reports, newest and all, and no
// more once the other has lost the peer.
func TestAReplicaTellsReportsOn(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	var mu sync.Mutex
	report := "first"
	a.configure = func(c *peer.ServerConfig) {
		c.Report = func(mesh.ClusterName) []byte {
			mu.Lock()
			defer mu.Unlock()
			return []byte(report)
		}
	}
	stop := a.serve()
	holder := b.follow(a)
	holder.until(t, "in sync", inSync)
	b.joined.Store(b.td, b.name)
	retells := peer.NewServer(peer.ServerConfig{Self: b.name, TrustDomain: b.td, Clock: clock.Real{}, Log: slog.New(b.log)})
	b.configure = func(c *peer.ServerConfig) {
		c.Elsewhere = func(call peer.Call, up peer.FollowStream) error { return retells.Retell(call, up, holder.Follower) }
	}
	b.serve()
	reports := make(chan string, 1024)
	second := peer.NewFollower(peer.FollowerConfig{Self: b.name, Source: b.source, Cache: filepath.Join(b.dir, "second"),
		Peer: mesh.Cluster{Name: a.name, TrustDomain: a.td}, Clock: clock.Real{}, Log: slog.New(b.log),
		Edit:    func(context.Context, []world.Edit, mesh.Vector) error { return nil },
		Changed: func(mesh.ClusterName, replica.Status) {},
		Reported: func(_ mesh.ClusterName, r []byte) {
			select {
			case reports <- string(r):
			default:
			}
		},
		Reach: func(ctx context.Context, _ uint64) (*peer.Session, error) {
			return peer.DialHeld(ctx, peer.DialConfig{Source: b.source, TrustDomain: b.td, Address: b.addr, Clock: clock.Real{}}, a.name, b.name)
		}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = second.Run(ctx) }() // the error is that of ctx
	t.Cleanup(func() { cancel(); <-done })
	hear := func(want string) {
		t.Helper()
		limit := time.After(patience)
		for {
			select {
			case got := <-reports:
				if got == want {
					return
				}
			case <-limit:
				t.Fatalf("%q was not told on (%v)", want, second.Err())
			}
		}
	}
	hear("first")
	mu.Lock()
	report = "second"
	mu.Unlock()
	hear("second")
	stop()
	holder.until(t, "without a link", func(s replica.Status) bool { return s.Session == 0 })
	f := &following{Follower: second, news: make(chan struct{})}
	f.until(t, "left by the replica that lost the peer", func(s replica.Status) bool { return s.Session == 0 })
	for len(reports) > 0 {
		<-reports
	}
	f.until(t, "stale", func(s replica.Status) bool { return s.Stale })
	if n := len(reports); n > 0 {
		t.Errorf("%d reports were told on after the peer was lost", n)
	}
}
