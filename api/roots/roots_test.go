package roots

import (
	"encoding/pem"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestWhatIsBelievedStandsUnderTheObject: that of the bundle of the cluster's own, of whatever generation, and of one that was never heard that of the object; nobody else's
// word counts. The control is the object, which says the same all the time.
func TestWhatIsBelievedStandsUnderTheObject(t *testing.T) {
	const domain = mesh.TrustDomain("us.isthmus.local")
	roots := func(names ...string) (out [][]byte) {
		for _, n := range names {
			out = append(out, []byte(n))
		}
		return out
	}
	put := func(kind mesh.Kind, origin mesh.ClusterName, name string, v any) world.Edit {
		return world.Put(&mesh.Fact{Key: mesh.Key{Kind: kind, Origin: origin, Name: name}, Value: v, Digest: ir.DigestOf(v)})
	}
	object := &mesh.Cluster{Name: "us", TrustDomain: domain, Roots: roots("old")}
	w, _ := world.New("eu").Edit([]world.Edit{put(mesh.KindCluster, "eu", "us", object)})
	for _, c := range []struct {
		what       string
		origin     mesh.ClusterName
		generation uint64
		roots      [][]byte
		want       uint64
		shown      []string
		spec       string
	}{
		{"nothing was heard", "", 0, nil, 0, []string{"old"}, ""},
		{"what it was when it joined", "us", 1, roots("old"), 1, []string{"old"}, ""},
		{"a new root was introduced", "us", 2, roots("new", "old"), 2, []string{"new", "old"}, "of the 1 in spec.trustBundle 0 are not believed any more, and of the 2 in force it lacks 1: what is in force counts"},
		{"somebody else says so", "ap", 9, roots("false"), 2, []string{"new", "old"}, "it lacks 1"},
		{"the old one was withdrawn", "us", 3, roots("new"), 3, []string{"new"}, "of the 1 in spec.trustBundle 1 are not believed any more, and of the 1 in force it lacks 1: whoever joins by this object cannot verify the cluster"},
	} {
		if c.origin != "" {
			w, _ = w.Edit([]world.Edit{put(mesh.KindBundle, c.origin, string(domain), &mesh.Bundle{TrustDomain: domain, Generation: c.generation, Roots: c.roots})})
		}
		got := Of(w, object)
		if got == nil || got.Generation != c.want || !strings.Contains(got.Spec, c.spec) || (got.Spec == "") != (c.spec == "") {
			t.Errorf("%s: %+v", c.what, got)
			continue
		}
		var shown []string
		for rest := []byte(got.TrustBundle); ; {
			var b *pem.Block
			if b, rest = pem.Decode(rest); b == nil {
				break
			}
			shown = append(shown, string(b.Bytes))
		}
		if strings.Join(shown, " ") != strings.Join(c.shown, " ") {
			t.Errorf("%s: %v are shown, want %v", c.what, shown, c.shown)
		}
	}
	if got := Of(w, &mesh.Cluster{Name: "in", TrustDomain: "in.isthmus.local"}); got != nil {
		t.Errorf("of whom nothing is known: %+v", got)
	}
}
