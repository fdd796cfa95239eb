package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/wire"
	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// ownerKey is the metadata key that names whose facts are wanted.
const ownerKey = "isthmus-owner"

// ServerConfig is what a Server works with; all fields are required.
type ServerConfig struct {
	Self        mesh.ClusterName
	TrustDomain mesh.TrustDomain
	Exports     *Exports
	// Identify is the caller of a stream as its connection authenticated it.
	Identify func(context.Context) (mesh.Identity, error)
	Clock    clock.Clock
	Log      *slog.Logger
}

// Server tells peers this cluster's facts.
type Server struct {
	wirepb.UnimplementedFederationServer
	cfg ServerConfig
}

// NewServer returns a server; streams are its only goroutines.
func NewServer(cfg ServerConfig) *Server { return &Server{cfg: cfg} }

// Register adds the service to a gRPC server.
func (s *Server) Register(r grpc.ServiceRegistrar) { wirepb.RegisterFederationServer(r, s) }

// tick is how often a state machine is shown the time.
const tick = 500 * time.Millisecond

// Follow serves one stream until either side ends it.
func (s *Server) Follow(stream grpc.BidiStreamingServer[wirepb.Up, wirepb.Down]) error {
	ctx := stream.Context()
	id, err := s.cfg.Identify(ctx)
	if err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	if id != IdentityOf(id.TrustDomain) {
		return status.Errorf(codes.PermissionDenied, "%s is no control plane", id)
	}
	peer := id.TrustDomain.Cluster()
	if owner := metadata.ValueFromIncomingContext(ctx, ownerKey); len(owner) != 1 || owner[0] != string(s.cfg.Self) {
		return status.Errorf(codes.NotFound, "cluster %s serves its own facts only, asked for %q", s.cfg.Self, owner)
	}
	// A control plane that does not yet know its own state tells nothing: an empty state
	// would be a true statement about a history that has not been read.
	if s.cfg.Exports.Position() == (mesh.Position{}) {
		return status.Errorf(codes.Unavailable, "cluster %s has not read its store yet", s.cfg.Self)
	}
	return s.serve(ctx, peer, stream)
}

func (s *Server) serve(ctx context.Context, peer mesh.ClusterName, stream grpc.BidiStreamingServer[wirepb.Up, wirepb.Down]) error {
	partition, changed := s.cfg.Exports.current(peer)
	ex := replica.NewExporter(replica.ExporterConfig{Server: s.cfg.Self, Owner: s.cfg.Self, TrustDomain: s.cfg.TrustDomain}, partition)
	ups := receive(ctx, stream.Recv, wire.DecodeUp)
	timer := s.cfg.Clock.NewTimer(tick)
	defer timer.Stop()
	out := ex.Open(s.cfg.Clock.Now())
	for {
		if err := s.act(peer, out, stream.Send); err != nil {
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
		case now := <-timer.C():
			timer.Reset(tick)
			ex.SetBeat(now.UnixMilli())
			out = ex.Tick(now)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// act carries out what the state machine wants.
func (s *Server) act(peer mesh.ClusterName, out replica.Out, send func(*wirepb.Down) error) error {
	for _, a := range out.Alarms {
		s.cfg.Log.Warn("a peer that follows us raised an alarm", "peer", peer, "alarm", a.String())
	}
	for _, r := range out.Refused {
		s.cfg.Log.Warn("a peer refused an object of ours", "peer", peer, "object", r.Name.String(), "reason", r.Reason)
	}
	if out.Ahead != nil {
		s.cfg.Log.Warn("a peer knows more of our history than we do", "peer", peer, "position", fmt.Sprint(*out.Ahead))
	}
	for _, m := range out.Send {
		if err := send(wire.EncodeDown(m)); err != nil {
			return err
		}
	}
	if out.Close != "" {
		return status.Error(codes.Aborted, out.Close)
	}
	return nil
}

// received is a message or the end of a stream.
type received[M any] struct {
	value M
	err   error
}

// receive turns a blocking Recv into a channel. The goroutine ends with the stream, which ends
// with ctx; at most one message waits.
func receive[P, M any](ctx context.Context, recv func() (P, error), decode func(P) (M, error)) <-chan received[M] {
	out := make(chan received[M])
	go func() {
		defer close(out)
		for {
			var r received[M]
			p, err := recv()
			if err == nil {
				r.value, err = decode(p)
			}
			if errors.Is(err, io.EOF) {
				return
			}
			r.err = err
			select {
			case out <- r:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return out
}
