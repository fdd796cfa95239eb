package plane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/control/claim"
	"github.com/isthmus-mesh/isthmus/control/filestore"
	"github.com/isthmus-mesh/isthmus/control/peer"
	"github.com/isthmus-mesh/isthmus/control/relay"
	"github.com/isthmus-mesh/isthmus/control/secret"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/mesh"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A remote cluster runs a relay: this package over files instead of a store, and with one connection to a primary
// instead of one to each cluster. Everything else is the same code: it computes for its own proxies from what it
// was told, signs for them, and is told and tells by the same protocol (docs/adr/0023).

// objects is where a control plane's own objects are: a store, or the files of a relay.
type objects interface {
	reader
	writer
	history
	Close() error
}

type reader interface {
	Get(context.Context, store.Key) (store.Object, error)
	List(context.Context, store.Scope) ([]store.Object, int64, error)
}

type writer interface {
	Put(context.Context, store.Object, store.Precondition) (int64, error)
	Delete(context.Context, store.Key, store.Precondition) (int64, error)
	Batch(context.Context, []store.Op) (int64, error)
}

type history interface {
	Watch(context.Context, store.Position, func(context.Context, store.Events) error) error
	Now(context.Context) (store.Position, error)
	Heard() time.Time
}

// openObjects opens the store, or the files of a relay; Secrets are sealed there.
func (p *Plane) openObjects(ctx context.Context) (err error) {
	defer func() {
		if err == nil {
			p.store = secret.Seal(p.store, secret.Config{Key: p.sealKey, Clock: p.clock, Log: p.log})
		}
	}()
	if p.cfg.Remote {
		if err := p.demote(ctx); err != nil {
			return err
		}
		p.store, err = filestore.Open(p.filestoreConfig())
		return err
	}
	endpoints := p.cfg.StoreEndpoints
	if len(endpoints) == 0 {
		endpoints = []string{"unix://" + p.cfg.StoreSocket()}
	}
	storeTLS, err := p.cfg.StoreTLS.Load()
	if err != nil {
		return err
	}
	p.store, err = store.Open(store.Config{Endpoints: endpoints, Prefix: p.cfg.StorePrefix, TLS: storeTLS, Log: p.log, BackoffMax: 500 * time.Millisecond, Away: p.storeAway,
		Failpoints: p.cfg.Failpoints})
	if err == nil && p.cfg.shared() {
		p.claim = &claim.Claim{Cluster: p.cfg.Cluster, Objects: p.store, Where: strings.Join(endpoints, ", "), Prefix: cmp.Or(p.cfg.StorePrefix, store.DefaultPrefix), Clock: p.clock, Log: p.log}
		err = p.claim.Open(store.Config{Endpoints: endpoints, TLS: storeTLS, Log: p.log})
	}
	return err
}

// stated is what the own objects say of a cluster, this one included; the zero Cluster if nothing.
func (p *Plane) stated(n mesh.ClusterName) mesh.Cluster {
	f, ok := p.loop.World().Get(mesh.Key{Kind: mesh.KindCluster, Origin: p.cfg.Cluster, Name: string(n)})
	if !ok {
		return mesh.Cluster{}
	}
	return *f.Value.(*mesh.Cluster)
}

// speaks reports whether a cluster is a primary of another.
func (p *Plane) speaks(caller, consumer mesh.ClusterName) bool {
	c := p.stated(consumer)
	return c.Role == mesh.RoleRemote && slices.Contains(c.Primaries, caller)
}

// offered takes what a remote cluster offers to tell another.
func (p *Plane) offered(call peer.Call, stream peer.OfferedStream) error {
	if !p.speaks(p.cfg.Cluster, call.Owner) {
		return status.Errorf(codes.PermissionDenied, "cluster %s is no primary of cluster %s: see primaries of its Cluster object here", p.cfg.Cluster, call.Owner)
	}
	if call.Consumer != p.cfg.Cluster && p.stated(call.Consumer).Name == "" {
		return status.Errorf(codes.NotFound, "cluster %s has not joined cluster %s", p.cfg.Cluster, call.Consumer)
	}
	return p.hub.Offer(call, stream)
}

