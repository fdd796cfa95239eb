package peer_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/wire"
	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/control/peer"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// client is a bare client of p with a certificate of from, and the context of its calls. They wait for a connection:
// where the machine is too slow for a handshake in time, the server gives it up (and its alert, sealed behind a record
// that was never written, is read as one that somebody garbled), and the next may do.
func (p *place) client(from *trust.Source, pairs ...string) (wirepb.FederationClient, context.Context) {
	p.t.Helper()
	c := trust.ClientConfig(from, trust.AcceptServers(p.td, peer.IdentityOf(p.td)), "control-plane."+string(p.td), "h2")
	conn, err := grpc.NewClient("passthrough:///"+p.addr.String(), grpc.WithTransportCredentials(credentials.NewTLS(c)),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), pairs...), patience)
	p.t.Cleanup(func() {
		stop()
		conn.Close()
	})
	return wirepb.NewFederationClient(conn), ctx
}

// open opens a bare stream with a certificate of from to p, asking for an owner.
func (p *place) open(from *trust.Source, owner string) grpc.BidiStreamingClient[wirepb.Up, wirepb.Down] {
	p.t.Helper()
	client, ctx := p.client(from, "isthmus-owner", owner)
	s, err := client.Follow(ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

// TestOnlyAPrimarySpeaksForARemoteCluster: what is told for another cluster is told to its primaries, and offers come from
// control planes that joined.
func TestOnlyAPrimarySpeaksForARemoteCluster(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	c := newPlace(t, "c")
	join(a, c)
	offered := make(chan peer.Call, 4)
	a.configure = func(cfg *peer.ServerConfig) {
		cfg.Speaks = func(caller, consumer mesh.ClusterName) bool { return caller == "b" && consumer == "remote" }
		cfg.Offered = func(call peer.Call, _ peer.OfferedStream) error { offered <- call; return nil }
	}
	a.serve()
	shop := b.sourceOf(mesh.Identity{TrustDomain: b.td, Namespace: "shop", ServiceAccount: "web"})
	believe(t, shop, a)
	for name, tt := range map[string]struct {
		from  *trust.Source
		pairs []string
		want  codes.Code
	}{
		"its primary":                 {b.source, []string{"isthmus-owner", "a", "isthmus-for", "remote"}, codes.OK},
		"for itself":                  {c.source, []string{"isthmus-owner", "a", "isthmus-for", "c"}, codes.OK},
		"another cluster":             {c.source, []string{"isthmus-owner", "a", "isthmus-for", "remote"}, codes.PermissionDenied},
		"its primary, for another":    {b.source, []string{"isthmus-owner", "a", "isthmus-for", "c"}, codes.PermissionDenied},
		"for two":                     {b.source, []string{"isthmus-owner", "a", "isthmus-for", "remote", "isthmus-for", "b"}, codes.NotFound},
		"for what is no name":         {b.source, []string{"isthmus-owner", "a", "isthmus-for", "../b"}, codes.NotFound},
		"a workload of its primary":   {shop, []string{"isthmus-owner", "a", "isthmus-for", "remote"}, codes.PermissionDenied},
		"whose facts a does not have": {b.source, []string{"isthmus-owner", "c", "isthmus-for", "remote"}, codes.NotFound},
	} {
		client, ctx := a.client(tt.from, tt.pairs...)
		s, err := client.Follow(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if d, err := s.Recv(); status.Code(err) != tt.want || tt.want == codes.OK && d.GetHello() == nil {
			t.Errorf("%s: %v, %v; want %v", name, d, err, tt.want)
		}
	}
	for name, tt := range map[string]struct {
		from *trust.Source
		want codes.Code
	}{"a workload": {shop, codes.PermissionDenied}, "a control plane": {b.source, codes.OK}} {
		client, ctx := a.client(tt.from, "isthmus-for", "c", "isthmus-owner", "c")
		s, err := client.Offer(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); (tt.want == codes.OK) != errors.Is(err, io.EOF) || tt.want != codes.OK && status.Code(err) != tt.want {
			t.Errorf("an offer of %s: %v, want %v", name, err, tt.want)
		}
	}
	if call := <-offered; call != (peer.Call{Caller: "b", Consumer: "c", Owner: "b"}) {
		t.Errorf("offered %+v: want b's own facts, whatever it says", call)
	}
}

func TestServerTellsOnlyControlPlanesOfClustersItJoined(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	a.serve()
	stranger := newPlace(t, "c")
	believe(t, a.source, stranger) // its roots are known, as those of a cluster that left a moment ago
	believe(t, stranger.source, a)
	shop := b.sourceOf(mesh.Identity{TrustDomain: b.td, Namespace: "shop", ServiceAccount: "web"})
	believe(t, shop, a)
	for name, c := range map[string]struct {
		from  *trust.Source
		owner string
		want  codes.Code
	}{
		"a workload":      {shop, "a", codes.PermissionDenied},
		"a stranger":      {stranger.source, "a", codes.PermissionDenied},
		"another's facts": {b.source, "b", codes.NotFound},
	} {
		s := a.open(c.from, c.owner)
		if _, err := s.Recv(); status.Code(err) != c.want {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	s := a.open(b.source, "a")
	if d, err := s.Recv(); err != nil || d.GetHello() == nil {
		t.Errorf("a control plane that joined got %v, %v", d, err)
	}
}

func TestOldestOfTooManyStreamsEnds(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	a.serve()
	var streams []grpc.BidiStreamingClient[wirepb.Up, wirepb.Down]
	for range peer.StreamsMax + 1 {
		s := a.open(b.source, "a")
		if d, err := s.Recv(); err != nil || d.GetHello() == nil {
			t.Fatalf("a new stream got %v, %v", d, err)
		}
		streams = append(streams, s)
	}
	var err error
	for err == nil {
		_, err = streams[0].Recv()
	}
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("the oldest ended with %v, want ResourceExhausted", err)
	}
	if d, err := streams[1].Recv(); err != nil || d.GetHeartbeat() == nil {
		t.Errorf("the second got %v, %v: want a heartbeat", d, err)
	}
}

func TestWhoIsNotThePeerRaisesAnAlarm(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	thief := newPlace(t, "c") // an authority of its own, which b knows
	join(b, thief)
	for name, source := range map[string]*trust.Source{
		"a workload of the peer":   a.sourceOf(mesh.Identity{TrustDomain: a.td, Namespace: "shop", ServiceAccount: "web"}),
		"another cluster":          thief.source,
		"its name, another's root": newPlace(t, "a").source,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			believe(t, source, b)
			server, client := &place{t: t, name: "a", td: a.td, exports: a.exports, log: &alarms{}}, &place{t: t, name: "b", td: b.td, source: b.source,
				log: &alarms{}, dir: t.TempDir(), world: world.New("b"), vector: mesh.Vector{}, changed: make(chan struct{})}
			server.joined.Store(b.td, b.name)
			a.exports.Tell("b", []*replica.Resource{a.service("web", 8)}, nil)
			server.serveAs(source, &told{hello: &replica.Hello{Seq: 1, Protocol: 1, Server: "a", Owner: "a", TrustDomain: a.td, Position: at(1)}})
			f := client.follow(server)
			client.log.await(t, string(replica.AlarmImpostor))
			if f.Err() == nil || f.Status().Session != 0 || client.world.Len() != 0 {
				t.Errorf("followed %s: %+v", name, f.Status())
			}
		})
	}
}

// told is a server that says what it was told to say, once, and then keeps silent.
type told struct {
	wirepb.UnimplementedFederationServer
	hello *replica.Hello
	// answer is the response to a subscription.
	answer func(*wirepb.Subscribe) *replica.Response
	acks   chan *wirepb.Ack
}

func (s *told) Follow(stream grpc.BidiStreamingServer[wirepb.Up, wirepb.Down]) error {
	if err := stream.Send(wire.EncodeDown(s.hello)); err != nil {
		return err
	}
	for {
		up, err := stream.Recv()
		if err != nil {
			return nil
		}
		if ack := up.GetAck(); ack != nil && s.acks != nil {
			s.acks <- ack
		}
		if sub := up.GetSubscribe(); sub != nil && s.answer != nil {
			if err := stream.Send(wire.EncodeDown(s.answer(sub))); err != nil {
				return err
			}
		}
	}
}

func TestPeerThatSpeaksForAnotherIsRefused(t *testing.T) {
	t.Parallel()
	for name, hello := range map[string]*replica.Hello{
		"another's facts":        {Seq: 1, Protocol: 1, Server: "a", Owner: "c", TrustDomain: "a.isthmus.local"},
		"another's trust domain": {Seq: 1, Protocol: 1, Server: "a", Owner: "a", TrustDomain: "b.isthmus.local"},
		"as another":             {Seq: 1, Protocol: 1, Server: "c", Owner: "a", TrustDomain: "a.isthmus.local"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := pair(t)
			a.serveAs(a.source, &told{hello: hello})
			f := b.follow(a)
			b.log.await(t, string(replica.AlarmImpostor))
			if b.facts(a) != 0 || f.Status().InSync {
				t.Errorf("%+v", f.Status())
			}
		})
	}
}

func TestHostileFactsStayOutOfForceAndTheRestComesIn(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	c := newPlace(t, "c")
	foreign := c.service("stolen", 8) // names identities of c
	bundle := c.ca.Bundle()
	body := func(v any) []byte { _, b := wire.Encode(v); return b }
	misnamed := a.service("other", 8)
	good := a.policy("good")
	bad := []*replica.Resource{
		foreign,
		replica.NewResource(replica.Name{Kind: mesh.KindBundle, Name: string(c.td)}, at(1), mesh.Stamp{}, [16]byte{}, body(&bundle)),
		replica.NewResource(replica.Name{Kind: mesh.KindBundle, Name: string(a.td)}, at(1), mesh.Stamp{}, [16]byte{}, body(&bundle)),
		replica.NewResource(serviceName("misnamed"), at(1), mesh.Stamp{}, [16]byte{}, misnamed.Body),
		replica.NewResource(replica.Name{Kind: mesh.KindAccessPolicy, Namespace: "shop", Name: "renamed"}, at(1), good.Stamp, good.Digest, good.Body),
		replica.NewResource(replica.Name{Kind: mesh.KindCluster, Name: "a"}, at(1), mesh.Stamp{}, [16]byte{}, []byte(`{"apiVersion":"isthmus.dev/v1alpha1","kind":"Cluster","metadata":{"name":"a"}}`)),
		replica.NewResource(replica.Name{Kind: mesh.KindService, Namespace: "shop", Name: "web"}, at(1), mesh.Stamp{}, [16]byte{}, []byte(`{"apiVersion":"v1","kind":"Service","metadata":{"name":"web","namespace":"shop"}}`)),
		replica.NewResource(replica.Name{Kind: mesh.KindHTTPRoute, Namespace: "shop", Name: "rubbish"}, at(1), mesh.Stamp{}, [16]byte{}, []byte("\xff\xfe: [")),
		replica.NewResource(replica.Name{Kind: mesh.KindAccessPolicy, Namespace: "shop", Name: "by-c"}, at(1), mesh.Stamp{WallMillis: 1, Origin: "c"}, good.Digest, c.policy("by-c").Body),
		replica.NewResource(replica.Name{Kind: mesh.KindAccessPolicy, Namespace: "shop", Name: "tomorrow"}, at(1),
			mesh.Stamp{WallMillis: time.Now().Add(24 * time.Hour).UnixMilli(), Origin: "a"}, good.Digest, a.policy("tomorrow").Body),
	}
	a.exports.Tell("b", append(bad, good, a.service("web", 8)), nil)
	a.serve()
	f := b.follow(a)
	b.has(a, "web", 8)
	f.until(t, "in sync", inSync)
	if s := f.Status(); s.Refused != len(bad) {
		t.Errorf("%d refused, want %d: %q", s.Refused, len(bad), b.log.all())
	}
	if n := b.facts(a); n != 2 {
		t.Errorf("%d facts of a in force, want its policy and its service", n)
	}
	if n := b.facts(c); n != 0 {
		t.Errorf("a stated %d facts of c", n)
	}
	a.log.await(t, "a peer refused an object of ours", "not of trust domain") // the owner can show why
}

func TestMessageBeyondTheBoundEndsTheStreamAndNothingComesIn(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	a.serveAs(a.source, &told{hello: &replica.Hello{Seq: 1, Protocol: 1, Server: "a", Owner: "a", TrustDomain: a.td, Position: at(1)},
		answer: func(s *wirepb.Subscribe) *replica.Response {
			r := replica.NewResource(serviceName("big"), at(1), mesh.Stamp{}, [16]byte{}, make([]byte, peer.MessageMax))
			return &replica.Response{Seq: 2, Nonce: 1, Sync: s.Sync, Position: at(1), Set: []*replica.Resource{r}, Last: true}
		}})
	b.follow(a)
	b.log.await(t, "no link to a peer", "ResourceExhausted")
	if n := b.facts(a); n != 0 {
		t.Errorf("%d facts came in", n)
	}
}

func TestOldPositionIsRefused(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	a.exports.Advance(at(9))
	a.exports.Tell("b", []*replica.Resource{a.service("web", 8)}, nil)
	stop := a.serve()
	f := b.follow(a)
	b.has(a, "web", 8)
	f.until(t, "in sync", inSync)
	stop()
	acks := make(chan *wirepb.Ack, 16)
	empty := replica.NewPartition("a")
	a.serveAs(a.source, &told{hello: &replica.Hello{Seq: 1, Protocol: 1, Server: "a", Owner: "a", TrustDomain: a.td, Position: at(9)}, acks: acks,
		answer: func(s *wirepb.Subscribe) *replica.Response {
			return &replica.Response{Seq: 2, Nonce: 1, Sync: s.Sync, Position: at(3), Removed: []replica.Name{serviceName("web")}, Last: true, Root: empty.Root()}
		}})
	select {
	case ack := <-acks:
		if ack.Error == "" {
			t.Error("a position before the known one was accepted")
		}
	case <-time.After(patience):
		t.Fatal("no answer to a position before the known one")
	}
	b.log.await(t, string(replica.AlarmRegressed))
	if w, _ := b.now(); b.lanes(w, a, "web") != 8 {
		t.Error("an old state removed a service")
	}
}
