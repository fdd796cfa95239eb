package peer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/wire"
	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/mesh"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// What one replica of a control plane is told of a peer it tells on to its siblings, so that a peer is asked once for a
// cluster, and not once for each replica. A sibling is told what the owner stated, at the owner's position and
// with the owner's beat, so whoever is told cannot tell the difference, and a holder that lost the owner is left.

// retellWait is for how long a sibling waits for who is about to follow the owner: replicas start together. It is short
// beside the lease.
const retellWait = time.Second

// held is what a follower has to tell on.
type held struct {
	stated *replica.Partition
	beat   int64
	// direct says that a session with the owner lives, and that all was told in it. Only then is anything told on: holders that fed each other
	// would each be in sync with the other, and nobody with the owner.
	direct bool
	// report is the owner's newest load report.
	report []byte
	// inForce is what is acted upon, refused why something stated is not.
	inForce *replica.Partition
	refused map[replica.Name]string
}

// Holding is what is known of a cluster.
type Holding struct {
	// Stated is what its owner last stated, InForce what is acted upon.
	Stated, InForce *replica.Partition
	Status          replica.Status
	// Err is why there is no session, nil while there is one.
	Err     error
	refused map[replica.Name]string
}

// NotInForce is what is stated and not acted upon, or acted upon and not stated, with the reason.
func (h Holding) NotInForce() map[replica.Name]string {
	if h.InForce.Root() == h.Stated.Root() {
		return nil
	}
	out := map[replica.Name]string{}
	stated, inForce := h.Stated.Live(), h.InForce.Live()
	set, removed := replica.Diff(inForce, stated)
	for _, r := range set {
		out[r.Name] = cmp.Or(h.refused[r.Name], "another version is held over from a history of the owner that ended")
	}
	for _, n := range removed {
		out[n] = "held over from a history of the owner that ended, until the owner takes it into account"
	}
	return out
}

// Problem is why the owner is not followed, "" while it is.
func (h Holding) Problem() string {
	switch {
	case h.Status.Skew != "":
		return h.Status.Skew
	case h.Err != nil:
		return h.Err.Error()
	}
	return ""
}

// Holding is what is known now. It is safe for concurrent use.
func (f *Follower) Holding() Holding {
	f.mu.Lock()
	defer f.mu.Unlock()
	return Holding{f.holds.stated, f.holds.inForce, f.status, f.err, f.holds.refused}
}

// passMax bounds the witnesses of siblings that wait for the follower; they are said again.
const passMax = 8

// held is what may be told on, and a channel that closes when that changes in more than the beat.
func (f *Follower) held() (held, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.holds, f.holdsChanged
}

// hold publishes what may be told on.
func (f *Follower) hold() {
	f.synced = f.direct && (f.synced || f.im.Status().InSync)
	next := held{f.im.Stated(), f.im.Beat(), f.synced, f.report, f.im.InForce(), f.im.Refusals()}
	f.mu.Lock()
	defer f.mu.Unlock()
	changed := next.stated != f.holds.stated || next.direct != f.holds.direct
	f.holds = next
	if changed {
		close(f.holdsChanged)
		f.holdsChanged = make(chan struct{})
	}
}

// Direct reports whether there is a session with the owner itself. It is safe for concurrent use.
func (f *Follower) Direct() bool {
	h, _ := f.held()
	return h.direct
}

// Move ends the session, if there is one, so that the next is opened where FollowerConfig.Reach says now. What is known
// stays. It is safe for concurrent use.
func (f *Follower) Move() {
	select {
	case f.move <- struct{}{}:
	default:
	}
}

// ErrNotHeld says that a replica answered, and does not follow the owner itself.
var ErrNotHeld = errors.New("the replica does not follow the cluster itself")

// DialHeld is Dial of a replica of the cluster own, for what it holds of owner; it returns once the replica has said that
// it tells of it, and an error that is ErrNotHeld if it said that it does not.
func DialHeld(ctx context.Context, cfg DialConfig, owner, own mesh.ClusterName) (*Session, error) {
	c, err := NewConn(cfg)
	if err != nil {
		return nil, fmt.Errorf("at %s: %w", cfg.Address, err)
	}
	s, err := c.followHeld(ctx, owner)
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("at %s: %w", cfg.Address, err)
	}
	s.OnClose(c.Close)
	s.holder = own
	return s, nil
}

func (c *Conn) followHeld(ctx context.Context, owner mesh.ClusterName) (*Session, error) {
	ctx, end := context.WithCancelCause(ctx)
	stream, err := c.open(ctx, end, owner, "")
	if err != nil {
		return nil, err
	}
	err = c.opening(ctx, end, func() error {
		header, err := stream.Header()
		if err == nil && header == nil { // it ended before it began; the status comes as if it were a message
			_, err = stream.Recv()
		}
		return err
	})
	if err != nil {
		if status.Code(err) == codes.FailedPrecondition {
			err = fmt.Errorf("%w: %w", ErrNotHeld, err)
		} else {
			err = c.cause(ctx, err)
		}
		end(nil)
		return nil, err
	}
	return c.session(ctx, stream, end), nil
}

// Retell tells a sibling what f is told, until either side ends it or f loses the owner.
func (s *Server) Retell(call Call, up FollowStream, f *Follower) error {
	ctx := up.Context()
	now, changed := f.held()
	patience := s.cfg.Clock.NewTimer(retellWait)
	defer patience.Stop()
	for waiting := true; waiting && !now.direct; {
		select {
		case <-changed:
			now, changed = f.held()
		case <-patience.C():
			waiting = false
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if !now.direct {
		return status.Errorf(codes.FailedPrecondition, "this replica does not follow cluster %s itself", call.Owner)
	}
	if err := up.SendHeader(metadata.MD{}); err != nil { // which DialHeld waits for
		return err
	}
	ups, to := receive(ctx, up.Recv, wire.DecodeUp), sender[*wirepb.Down]{up.Send, s.cfg.Clock, &sync.WaitGroup{}}
	ex := replica.NewExporter(replica.ExporterConfig{Server: s.cfg.Self, Owner: call.Owner, TrustDomain: f.cfg.Peer.TrustDomain, Build: s.cfg.Build,
		Version: f.Status().Version}, now.stated)
	ex.SetBeat(now.beat)
	ex.SetReport(now.report)
	timer := s.cfg.Clock.NewTimer(tick)
	defer timer.Stop()
	out := ex.Open(s.cfg.Clock.Now())
	for {
		if out.Witness != nil {
			f.pass(out.Witness)
		}
		for _, m := range out.Send {
			if err := to.Send(ctx, wire.EncodeDown(m)); err != nil {
				return err
			}
		}
		if out.Close != "" {
			return status.Error(codes.Aborted, out.Close)
		}
		select {
		case m, ok := <-ups:
			if !ok || m.err != nil {
				return m.err
			}
			out = ex.Step(m.value)
		case <-changed:
			if now, changed = f.held(); !now.direct {
				return status.Errorf(codes.Unavailable, "this replica lost cluster %s", call.Owner)
			}
			ex.SetBeat(now.beat)
			out = ex.Publish(now.stated)
		case <-timer.C():
			timer.Reset(tick)
			now, _ = f.held()
			ex.SetBeat(now.beat)
			ex.SetReport(now.report)
			out = ex.Tick(s.cfg.Clock.Now())
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// pass hands a sibling's witness to the follower, which tells the owner.
func (f *Follower) pass(w *replica.Witness) {
	select {
	case f.passes <- w:
	default:
	}
}
