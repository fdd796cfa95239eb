package peer_test

import (
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestHoldingSaysWhatIsStoredAndNotInForce: what a follower holds has the digest of what its owner tells, and what it refuses is named with the
// reason, from another goroutine and over a restart from the cache.
func TestHoldingSaysWhatIsStoredAndNotInForce(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	bad := replica.NewResource(replica.Name{Kind: mesh.KindRemoteService, Namespace: "shop", Name: "bad"}, at(1), mesh.Stamp{}, [16]byte{1}, []byte("no summary"))
	a.exports.Tell("b", []*replica.Resource{a.service("web", 8), bad}, nil)
	stop := a.serve()
	f := b.follow(a)
	f.until(t, "in sync", inSync)
	look := func(f *following) {
		t.Helper()
		h := f.Holding()
		if h.Stated.Root() != a.exports.To("b").Root() || h.Stated.Len() != 2 || h.InForce.Len() != 1 {
			t.Errorf("%d are held, %d in force, want all that is told, and one", h.Stated.Len(), h.InForce.Len())
		}
		if odd := h.NotInForce(); len(odd) != 1 || odd[bad.Name] == "" {
			t.Errorf("not in force: %v, want the bad one with a reason", odd)
		}
	}
	look(f)
	if h := f.Holding(); h.Problem() != "" {
		t.Errorf("a problem while it follows: %s", h.Problem())
	}
	f.stop()
	stop()
	f = b.follow(a)
	look(f)
	f.until(t, "without a link", func(replica.Status) bool { return strings.Contains(f.Holding().Problem(), "follow cluster a") })
	look(f)
}
