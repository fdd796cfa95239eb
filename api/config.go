package api

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/isthmus-mesh/isthmus/api/consistency"
	"github.com/isthmus-mesh/isthmus/api/forecast"
	"github.com/isthmus-mesh/isthmus/control/address"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/xds"
)

// Objects is where objects are stored; *store.Store is one.
type Objects interface {
	Get(ctx context.Context, key store.Key) (store.Object, error)
	List(ctx context.Context, scope store.Scope) ([]store.Object, int64, error)
	Put(ctx context.Context, o store.Object, pre store.Precondition) (int64, error)
	Delete(ctx context.Context, key store.Key, pre store.Precondition) (int64, error)
	Watch(ctx context.Context, from store.Position, deliver func(context.Context, store.Events) error) error
}

// PeerStatus is how another cluster stands, as this one sees it.
type PeerStatus = consistency.PeerStatus

// Config is what a Server works with. Cluster, Objects, World, Stamp and Token are required;
// what else is nil is answered as empty, or refused with the reason.
type Config struct {
	Cluster mesh.ClusterName
	Objects Objects
	// World is the newest published world.
	World func() *world.World
	// View is that of the cluster's own proxies.
	View    ir.View
	Vector  func() mesh.Vector
	Proxies func() []xds.ClientStatus
	// Digests is what other clusters are told and what is held of them.
	Digests consistency.Source
	// Forecast answers what would become of services if clusters were lost.
	Forecast forecast.Source
	// OwnProxies are those that follow this process, where Proxies are those of all replicas; nil is Proxies.
	OwnProxies func() []xds.ClientStatus
	// Replicas are the processes of this control plane.
	Replicas func() []Replica
	// Refused are proxies that are not served for their version.
	Refused func() []RefusedProxy
	Peers   func() []PeerStatus
	// Verdicts is what the mesh says of each cluster, and when that changed.
	Verdicts func() ([]consistency.Verdict, []consistency.VerdictEvent)
	Bundle   func() mesh.Bundle
	Uplink   func() *Uplink // of a remote cluster; nil is a primary
	// NewToken makes a join token for an identity.
	NewToken func(ctx context.Context, id mesh.Identity) (string, error)
	// ProxyConfig fetches what a proxy runs, as JSON, from its admin endpoint.
	ProxyConfig func(ctx context.Context, id string) ([]byte, error)
	// Stamp is a reading of the cluster's hybrid logical clock, later than any it has seen.
	Stamp   func() mesh.Stamp
	Ready   func() error // why the control plane is not ready, or nothing
	Version string
	// Token is what callers show.
	Token string
	// More are paths of packages beside, by pattern; MoreMetrics what they add to /metrics.
	More        map[string]func(http.ResponseWriter, *http.Request) error
	MoreMetrics func() string
	// Addresses gives services addresses; nil gives none.
	Addresses *address.Pool
	// Hosts are names by which the API is called, beside localhost and IP addresses.
	Hosts []string
	// RequestTimeout bounds a request that is not a watch; 0 is 60 s.
	RequestTimeout time.Duration
	Now            func() time.Time // nil is time.Now
	// Random feeds the UIDs of objects; nil is crypto/rand.
	Random io.Reader
	Log    *slog.Logger // nil discards
}

func (c Config) withDefaults() Config {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Random == nil {
		c.Random = rand.Reader
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	orEmpty(&c.Vector)
	orEmpty(&c.Proxies)
	if c.OwnProxies == nil {
		c.OwnProxies = c.Proxies
	}
	orEmpty(&c.Peers)
	if c.Verdicts == nil {
		c.Verdicts = func() ([]consistency.Verdict, []consistency.VerdictEvent) { return nil, nil }
	}
	orEmpty(&c.MoreMetrics)
	orEmpty(&c.Ready)
	c.RequestTimeout = cmp.Or(c.RequestTimeout, time.Minute)
	return c
}

// orEmpty makes a function that is not there one that answers nothing.
func orEmpty[V any](f *func() V) {
	if *f == nil {
		*f = func() (none V) { return none }
	}
}

// Validate reports all faults of c at once.
func (c Config) Validate() error {
	var faults []error
	for _, f := range []struct {
		missing bool
		name    string
	}{
		{c.Cluster == "", "Cluster"}, {c.Objects == nil, "Objects"}, {c.World == nil, "World"},
		{c.Stamp == nil, "Stamp"}, {c.Token == "", "Token"},
	} {
		if f.missing {
			faults = append(faults, errors.New("api: "+f.name+" must be set"))
		}
	}
	return errors.Join(faults...)
}
