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
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/internal/failpoint"
	"github.com/isthmus-mesh/isthmus/mesh"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// ownerKey is the metadata key that names whose facts are wanted.
const ownerKey = "isthmus-owner"

// ServerConfig is what a Server works with; all fields but Ahead and Witness are required.
type ServerConfig struct {
	Self        mesh.ClusterName
	TrustDomain mesh.TrustDomain
	Exports     *Exports
	// Identify is the caller of a stream as its connection authenticated it.
	Identify func(context.Context) (mesh.Identity, error)
	// Joined is the cluster of a trust domain, if this one has joined it; strangers are
	// told nothing.
	Joined func(mesh.TrustDomain) (mesh.ClusterName, bool)
	// Ahead hears of a peer that knows more of our history than we do, and Witness what a
	// peer holds over from an earlier one (replica.Out). Both are called from the peer's stream, which
	// waits. A nil one leaves it at the log.
	Ahead   func(context.Context, mesh.ClusterName, mesh.Position)
	Witness func(context.Context, mesh.ClusterName, *replica.Witness)
	Clock   clock.Clock
	Log     *slog.Logger
	// Failpoints may be nil, and is in production.
	Failpoints *failpoint.Set
}

// Server tells peers this cluster's facts.
type Server struct {
	wirepb.UnimplementedFederationServer
	cfg ServerConfig

	mu sync.Mutex
	// streams of each peer, the oldest first.
	streams map[mesh.ClusterName][]*stream
}

// stream is one that lives.
type stream struct{ end context.CancelCauseFunc }

// errSuperseded ends the oldest of too many streams.
var errSuperseded = status.Errorf(codes.ResourceExhausted, "more than %d streams of one cluster: the oldest ends", StreamsMax)

// errExpelled ends the streams of a cluster that is no longer joined.
var errExpelled = status.Error(codes.PermissionDenied, "your cluster has left the mesh")

// NewServer returns a server; streams are its only goroutines.
func NewServer(cfg ServerConfig) *Server {
	return &Server{cfg: cfg, streams: map[mesh.ClusterName][]*stream{}}
}

// Register adds the service to a gRPC server, which should be made with ServerOptions.
func (s *Server) Register(r grpc.ServiceRegistrar) { wirepb.RegisterFederationServer(r, s) }

// Follow serves one stream until either side ends it.
func (s *Server) Follow(up grpc.BidiStreamingServer[wirepb.Up, wirepb.Down]) error {
	peer, err := s.admit(up.Context())
	if err != nil {
		return err
	}
	ctx, end := context.WithCancelCause(up.Context())
	defer end(nil)
	defer s.enter(peer, &stream{end})()
	if _, err := s.admit(ctx); err != nil { // expelled between the question and the entry
		return err
	}
	// The goroutines of the stream outlive this call by an instant: gRPC ends the stream when
	// it returns, and they end with that.
	return s.serve(ctx, peer, receive(ctx, up.Recv, wire.DecodeUp), sender[*wirepb.Down]{up.Send, s.cfg.Clock, &sync.WaitGroup{}})
}

// admit decides who may follow.
func (s *Server) admit(ctx context.Context) (mesh.ClusterName, error) {
	id, err := s.cfg.Identify(ctx)
	if err != nil {
		return "", status.Error(codes.Unauthenticated, err.Error())
	}
	if id != IdentityOf(id.TrustDomain) {
		return "", status.Errorf(codes.PermissionDenied, "%s is no control plane", id)
	}
	peer, ok := s.cfg.Joined(id.TrustDomain)
	if !ok {
		return "", status.Errorf(codes.PermissionDenied, "cluster %s has not joined the cluster of %s", s.cfg.Self, id.TrustDomain)
	}
	if owner := metadata.ValueFromIncomingContext(ctx, ownerKey); len(owner) != 1 || owner[0] != string(s.cfg.Self) {
		return "", status.Errorf(codes.NotFound, "cluster %s serves its own facts only, asked for %q", s.cfg.Self, owner)
	}
	// A control plane that does not yet know its own state tells nothing: an empty state
	// would be a true statement about a history that has not been read.
	if s.cfg.Exports.Position() == (mesh.Position{}) {
		return "", status.Errorf(codes.Unavailable, "cluster %s has not read its store yet", s.cfg.Self)
	}
	return peer, nil
}

// enter counts a stream, ends the oldest where there are too many, and returns what
// takes it out again.
func (s *Server) enter(peer mesh.ClusterName, st *stream) (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	of := append(s.streams[peer], st)
	if len(of) > StreamsMax {
		of[0].end(errSuperseded)
		of = of[1:]
	}
	s.streams[peer] = of
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.streams[peer] = slices.DeleteFunc(s.streams[peer], func(o *stream) bool { return o == st })
		if len(s.streams[peer]) == 0 {
			delete(s.streams, peer)
		}
	}
}

// Expel ends the streams of a cluster that is no longer joined; Joined must say so before, or it
// comes back.
func (s *Server) Expel(n mesh.ClusterName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.streams[n] {
		st.end(errExpelled)
	}
}

func (s *Server) serve(ctx context.Context, peer mesh.ClusterName, ups <-chan received[replica.Up], to sender[*wirepb.Down]) error {
	partition, changed := s.cfg.Exports.current(peer)
	ex := replica.NewExporter(replica.ExporterConfig{Server: s.cfg.Self, Owner: s.cfg.Self, TrustDomain: s.cfg.TrustDomain}, partition)
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
