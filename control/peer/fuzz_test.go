package peer_test

import (
	"testing"

	"github.com/isthmus-mesh/isthmus/codec/wire"
	"github.com/isthmus-mesh/isthmus/control/peer"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// FuzzFact reads what a hostile peer may state: whatever comes out is the owner's own.
func FuzzFact(f *testing.F) {
	a := newPlace(f, "a")
	bundle := a.ca.Bundle()
	_, body := wire.Encode(&bundle)
	for _, r := range []*replica.Resource{a.service("web", 8), a.policy("deny"),
		{Name: replica.Name{Kind: mesh.KindBundle, Name: string(a.td)}, Body: body},
		{Name: replica.Name{Kind: mesh.KindHTTPRoute, Namespace: "shop", Name: "r"}, Body: []byte("a: &x [*x, *x]")}} {
		f.Add(string(r.Kind), r.Namespace, r.Name.Name, r.Body)
	}
	f.Fuzz(func(t *testing.T, kind, namespace, name string, body []byte) {
		r := replica.NewResource(replica.Name{Kind: mesh.Kind(kind), Namespace: namespace, Name: name}, at(1), mesh.Stamp{WallMillis: 1, Origin: "a"}, [16]byte{}, body)
		fact, err := peer.Fact("a", a.td, r)
		if err != nil {
			return
		}
		if fact.Key != r.Key("a") || fact.Home || fact.Value == nil || !replica.Travels(fact.Kind) || fact.Kind == mesh.KindCluster {
			t.Fatalf("%s became %+v", r.Name, fact)
		}
		if fact.Position != r.Position || fact.Stamp != r.Stamp {
			t.Fatalf("%s is stamped %v at %v", r.Name, fact.Stamp, fact.Position)
		}
		switch v := fact.Value.(type) {
		case *mesh.RemoteService:
			for _, id := range v.Identities {
				if id.TrustDomain != a.td {
					t.Fatalf("identity %s came in", id)
				}
			}
		case *mesh.Bundle:
			if v.TrustDomain != a.td {
				t.Fatalf("a bundle of %s came in", v.TrustDomain)
			}
		default: // what we were told can be told on, and is the same
			again, ok := peer.Resource(fact)
			if !ok {
				t.Fatalf("%s cannot travel on", fact.Key)
			}
			if f2, err := peer.Fact("a", a.td, again); err != nil || f2.Digest != fact.Digest {
				t.Fatalf("%s: told on, it is %v, %v", fact.Key, f2, err)
			}
		}
	})
}
