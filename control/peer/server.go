package peer

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/isthmus-mesh/isthmus/codec/wire"
	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/core/skew"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/internal/failpoint"
	"github.com/isthmus-mesh/isthmus/mesh"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Metadata keys: ownerKey names whose facts are wanted, forKey for which cluster, if that is not the caller.
const (
	ownerKey = "isthmus-owner"
	forKey   = "isthmus-for"
)

// Call is who asks for whose facts.
type Call struct {
	// Caller is the cluster at the other end of the connection. It is Consumer, or one of the primaries of Consumer.
	Caller, Consumer, Owner mesh.ClusterName
}

// FollowStream and OfferedStream are this side's end of the two calls.
type (
	FollowStream  = grpc.BidiStreamingServer[wirepb.Up, wirepb.Down]
	OfferedStream = grpc.BidiStreamingServer[wirepb.Down, wirepb.Up]
)

// ServerConfig is what a Server works with; of the fields Speaks, Elsewhere, Offered, Ahead and Witness may be nil.
type ServerConfig struct {
	Self        mesh.ClusterName
	TrustDomain mesh.TrustDomain
	Exports     *Exports
	// Identify is the caller of a stream as its connection authenticated it.
	Identify func(context.Context) (mesh.Identity, error)
	// Joined is the cluster of a trust domain, if this one has joined it; strangers are
	// told nothing.
	Joined func(mesh.TrustDomain) (mesh.ClusterName, bool)
	// Speaks reports whether a cluster may speak for another: a primary for its remote ones. Nil is never.
	Speaks func(caller, consumer mesh.ClusterName) bool
	// Elsewhere serves a call for facts of other clusters, and Offered takes what a remote cluster offers to tell
	// another (Call.Consumer). A nil one refuses.
	Elsewhere func(Call, FollowStream) error
	Offered   func(Call, OfferedStream) error
	// Ahead hears of a peer that knows more of our history than we do, and Witness what a
	// peer holds over from an earlier one (replica.Out). Both are called from the peer's stream, which
	// waits. A nil one leaves it at the log.
	Ahead   func(context.Context, mesh.ClusterName, mesh.Position)
	Witness func(context.Context, mesh.ClusterName, *replica.Witness)
	// Report is the load report for a peer; nil, none.
	Report func(mesh.ClusterName) []byte
	Clock  clock.Clock
	Log    *slog.Logger
	// Failpoints may be nil, and is in production.
	Failpoints *failpoint.Set
	// Build is what this process is built as.
	Build skew.Build
}

// Server tells peers this cluster's facts.
type Server struct {
	wirepb.UnimplementedFederationServer
	cfg ServerConfig

	mu sync.Mutex
	// streams of each peer and owner, the oldest first.
	streams map[followed][]*stream
}

// followed is whom a stream tells of whom.
type followed struct{ consumer, owner mesh.ClusterName }

// stream is one that lives.
type stream struct {
	caller mesh.ClusterName
	end    context.CancelCauseFunc
}

// errSuperseded ends the oldest of too many streams.
var errSuperseded = status.Errorf(codes.ResourceExhausted, "more than %d streams of one cluster: the oldest ends", StreamsMax)

// errExpelled ends the streams of a cluster that is no longer joined.
var errExpelled = status.Error(codes.PermissionDenied, "your cluster has left the mesh")

// NewServer returns a server; streams are its only goroutines.
func NewServer(cfg ServerConfig) *Server {
	return &Server{cfg: cfg, streams: map[followed][]*stream{}}
}

// Register adds the service to a gRPC server, which should be made with ServerOptions.
func (s *Server) Register(r grpc.ServiceRegistrar) { wirepb.RegisterFederationServer(r, s) }

