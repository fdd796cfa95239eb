package peer_test

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/control/peer"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestPoliciesTravelAsTheyWereWritten sends every mesh-wide object of the manifests' own stories to
// a peer: it reads there what was written here.
func TestPoliciesTravelAsTheyWereWritten(t *testing.T) {
	seen := map[mesh.Kind]int{}
	for _, file := range []string{"policies", "traffic_policies", "fault_telemetry_policies", "routes"} {
		text, err := os.ReadFile("../../codec/manifest/testdata/" + file + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		for section := range strings.SplitSeq(string(text), "\n-- ") {
			_, body, _ := strings.Cut(section, " --\n")
			for _, o := range manifest.Parse(file, []byte(body), manifest.Options{}).Objects {
				f, ok := o.Fact("eu-west")
				if !ok || f.Home || !f.Kind.Replicated() {
					continue
				}
				f.Raw = o.JSON
				r, ok := peer.Resource(&f)
				if !ok {
					t.Errorf("%s does not travel", f.Key)
					continue
				}
				got, err := peer.Fact("eu-west", "eu-west.isthmus.local", r)
				if err != nil {
					t.Errorf("%s: %v", f.Key, err)
					continue
				}
				if diff := cmp.Diff(f.Value, got.Value); diff != "" || got.Digest != f.Digest {
					t.Errorf("%s changed on its way (-here +there):\n%s", f.Key, diff)
				}
				seen[f.Kind]++
			}
		}
	}
	for _, k := range []mesh.Kind{mesh.KindAccessPolicy, mesh.KindTrafficPolicy, mesh.KindFaultPolicy, mesh.KindTelemetryPolicy, mesh.KindHTTPRoute, mesh.KindGRPCRoute} {
		if seen[k] == 0 {
			t.Errorf("no %s among the stories", k)
		}
	}
}
