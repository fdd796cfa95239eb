// Package census gathers what the replicas of one control plane see of proxies, each of which follows one of them. Its one idea
// is that the replica that is asked asks the others when it is: nothing is kept in step for it, and one that does not
// answer is named and hides no other.
//
// Replicas speak on the federation port, by their certificates: only a control plane of the own trust domain is told. It does
// not know who the replicas are (package sibling does). Read Server, then Census.
package census

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/control/peer"
	"github.com/isthmus-mesh/isthmus/control/sibling"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/xds"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Bounds of asking. What was gathered serves all who ask within fresh: a watch of many objects asks for each.
const (
	askMax = time.Second
	// againMax is for one that did not answer the last time.
	againMax = 100 * time.Millisecond
	fresh    = 500 * time.Millisecond
	bytesMax = 128 << 20
)

// Server tells the other replicas what this one sees.
type Server struct {
	wirepb.UnimplementedReplicasServer
	// TrustDomain is the own one; Identify is the caller as its connection authenticated it.
	TrustDomain mesh.TrustDomain
	Identify    func(context.Context) (mesh.Identity, error)
	Version     string
	Proxies     func() []xds.ClientStatus
}

// Register adds the service to a gRPC server.
func (s *Server) Register(r grpc.ServiceRegistrar) { wirepb.RegisterReplicasServer(r, s) }

// Seen answers another replica.
func (s *Server) Seen(ctx context.Context, _ *wirepb.SeenRequest) (*wirepb.SeenResponse, error) {
	id, err := s.Identify(ctx)
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	if id != peer.IdentityOf(s.TrustDomain) {
		return nil, status.Errorf(codes.PermissionDenied, "%s is no replica of this control plane", id)
	}
	text, err := json.Marshal(s.Proxies())
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &wirepb.SeenResponse{Version: s.Version, Proxies: text}, nil
}

// Replica is what one replica said of itself.
type Replica struct {
	sibling.Replica
	// Self is the one that was asked.
	Self    bool
	Version string
	Proxies []xds.ClientStatus
	// Err is why it said nothing.
	Err error
}

// Census asks. It is safe for concurrent use.
type Census struct {
	// Self is this replica, All are those that are known, this one among them.
	Self string
	All  func() []sibling.Replica
	// Silent is for how long a replica has not answered, Answered is told what came of asking.
	Silent   func(name string) time.Duration
	Answered func(name string, err error)
	Own      *Server
	// Dial is how a replica is dialled, but for where.
	Dial  peer.DialConfig
	Clock clock.Clock

	mu     sync.Mutex
	last   []Replica
	lastAt time.Time
}

// Replicas asks all at once, each for a second at most, and one that did not answer the last time for a tenth of that: one that
// is dead would make everybody wait.
func (c *Census) Replicas() []Replica {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last != nil && c.Clock.Now().Sub(c.lastAt) < fresh {
		return c.last
	}
	known := c.All()
	out := make([]Replica, len(known))
	var asking sync.WaitGroup
	for i, r := range known {
		if out[i].Replica = r; r.Name == c.Self {
			out[i].Self, out[i].Version, out[i].Proxies = true, c.Own.Version, c.Own.Proxies()
			continue
		}
		asking.Go(func() {
			silent := c.Silent(r.Name)
			ctx, stop := context.WithTimeout(context.Background(), patience(silent))
			defer stop()
			out[i].Version, out[i].Proxies, out[i].Err = c.ask(ctx, r)
			c.Answered(r.Name, out[i].Err)
			switch {
			case out[i].Err != nil && silent > time.Second:
				out[i].Err = fmt.Errorf("ask replica %s at %s what it sees: it has not answered for %v: %w", r.Name, r.Federation, silent.Round(time.Second), out[i].Err)
			case out[i].Err != nil:
				out[i].Err = fmt.Errorf("ask replica %s at %s what it sees: %w", r.Name, r.Federation, out[i].Err)
			}
		})
	}
	asking.Wait()
	if !slices.ContainsFunc(out, func(r Replica) bool { return r.Self }) { // not written down yet
		out = append(out, Replica{Replica: sibling.Replica{Name: c.Self}, Self: true, Version: c.Own.Version, Proxies: c.Own.Proxies()})
	}
	c.last, c.lastAt = out, c.Clock.Now()
	return out
}

// patience is how long a replica is waited for that has not answered for so long.
func patience(silent time.Duration) time.Duration {
	if silent > 0 {
		return againMax
	}
	return askMax
}

// Ask returns nil if a replica answers, whatever it sees.
func (c *Census) Ask(ctx context.Context, r sibling.Replica) error {
	_, _, err := c.ask(ctx, r)
	return err
}

func (c *Census) ask(ctx context.Context, r sibling.Replica) (string, []xds.ClientStatus, error) {
	cfg := c.Dial
	cfg.Address = r.Federation
	conn, err := peer.NewConn(cfg)
	if err != nil {
		return "", nil, err
	}
	defer conn.Close()
	seen, err := wirepb.NewReplicasClient(conn.Client()).Seen(ctx, &wirepb.SeenRequest{}, grpc.MaxCallRecvMsgSize(bytesMax))
	switch {
	case status.Code(err) == codes.Unimplemented:
		return "", nil, errors.New("it runs a version that does not say")
	case err != nil:
		return "", nil, err
	}
	var proxies []xds.ClientStatus
	if err := json.Unmarshal(seen.Proxies, &proxies); err != nil {
		return "", nil, fmt.Errorf("understand its answer: %w", err)
	}
	return seen.Version, proxies, nil
}

// Proxies are those of all replicas that answer, each once, by ID: of one that has just moved, where it is connected last.
func (c *Census) Proxies() []xds.ClientStatus { return merge(c.Replicas()) }

func merge(all []Replica) []xds.ClientStatus {
	type key struct {
		cluster mesh.ClusterName
		id      string
	}
	newest := map[key]xds.ClientStatus{}
	for _, r := range all {
		for _, p := range r.Proxies {
			k := key{p.Node.Cluster, p.Node.ID}
			if had, ok := newest[k]; !ok || p.Connected.After(had.Connected) {
				newest[k] = p
			}
		}
	}
	return slices.SortedFunc(maps.Values(newest), func(a, b xds.ClientStatus) int { return cmp.Compare(a.Node.ID, b.Node.ID) })
}
