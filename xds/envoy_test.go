package xds_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpc "google.golang.org/genproto/googleapis/rpc/status"

	"github.com/isthmus-mesh/isthmus/xds"
)

// A client made of Envoy's generated code, which knows nothing of our additions.
func TestStandardClientsAreServed(t *testing.T) {
	story(t, nil, func(t *testing.T, r *replica) {
		r.keep([]xds.Update{put(typeTarget, "a", "1"), put(typeRefer, "x", "a")})
		conn, closer, err := r.dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer closer.Close()
		stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		say := func(q *discovery.DeltaDiscoveryRequest) {
			t.Helper()
			if err := stream.Send(q); err != nil {
				t.Fatal(err)
			}
			r.settle()
		}
		hear := func(want string) (nonce string) {
			t.Helper()
			a, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			got := a.TypeUrl
			for _, res := range a.Resources {
				got += fmt.Sprintf(" +%s=%s", res.Name, res.Resource.Value)
			}
			slices.Sort(a.RemovedResources)
			for _, n := range a.RemovedResources {
				got += " -" + n
			}
			if got != want {
				t.Errorf("heard %q, want %q", got, want)
			}
			return a.Nonce
		}
		// The first request of a type without names asks for everything.
		say(&discovery.DeltaDiscoveryRequest{Node: &core.Node{Id: "envoy"}, TypeUrl: typeTarget, InitialResourceVersions: map[string]string{"gone": "1"}})
		say(&discovery.DeltaDiscoveryRequest{TypeUrl: typeTarget, ResponseNonce: hear("test/Target +a=1")})
		say(&discovery.DeltaDiscoveryRequest{TypeUrl: typeTarget, ResponseNonce: hear("test/Target -gone")})
		say(&discovery.DeltaDiscoveryRequest{TypeUrl: typeRefer, ResourceNamesSubscribe: []string{"x", "y"}})
		say(&discovery.DeltaDiscoveryRequest{TypeUrl: typeRefer, ResponseNonce: hear("test/Refer +x=a -y")})
		pass(time.Minute) // it is not sent signs of life that it would not understand
		r.change(put(typeTarget, "a", "2"))
		say(&discovery.DeltaDiscoveryRequest{TypeUrl: typeTarget, ResponseNonce: hear("test/Target +a=2"), ErrorDetail: &rpc.Status{Message: "no"}})
		if c := r.Clients(); len(c) != 1 || len(c[0].Types[0].Refused) != 1 || c[0].Types[0].Refused[0].Message != "no" {
			t.Errorf("clients %+v, want a refused", c)
		}
		r.change(put(typeTarget, "a", "3"))
		hear("test/Target +a=3")
		synctest.Wait()
	})
}
