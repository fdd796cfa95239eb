package replica_test

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestEffectiveIsTheSameForAnyOrder: every cluster chooses the same winner and shows
// the same losers, in whatever order the candidates came.
func TestEffectiveIsTheSameForAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		origins := []mesh.ClusterName{"ap-south", "eu-west", "us-east", "edge"}
		var cs []replica.Candidate
		for _, o := range origins[:rapid.IntRange(1, 4).Draw(t, "origins")] {
			cs = append(cs, replica.Candidate{Origin: o, Stamp: mesh.Stamp{WallMillis: int64(rapid.IntRange(0, 2).Draw(t, "wall")), Origin: o},
				Digest: [16]byte{byte(rapid.IntRange(0, 1).Draw(t, "digest"))}})
		}
		shuffled := rapid.Permutation(cs).Draw(t, "order")
		w, ls := replica.Effective(cs)
		w2, ls2 := replica.Effective(shuffled)
		if cs[w] != shuffled[w2] || len(ls) != len(ls2) {
			t.Fatalf("winner %v or %v", cs[w], shuffled[w2])
		}
		for i := range ls {
			if cs[ls[i]] != shuffled[ls2[i]] {
				t.Fatalf("loser %d: %v or %v", i, cs[ls[i]], shuffled[ls2[i]])
			}
		}
		for i, c := range cs {
			if c.Stamp.Compare(cs[w].Stamp) > 0 {
				t.Fatalf("%v is later than the winner %v", c, cs[w])
			}
			if slices.Contains(ls, i) == (c.Digest == cs[w].Digest) {
				t.Fatalf("%v: equal content is one object, unequal content lost", c)
			}
		}
	})
	if w, ls := replica.Effective(nil); w != -1 || ls != nil {
		t.Errorf("no candidates: got %d, %v", w, ls)
	}
}

// TestHLCNeverGoesBack: stamps rise whatever the wall clock does, follow what was
// observed, and are not dragged along by a clock that is far ahead.
func TestHLCNeverGoesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := replica.HLC{Origin: "eu-west"}
		var last mesh.Stamp
		for range 30 {
			now := time.UnixMilli(int64(rapid.IntRange(1_000_000, 1_001_000).Draw(t, "now")))
			if rapid.Bool().Draw(t, "observe") {
				remote := mesh.Stamp{WallMillis: int64(rapid.IntRange(900_000, 1_500_000).Draw(t, "remote")), Counter: 3, Origin: "us-east"}
				ok := c.Observe(now, remote)
				if ahead := time.UnixMilli(remote.WallMillis).Sub(now); ok != (ahead <= mesh.MaxStampAhead) {
					t.Fatalf("observed a stamp %s ahead: %t", ahead, ok)
				}
				if ok && remote.Compare(last) > 0 {
					last = remote
				}
			}
			s := c.Tick(now)
			if s.Compare(last) <= 0 {
				t.Fatalf("stamp %v after %v", s, last)
			}
			last = s
		}
	})
}

// TestForeignPoliciesTightenOnly: what is not listed may forbid and never allow.
func TestForeignPoliciesTightenOnly(t *testing.T) {
	list := []mesh.Accept{{Origin: "us-east", Kind: "HTTPRoute", Namespace: "shop"}, {Origin: "hub", Kind: "*", Namespace: "*"}}
	for _, c := range []struct {
		origin mesh.ClusterName
		kind   mesh.Kind
		ns     string
		want   replica.Authority
	}{
		{"eu-west", mesh.KindHTTPRoute, "shop", replica.MayAll},
		{"us-east", mesh.KindHTTPRoute, "shop", replica.MayAll},
		{"us-east", mesh.KindHTTPRoute, "pay", replica.MayNothing},
		{"us-east", mesh.KindAccessPolicy, "shop", replica.MayTighten},
		{"ap-south", mesh.KindResidencyPolicy, "pay", replica.MayTighten},
		{"ap-south", mesh.KindTrafficPolicy, "pay", replica.MayNothing},
		{"hub", mesh.KindAccessPolicy, "pay", replica.MayAll},
	} {
		k := mesh.Key{Kind: c.kind, Origin: c.origin, Namespace: c.ns, Name: "x"}
		if got := replica.AuthorityOf("eu-west", list, k); got != c.want {
			t.Errorf("%s: got %d, want %d", k, got, c.want)
		}
	}
	if replica.Accepts(nil, "us-east", mesh.KindHTTPRoute, "shop") {
		t.Error("an empty list accepts somebody")
	}
}