// elsewhere passes on the facts of other clusters: those of remote clusters attached here to whoever may hear them,
// and those of all to remote clusters attached here.
func (p *Plane) elsewhere(call peer.Call, up peer.FollowStream) error {
	if call.Caller == p.cfg.Cluster {
		return p.retell(call, up)
	}
	ctx := up.Context()
	owner := p.stated(call.Owner)
	ours := call.Caller == call.Consumer && p.speaks(p.cfg.Cluster, call.Consumer)
	switch {
	case owner.Name == "":
		return status.Errorf(codes.NotFound, "cluster %s has not joined cluster %s", p.cfg.Cluster, call.Owner)
	case p.speaks(p.cfg.Cluster, call.Owner):
		stream, end, err := p.hub.Take(ctx, call.Owner, call.Consumer)
		if err == nil {
			return relay.Splice(up, stream, end)
		}
		if !ours || len(owner.Primaries) == 1 {
			return err
		}
	case !ours: // who asks can ask others itself, and a primary that asks for its remote has been asked already
		return status.Errorf(codes.NotFound, "cluster %s serves its own facts and those of its remote clusters, asked for %q", p.cfg.Cluster, call.Owner)
	}
	to, err := p.dialFor(ctx, owner, call.Consumer)
	if err != nil {
		return status.Errorf(codes.Unavailable, "follow cluster %s for cluster %s: %v", call.Owner, call.Consumer, err)
	}
	return relay.Splice(up, to, to.Close)
}

// dialFor opens a stream of owner's facts for a consumer: with the owner, or with a primary of a remote one.
func (p *Plane) dialFor(ctx context.Context, owner mesh.Cluster, consumer mesh.ClusterName) (*peer.Raw, error) {
	err := errors.New("it has no address here")
	for _, at := range p.tellers(owner) {
		for _, addr := range at.ControlPlanes {
			var s *peer.Raw
			if s, err = peer.DialRaw(ctx, p.dialConfig(at, addr), owner.Name, consumer); err == nil {
				return s, nil
			}
		}
	}
	return nil, err
}

func (p *Plane) dialConfig(at mesh.Cluster, addr netip.AddrPort) peer.DialConfig {
	return peer.DialConfig{Source: p.source, TrustDomain: at.TrustDomain, Address: addr, Local: p.cfg.Local, Clock: p.clock, Patience: &p.patience}
}

// tellers are the clusters, this one aside, at which an owner's facts may be had.
func (p *Plane) tellers(owner mesh.Cluster) (out []mesh.Cluster) {
	if owner.Role != mesh.RoleRemote {
		return []mesh.Cluster{owner}
	}
	for _, n := range owner.Primaries {
		if c := p.stated(n); n != p.cfg.Cluster && c.Name != "" {
			out = append(out, c)
		}
	}
	return out
}

// reach is how the facts of a cluster are had, where that is not by dialling it.
func (p *Plane) reach(w mesh.Cluster) func(context.Context, uint64) (*peer.Session, error) {
	switch {
	case p.uplink != nil:
		return func(ctx context.Context, _ uint64) (*peer.Session, error) { return p.uplink.Reach(ctx, w.Name) }
	case w.Role != mesh.RoleRemote && p.siblings.Sharing():
		return p.siblings.Reach(w, func(ctx context.Context, attempt uint64) (*peer.Session, error) {
			if len(w.ControlPlanes) == 0 {
				return nil, errors.New("it has no address")
			}
			return peer.Dial(ctx, p.dialConfig(w, w.ControlPlanes[attempt%uint64(len(w.ControlPlanes))]), w.Name, "")
		})
	case w.Role != mesh.RoleRemote:
		return nil
	}
	return func(ctx context.Context, attempt uint64) (*peer.Session, error) {
		n := w.Primaries[attempt%uint64(len(w.Primaries))]
		if n == p.cfg.Cluster {
			if r, ok := p.siblings.Other(attempt); ok && attempt%2 == 0 { // it is attached to one of the replicas
				return p.siblings.Dial(ctx, r, w.Name)
			}
			return p.hub.Session(ctx, w.Name, p.cfg.Cluster)
		}
		at := p.stated(n)
		if len(at.ControlPlanes) == 0 {
			return nil, fmt.Errorf("its primary %s is not known here by an address", n)
		}
		addr := at.ControlPlanes[attempt/uint64(len(w.Primaries))%uint64(len(at.ControlPlanes))]
		return peer.Dial(ctx, p.dialConfig(at, addr), w.Name, "")
	}
}

// configureUplink tells a relay's uplink what the own objects say of primaries and other clusters.
func (p *Plane) configureUplink(want map[mesh.ClusterName]mesh.Cluster) {
	if p.uplink == nil {
		return
	}
	var primaries []relay.Primary
	for _, n := range p.stated(p.cfg.Cluster).Primaries {
		if c, ok := want[n]; ok && c.TrustDomain != "" && len(c.ControlPlanes) > 0 {
			primaries = append(primaries, relay.Primary{Name: n, TrustDomain: c.TrustDomain, Addresses: c.ControlPlanes})
		}
	}
	var consumers []mesh.ClusterName
	for n := range want {
		consumers = append(consumers, n)
	}
	slices.Sort(consumers)
	p.uplink.Configure(primaries, consumers)
}

// Uplink is which primary a relay follows; ok is false for a primary.
func (p *Plane) Uplink() (s relay.State, ok bool) {
	if p.uplink == nil {
		return relay.State{}, false
	}
	return p.uplink.State(), true
}