// Follow serves one stream until either side ends it.
func (s *Server) Follow(up FollowStream) error {
	call, err := s.admit(up.Context())
	if err != nil {
		return err
	}
	ctx, end := context.WithCancelCause(up.Context())
	defer end(nil)
	defer s.enter(call, &stream{call.Caller, end})()
	if _, err := s.admit(ctx); err != nil { // expelled between the question and the entry
		return err
	}
	if call.Owner != s.cfg.Self {
		if s.cfg.Elsewhere == nil {
			return status.Errorf(codes.NotFound, "cluster %s serves its own facts only, asked for %q", s.cfg.Self, call.Owner)
		}
		return s.cfg.Elsewhere(call, follow{up, ctx})
	}
	// A control plane that does not yet know its own state tells nothing: an empty state
	// would be a true statement about a history that has not been read.
	if s.cfg.Exports.Position() == (mesh.Position{}) {
		return status.Errorf(codes.Unavailable, "cluster %s has not read its store yet", s.cfg.Self)
	}
	// The goroutines of the stream outlive this call by an instant: gRPC ends the stream when
	// it returns, and they end with that.
	return s.serve(ctx, call.Consumer, receive(ctx, up.Recv, wire.DecodeUp), sender[*wirepb.Down]{up.Send, s.cfg.Clock, &sync.WaitGroup{}})
}

// follow is a stream that ends with a context of this server's.
type follow struct {
	FollowStream
	ctx context.Context
}

func (f follow) Context() context.Context { return f.ctx }

// Offer takes what a remote cluster offers.
func (s *Server) Offer(down OfferedStream) error {
	call, err := s.caller(down.Context())
	if err != nil {
		return err
	}
	if call.Consumer, err = one(down.Context(), forKey); err != nil {
		return err
	}
	call.Owner = call.Caller
	if s.cfg.Offered == nil {
		return status.Errorf(codes.Unimplemented, "cluster %s takes no offers", s.cfg.Self)
	}
	return s.cfg.Offered(call, down)
}

// Tell serves a stream that this side opened to offer its facts, until either side ends it.
func (s *Server) Tell(ctx context.Context, consumer mesh.ClusterName, to OfferStream) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	defer s.enter(Call{consumer, consumer, s.cfg.Self}, &stream{consumer, end})()
	for s.cfg.Exports.Position() == (mesh.Position{}) {
		_, changed := s.cfg.Exports.current(consumer)
		if s.cfg.Exports.Position() != (mesh.Position{}) {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return s.serve(ctx, consumer, receive(ctx, to.Recv, wire.DecodeUp), sender[*wirepb.Down]{to.Send, s.cfg.Clock, &sync.WaitGroup{}})
}

// caller is who is at the other end: a control plane of a cluster that has joined.
func (s *Server) caller(ctx context.Context) (Call, error) {
	id, err := s.cfg.Identify(ctx)
	if err != nil {
		return Call{}, status.Error(codes.Unauthenticated, err.Error())
	}
	if id != IdentityOf(id.TrustDomain) {
		return Call{}, status.Errorf(codes.PermissionDenied, "%s is no control plane", id)
	}
	peer, ok := s.cfg.Joined(id.TrustDomain)
	if !ok {
		return Call{}, status.Errorf(codes.PermissionDenied, "cluster %s has not joined the cluster of %s", s.cfg.Self, id.TrustDomain)
	}
	return Call{Caller: peer, Consumer: peer}, nil
}

// admit decides who may follow.
func (s *Server) admit(ctx context.Context) (Call, error) {
	call, err := s.caller(ctx)
	if err != nil {
		return Call{}, err
	}
	if call.Owner, err = one(ctx, ownerKey); err != nil {
		return Call{}, err
	}
	if len(metadata.ValueFromIncomingContext(ctx, forKey)) == 0 {
		return call, nil
	}
	if call.Consumer, err = one(ctx, forKey); err != nil {
		return Call{}, err
	}
	if call.Consumer != call.Caller && (s.cfg.Speaks == nil || !s.cfg.Speaks(call.Caller, call.Consumer)) {
		return Call{}, status.Errorf(codes.PermissionDenied, "cluster %s does not speak for cluster %q here", call.Caller, call.Consumer)
	}
	return call, nil
}

// one is the cluster that a metadata key names.
func one(ctx context.Context, key string) (mesh.ClusterName, error) {
	v := metadata.ValueFromIncomingContext(ctx, key)
	if len(v) != 1 || !mesh.IsLabel(v[0]) {
		return "", status.Errorf(codes.NotFound, "%s: want the name of one cluster, got %q", key, v)
	}
	return mesh.ClusterName(v[0]), nil
}

// enter counts a stream, ends the oldest where there are too many, and returns what
// takes it out again.
func (s *Server) enter(call Call, st *stream) (leave func()) {
	k := followed{call.Consumer, call.Owner}
	s.mu.Lock()
	defer s.mu.Unlock()
	of := append(s.streams[k], st)
	if len(of) > StreamsMax {
		of[0].end(errSuperseded)
		of = of[1:]
	}
	s.streams[k] = of
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.streams[k] = slices.DeleteFunc(s.streams[k], func(o *stream) bool { return o == st })
		if len(s.streams[k]) == 0 {
			delete(s.streams, k)
		}
	}
}

