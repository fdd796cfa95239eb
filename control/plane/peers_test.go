package plane

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestAnEndingLinkMayStillSpeak: who waits for the links to end holds no lock that a link needs for its last word. With it a
// control plane whose prober saw a change while it stopped never stopped.
func TestAnEndingLinkMayStillSpeak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ps := newPeers(&Plane{read: make(chan struct{})})
		us := mesh.Cluster{Name: "us", TrustDomain: "us.isthmus.local"}
		l := &link{cluster: us, done: make(chan struct{})}
		ps.want["us"], ps.on["us"] = us, l
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- ps.run(ctx) }()
		stop()
		synctest.Wait()
		select {
		case err := <-ended:
			t.Fatalf("ended before its link did: %v", err)
		default:
		}
		if !ps.mu.TryLock() {
			t.Error("the lock of the peers is held while their links end")
		} else {
			ps.mu.Unlock()
		}
		close(l.done)
		<-ended
	})
}
