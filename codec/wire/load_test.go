package wire

import (
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/core/liveness"
	"github.com/isthmus-mesh/isthmus/core/split"
	"google.golang.org/protobuf/proto"
)

// TestLeasesTravel: each word comes back as it was, and one that a later version says is unknown, as is none.
func TestLeasesTravel(t *testing.T) {
	var paths []split.Path
	for _, l := range []liveness.Lease{liveness.LeaseUnknown, liveness.LeaseFresh, liveness.LeaseLost} {
		paths = append(paths, split.Path{Cluster: "us-east", RTT: time.Second, Dead: l == liveness.LeaseLost, Lease: l})
	}
	got, err := DecodeReport(EncodeReport(&split.ClusterReport{Paths: paths}))
	if err != nil || len(got.Paths) != len(paths) {
		t.Fatal(got, err)
	}
	for i := range paths {
		if got.Paths[i] != paths[i] {
			t.Errorf("%+v came back as %+v", paths[i], got.Paths[i])
		}
	}
	b, err := proto.Marshal(&wirepb.ClusterLoad{Paths: []*wirepb.Path{{Cluster: "us-east", Lease: 7}}})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := DecodeReport(b); err != nil || got.Paths[0].Lease != liveness.LeaseUnknown {
		t.Errorf("a word of a later version: %+v, %v", got, err)
	}
}
