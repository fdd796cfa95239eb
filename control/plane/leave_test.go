package plane_test

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// statedBy counts what c holds of o's statements, and of what it thinks of o.
func (c *cluster) statedBy(o mesh.ClusterName) string {
	n := 0
	for f := range c.plane.World().All() {
		if f.Origin == o && replica.Travels(f.Kind) || f.Kind == mesh.KindReach && f.Name == string(o) {
			n++
		}
	}
	return strconv.Itoa(n)
}

// running counts the goroutines that a function of the product is on the stack of.
func running(function string) int {
	b := make([]byte, 8<<20)
	n := 0
	for stack := range strings.SplitSeq(string(b[:runtime.Stack(b, true)]), "\n\n") {
		if strings.Contains(stack, function) {
			n++
		}
	}
	return n
}

// TestDeletedClusterIsForgottenAndComesBack deletes the object by which a cluster was joined: what it stated
// is out of the world at once, nothing follows or probes it, it is told nothing, and joined again it is whole.
func TestDeletedClusterIsForgottenAndComesBack(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	defer parts.Wait()
	defer stop()
	eu, us := startCluster(t, ctx, &parts, "eu"), startCluster(t, ctx, &parts, "us")
	for _, c := range []*cluster{eu, us} {
		c.join(eu)
		c.join(us)
	}
	us.serve("catalog")
	us.apply(aDenial[:strings.Index(aDenial, "spec:")] + "spec: {targetRefs: [{kind: Service, name: cart}], action: Deny, rules: [{from: [{serviceAccounts: [shell]}]}]}\n")
	client := eu.client()
	ask := func() string { return get(client, "http://catalog.shop.svc.clusterset.local/") }
	eventually(t, "200 us", ask)
	eventually(t, "there", func() string { return eu.denial("us") })
	us.inSync(eu)
	cache := filepath.Join(eu.dir, "peers", "us")
	eventually(t, "cached", func() string {
		if _, err := os.Stat(cache); err != nil {
			return err.Error()
		}
		return "cached"
	})

	if _, err := eu.plane.Objects().Delete(ctx, store.Key{Kind: "Cluster.isthmus.dev", Name: "us"}, store.Any()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "0", func() string { return eu.statedBy("us") })
	eventually(t, "502 unknown_host", ask)
	eventually(t, "1 1 3", func() string {
		// What is left is us following and probing eu, whom it has not deleted: two goroutines and the one that waits for them.
		return strings.Join([]string{strconv.Itoa(running("peer.(*Follower).Run(")), strconv.Itoa(running("control/probe.(*Prober).Run(")), strconv.Itoa(running("(*peers).start."))}, " ")
	})
	eventually(t, "0", func() string { return strconv.Itoa(running("peer.(*Server).Follow(")) })
	if _, err := os.Stat(cache); !os.IsNotExist(err) {
		t.Errorf("the cache is still there: %v", err)
	}
	if got := eu.plane.Peers(); len(got) != 0 {
		t.Errorf("peers %+v, want none", got)
	}

	eu.join(us)
	eventually(t, "200 us", ask)
	eventually(t, "there", func() string { return eu.denial("us") })
	eventually(t, "Alive", func() string {
		for _, p := range us.plane.Peers() {
			return p.State.String()
		}
		return "no peer"
	})
}
