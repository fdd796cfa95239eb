package plane

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/control/loop"
	"github.com/isthmus-mesh/isthmus/control/peer"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/xds"
)

// TestPositionIsToldAfterTheExportsThatFollowFromIt is what keeps a control plane that restarts from telling peers that its services
// are gone. It fails where the loop calls back as soon as the world shows the step.
func TestPositionIsToldAfterTheExportsThatFollowFromIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		p := &Plane{cfg: Config{Cluster: "eu"}, exports: peer.NewExports("eu")}
		let, told := make(chan struct{}), false
		p.loop = loop.New(loop.Config{Self: "eu", Network: "eu", Now: time.Now, Log: slog.New(slog.DiscardHandler),
			Publish: func(mesh.Vector, []xds.Update) {}, SaveSlots: func(mesh.SlotTable) {},
			Export: func(loop.Export) {
				<-let // as if deriving it took long
				told = true
			}})
		var parts sync.WaitGroup
		parts.Go(func() { _ = p.loop.Run(ctx) }) // ends with ctx
		at := mesh.Position{Epoch: mesh.Epoch{StartMillis: 1, ID: "e"}, Revision: 7}
		if err := p.state(ctx, exported(), at, nil, nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if p.loop.World().Len() == 0 {
			t.Error("the world does not show the step")
		}
		if got := p.exports.Position(); got != (mesh.Position{}) {
			t.Errorf("position %v was told before what follows from it", got)
		}
		close(let)
		synctest.Wait()
		if got := p.exports.Position(); !told || got != at {
			t.Errorf("position %v is told and exports told is %v, want %v and true", got, told, at)
		}
		stop()
		parts.Wait()
	})
}

// exported are facts by which the cluster eu exports a service to us.
func exported() []world.Edit {
	name := mesh.ServiceName{Namespace: "shop", Name: "web"}
	put := func(kind mesh.Kind, ns, n string, v any) world.Edit {
		return world.Put(&mesh.Fact{Key: mesh.Key{Kind: kind, Origin: "eu", Namespace: ns, Name: n}, Value: v, Digest: ir.DigestOf(v)})
	}
	var out []world.Edit
	for _, c := range []mesh.ClusterName{"eu", "us"} {
		out = append(out, put(mesh.KindCluster, "", string(c), &mesh.Cluster{Name: c, Network: mesh.Network(c), TrustDomain: mesh.TrustDomainOf(c, mesh.DefaultDomain)}))
	}
	return append(out, put(mesh.KindService, "shop", "web", &mesh.Service{ServiceName: name, Selector: map[string]string{"app": "web"}}),
		put(mesh.KindServiceExport, "shop", "web", &mesh.ServiceExport{ServiceName: name}),
		put(mesh.KindWorkload, "shop", "web-1", &mesh.Workload{Namespace: "shop", Name: "web-1", ServiceAccount: "web",
			Labels: map[string]string{"app": "web"}, Proxy: netip.MustParseAddrPort("127.0.0.1:15008")}),
		put(mesh.KindSlotTable, "shop", "web", &mesh.SlotTable{Service: name, Generation: 1,
			Slots: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:15008")}, Moved: []uint64{1}}))
}
