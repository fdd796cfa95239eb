package plane_test

import (
	"context"
	"errors"
	"testing"

	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/mesh"
)

const aDenial = `
apiVersion: isthmus.dev/v1alpha1
kind: AccessPolicy
metadata: {name: nobody, namespace: shop}
spec: {targetRefs: [{kind: Service, name: catalog}], action: Deny, rules: [{from: [{serviceAccounts: [shell]}]}]}
`

// denial is how cluster c has the denial of cluster origin.
func (c *cluster) denial(origin mesh.ClusterName) string {
	f, ok := c.plane.World().Get(mesh.Key{Kind: mesh.KindAccessPolicy, Origin: origin, Namespace: "shop", Name: "nobody"})
	if !ok {
		return "absent"
	}
	return "there since " + f.Position.Epoch.ID
}

// inSync waits until c knows what o states now.
func (c *cluster) inSync(o *cluster) {
	c.t.Helper()
	eventually(c.t, "in sync", func() string {
		want, got := o.plane.Vector()[o.name], c.plane.Vector()[o.name]
		if want != (mesh.Position{}) && got.Compare(want) >= 0 {
			return "in sync"
		}
		return "behind"
	})
}

// TestDeletedPolicyStaysDeletedOverRestarts has a peer away while its owner begins another history, in
// which a policy is deleted, and restarts: what the peer remembers from the history before must not come back
// there, nor be witnessed back into the owner's store.
func TestDeletedPolicyStaysDeletedOverRestarts(t *testing.T) {
	eu, us := newCluster(t, nil, nil, "eu"), newCluster(t, nil, nil, "us")
	stopEU, stopUS := eu.startAlone(), us.startAlone()
	for _, c := range []*cluster{eu, us} {
		c.join(eu)
		c.join(us)
	}
	eu.apply(aDenial)
	eventually(t, "there", func() string { return us.denial("eu") })
	us.inSync(eu)
	stopUS()

	before := eu.plane.Vector()["eu"]
	heard := errors.New("heard")
	// A watch from beyond the end makes the store begin another history, as a restored one does.
	beyond := store.Position{Epoch: before.Epoch.ID, Revision: before.Revision + 1000}
	if err := eu.plane.Objects().Watch(eu.ctx, beyond, func(context.Context, store.Events) error { return heard }); !errors.Is(err, heard) {
		t.Fatal(err)
	}
	key := store.Key{Kind: "AccessPolicy.isthmus.dev", Namespace: "shop", Name: "nobody"}
	if _, err := eu.plane.Objects().Delete(eu.ctx, key, store.Any()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "absent", func() string { return eu.denial("eu") })
	stopEU()

	eu.startAlone()
	us.startAlone()
	us.inSync(eu)
	if got := us.plane.Vector()["eu"]; !got.Epoch.Newer(before.Epoch) {
		t.Fatalf("the peer knows %v, which is not another history than %v", got, before)
	}
	if got := us.denial("eu"); got != "absent" {
		t.Errorf("at the peer the deleted policy is %s", got)
	}
	if got := eu.denial("eu"); got != "absent" {
		t.Errorf("at its owner the deleted policy is %s", got)
	}
	// A policy of the same name is a new one.
	eu.apply(aDenial)
	eventually(t, "there", func() string { return us.denial("eu") })
}
