// Package claim names the cluster that a store belongs to. Its one idea is that a store that several processes can reach says
// itself whose it is: two clusters over one would take each other's objects for their own. The name is written where there is
// none, and never over another one, before anything else is believed of the store.
//
// It opens no store and ends no process: who runs on the store fails by its error. Read Claim first.
package claim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Kind is that of the stored object that bears the cluster's name.
const Kind = "Claim.isthmus.dev"

var key = store.Key{Kind: Kind, Name: "cluster"}

// Objects is the store, as far as it is used here and by who goes through a Claim.
type Objects interface {
	Get(context.Context, store.Key) (store.Object, error)
	Put(context.Context, store.Object, store.Precondition) (int64, error)
}

// Claim is a cluster's on a store. All fields are required; it may be used concurrently.
type Claim struct {
	Cluster mesh.ClusterName
	Objects Objects
	// Where names the store for people, and Prefix what its keys begin with.
	Where, Prefix string
	Clock         clock.Clock
	Log           *slog.Logger
}

// Make writes the cluster's name into the store, and fails with store.ErrRefused, without store.ErrUnavailable, where another's is
// there, else as the store does.
func (c *Claim) Make(ctx context.Context) error {
	_, err := c.Objects.Put(ctx, store.Object{Key: key, Value: []byte(c.Cluster)}, store.MustNotExist())
	if !errors.Is(err, store.ErrExists) {
		return err
	}
	o, err := c.Objects.Get(ctx, key)
	if err != nil {
		return err
	}
	if owner := string(o.Value); owner != string(c.Cluster) {
		return fmt.Errorf("%w: the etcd at %s belongs to cluster %s under the prefix %s, and two clusters over one would overwrite each other's objects: start this one with --etcd-prefix /isthmus-%s/, or give it an etcd of its own",
			store.ErrRefused, c.Where, owner, c.Prefix, c.Cluster)
	}
	return nil
}

// Insist is Make, again and again while the store is away; a nil Claim is on a store that nobody else can reach. A history that is another one may be of a store that was wiped, or
// of which an older copy was put back, and is claimed anew.
func (c *Claim) Insist(ctx context.Context) error {
	for c != nil {
		err := c.Make(ctx)
		if err == nil || errors.Is(err, store.ErrRefused) && !errors.Is(err, store.ErrUnavailable) {
			return err
		}
		c.Log.Warn("whose store this is could not be written down; trying again", "error", err)
		if err := clock.Wait(ctx, c.Clock, 200*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// Get is the store's, which is claimed first: through it nothing of another cluster's store is read.
func (c *Claim) Get(ctx context.Context, k store.Key) (store.Object, error) {
	if err := c.Make(ctx); err != nil {
		return store.Object{}, err
	}
	return c.Objects.Get(ctx, k)
}

// Put is the store's. Who puts has got before.
func (c *Claim) Put(ctx context.Context, o store.Object, pre store.Precondition) (int64, error) {
	return c.Objects.Put(ctx, o, pre)
}