// Expel ends the streams of a cluster that is no longer joined, and those by which others are told of it; Joined
// must say so before, or it comes back.
func (s *Server) Expel(n mesh.ClusterName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, of := range s.streams {
		for _, st := range of {
			if k.consumer == n || k.owner == n || st.caller == n {
				st.end(errExpelled)
			}
		}
	}
}

func (s *Server) serve(ctx context.Context, peer mesh.ClusterName, ups <-chan received[replica.Up], to sender[*wirepb.Down]) error {
	partition, changed := s.cfg.Exports.current(peer)
	ex := replica.NewExporter(replica.ExporterConfig{Server: s.cfg.Self, Owner: s.cfg.Self, TrustDomain: s.cfg.TrustDomain, Build: s.cfg.Build}, partition)
	say := newQuiet(s.cfg.Log.With("peer", peer))
	timer := s.cfg.Clock.NewTimer(tick)
	defer timer.Stop()
	out := ex.Open(s.cfg.Clock.Now())
	for {
		if err := s.act(ctx, peer, say, out, to); err != nil {
			return err
		}
		select {
		case m, ok := <-ups:
			if !ok || m.err != nil {
				return m.err
			}
			out = ex.Step(m.value)
		case <-changed:
			partition, changed = s.cfg.Exports.current(peer)
			out = ex.Publish(partition)
		case <-timer.C():
			timer.Reset(tick)
			if s.cfg.Report != nil {
				ex.SetReport(s.cfg.Report(peer))
			}
			out = ex.Tick(s.cfg.Clock.Now())
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// act carries out what the state machine wants.
func (s *Server) act(ctx context.Context, peer mesh.ClusterName, say *quiet, out replica.Out, to sender[*wirepb.Down]) error {
	now := s.cfg.Clock.Now()
	for _, a := range out.Alarms {
		say.warn(now, "a peer that follows us raised an alarm", "alarm", a.String())
	}
	for _, r := range out.Refused {
		say.warn(now, "a peer refused an object of ours", "object", clip(r.Name.String())+": "+r.Reason)
	}
	if out.Ahead != nil && s.cfg.Ahead != nil {
		s.cfg.Ahead(ctx, peer, *out.Ahead)
	}
	if out.Witness != nil {
		say.warn(now, "a peer holds policies of a history of ours that ended", "policies", fmt.Sprint(len(out.Witness.Orphans)))
		if s.cfg.Witness != nil {
			s.cfg.Witness(ctx, peer, out.Witness)
		}
	}
	for _, m := range out.Send {
		if err := s.cfg.Failpoints.Hit(ctx, PointSend); err != nil {
			return err
		}
		if err := to.Send(ctx, wire.EncodeDown(m)); err != nil {
			return err
		}
		if err := s.cfg.Failpoints.Hit(ctx, PointSent); err != nil {
			return err
		}
	}
	if out.Close != "" {
		return status.Error(codes.Aborted, out.Close)
	}
	return nil
}
