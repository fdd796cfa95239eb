package plane

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/control/loop"
	"github.com/isthmus-mesh/isthmus/control/peer"
	"github.com/isthmus-mesh/isthmus/control/relay"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/xds"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// offer is a stream of a remote cluster that says nothing.
type offer struct {
	peer.OfferedStream
	ctx context.Context
}

func (o offer) Context() context.Context    { return o.ctx }
func (offer) SendHeader(metadata.MD) error  { return nil }
func (o offer) Recv() (*wirepb.Down, error) { <-o.ctx.Done(); return nil, o.ctx.Err() }
func (o offer) Send(*wirepb.Up) error       { return nil }
func (o offer) followed() peer.FollowStream { return followed{ctx: o.ctx} }

// followed is a stream of who follows and says nothing.
type followed struct {
	peer.FollowStream
	ctx context.Context
}

func (f followed) Context() context.Context  { return f.ctx }
func (f followed) Recv() (*wirepb.Up, error) { <-f.ctx.Done(); return nil, f.ctx.Err() }
func (f followed) Send(*wirepb.Down) error   { return nil }

// TestAPrimaryPassesOnForItsRemoteClustersOnly: who may offer, and who is told of whom by way of this cluster. Those who are
// let in find that nobody answers, those who are not are refused.
func TestAPrimaryPassesOnForItsRemoteClustersOnly(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	p := &Plane{cfg: Config{Cluster: "eu"}, clock: clock.Real{}, hub: relay.NewHub(clock.Real{})}
	p.loop = loop.New(loop.Config{Self: "eu", Network: "eu", Now: time.Now, Log: slog.New(slog.DiscardHandler),
		Publish: func(mesh.Vector, []xds.Update) {}, Export: func(loop.Export) {}, SaveSlots: func(mesh.SlotTable) {}})
	var parts sync.WaitGroup
	parts.Go(func() { _ = p.loop.Run(ctx) }) // ends with ctx
	defer parts.Wait()
	defer stop()
	var edits []world.Edit
	for n, primaries := range map[mesh.ClusterName][]mesh.ClusterName{"eu": nil, "us": nil, "ours": {"eu"}, "theirs": {"us"}, "both": {"us", "eu"}} {
		c := &mesh.Cluster{Name: n, Role: mesh.RolePrimary, TrustDomain: mesh.TrustDomainOf(n, mesh.DefaultDomain), Primaries: primaries}
		if len(primaries) > 0 {
			c.Role = mesh.RoleRemote
		}
		edits = append(edits, world.Put(&mesh.Fact{Key: mesh.Key{Kind: mesh.KindCluster, Origin: "eu", Name: string(n)}, Value: c, Digest: ir.DigestOf(c)}))
	}
	if err := p.loop.EditAndWait(ctx, edits, nil); err != nil {
		t.Fatal(err)
	}
	short := func() context.Context {
		c, end := context.WithTimeout(ctx, 50*time.Millisecond)
		t.Cleanup(end)
		return c
	}
	for _, tt := range []struct {
		owner, consumer mesh.ClusterName
		want            codes.Code // Unknown is let in, and ended by its context
	}{
		{"ours", "us", codes.Unknown}, {"both", "eu", codes.Unknown},
		{"theirs", "us", codes.PermissionDenied}, {"us", "eu", codes.PermissionDenied}, {"nobody", "eu", codes.PermissionDenied},
		{"ours", "nobody", codes.NotFound},
	} {
		err := p.offered(peer.Call{Caller: tt.owner, Owner: tt.owner, Consumer: tt.consumer}, offer{ctx: short()})
		if status.Code(err) != tt.want {
			t.Errorf("%s offers to tell %s: %v, want %v", tt.owner, tt.consumer, err, tt.want)
		}
	}
	for _, tt := range []struct {
		caller, consumer, owner mesh.ClusterName
		want                    codes.Code
	}{
		{"us", "us", "ours", codes.Unknown},        // the remote cluster does not come
		{"ours", "ours", "us", codes.Unavailable},  // us has no address here
		{"us", "us", "theirs", codes.NotFound},     // us knows better
		{"us", "both", "us", codes.NotFound},       // asked for a remote by its other primary: not in circles
		{"theirs", "theirs", "us", codes.NotFound}, // no remote cluster of ours
		{"ours", "ours", "nobody", codes.NotFound}, // not joined
		{"us", "us", "nobody", codes.NotFound},     // not joined
	} {
		err := p.elsewhere(peer.Call{Caller: tt.caller, Consumer: tt.consumer, Owner: tt.owner}, offer{ctx: short()}.followed())
		if status.Code(err) != tt.want {
			t.Errorf("%s asks of %s for %s: %v, want %v", tt.caller, tt.owner, tt.consumer, err, tt.want)
		}
	}
}
