package relay

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/control/peer"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	// offersMax is how many offers of one cluster to one other wait; one more ends the oldest.
	offersMax = 4
	// takeWait is how long who wants facts waits for an offer. A remote cluster makes the next one as soon as one is
	// taken, and comes back within about a second when it lost its primary.
	takeWait = 2 * time.Second
)

// Hub is a primary's side: what the remote clusters attached to it offer. It is safe for concurrent use.
type Hub struct {
	clock clock.Clock

	mu      sync.Mutex
	offers  map[pair][]*offer // the oldest first
	changed chan struct{}     // closed at the next offer
}

// pair is who offers to tell whom.
type pair struct{ owner, consumer mesh.ClusterName }

// offer is a stream that waits, or that was taken.
type offer struct {
	stream peer.OfferedStream
	end    context.CancelCauseFunc
}

// NewHub returns a hub where nothing is offered.
func NewHub(c clock.Clock) *Hub {
	return &Hub{clock: c, offers: map[pair][]*offer{}, changed: make(chan struct{})}
}

// Offer keeps a stream until somebody takes it, and then until that one or the remote cluster ends it.
func (h *Hub) Offer(call peer.Call, stream peer.OfferedStream) error {
	ctx, end := context.WithCancelCause(stream.Context())
	defer end(nil)
	k, o := pair{call.Owner, call.Consumer}, &offer{stream, end}
	h.mu.Lock()
	of := append(h.offers[k], o)
	if len(of) > offersMax {
		of[0].end(status.Errorf(codes.ResourceExhausted, "more than %d offers to cluster %s wait: the oldest ends", offersMax, call.Consumer))
		of = of[1:]
	}
	h.offers[k] = of
	close(h.changed)
	h.changed = make(chan struct{})
	h.mu.Unlock()
	<-ctx.Done()
	h.remove(k, o)
	return context.Cause(ctx)
}

func (h *Hub) remove(k pair, o *offer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.offers[k] = slices.DeleteFunc(h.offers[k], func(x *offer) bool { return x == o })
	if len(h.offers[k]) == 0 {
		delete(h.offers, k)
	}
}

// Take is the newest offer of owner to tell consumer, once there is one. end ends it, with the calls of it that wait.
func (h *Hub) Take(ctx context.Context, owner, consumer mesh.ClusterName) (stream peer.Stream, end func(), err error) {
	timer := h.clock.NewTimer(takeWait)
	defer timer.Stop()
	for {
		o, changed := h.newest(pair{owner, consumer})
		if o != nil {
			// The header says that the offer was taken; if it does not arrive, the stream has ended, and so it will be found.
			if err := o.stream.SendHeader(metadata.MD{}); err == nil {
				return o.stream, func() { o.end(nil) }, nil
			}
			continue
		}
		select {
		case <-changed:
		case <-timer.C():
			return nil, nil, status.Errorf(codes.Unavailable, "remote cluster %s is not attached here", owner)
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
	}
}

func (h *Hub) newest(k pair) (*offer, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	of := h.offers[k]
	if len(of) == 0 {
		return nil, h.changed
	}
	o := of[len(of)-1]
	h.offers[k] = of[:len(of)-1]
	return o, h.changed
}

// Attached lists the remote clusters that offer something, by name.
func (h *Hub) Attached() []mesh.ClusterName {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []mesh.ClusterName
	for k := range h.offers {
		if !slices.Contains(out, k.owner) {
			out = append(out, k.owner)
		}
	}
	slices.Sort(out)
	return out
}

// Session is an offer taken by the primary itself.
func (h *Hub) Session(ctx context.Context, owner, consumer mesh.ClusterName) (*peer.Session, error) {
	stream, end, err := h.Take(ctx, owner, consumer)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	context.AfterFunc(ctx, end)
	return peer.NewSession(ctx, peer.SessionConfig{Stream: stream, Clock: h.clock, End: stop}), nil
}

// Splice passes on what either side of a stream says, as it is and no faster than it is read, until one ends; end ends
// the other. Its goroutines end with up, which the caller's return ends.
func Splice(up peer.FollowStream, to peer.Stream, end func()) error {
	defer context.AfterFunc(up.Context(), end)()
	defer end()
	ended := make(chan error, 2)
	go func() {
		for {
			m, err := up.Recv()
			if err == nil {
				err = to.Send(m)
			}
			if err != nil {
				ended <- err
				return
			}
		}
	}()
	go func() {
		for {
			m, err := to.Recv()
			if err == nil {
				err = up.Send(m)
			}
			if err != nil {
				ended <- err
				return
			}
		}
	}()
	select {
	case err := <-ended:
		return status.Errorf(codes.Unavailable, "one side of a stream that is passed on ended: %v", err)
	case <-up.Context().Done():
		return context.Cause(up.Context())
	}
}
