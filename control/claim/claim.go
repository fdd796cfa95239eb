// Package claim names the cluster that a store belongs to. Its one idea is that a store that several processes can reach says
// itself whose it is: two clusters over one would take each other's objects for their own, and replicas of one that look under different prefixes would be two
// authorities. The name is written where there is none, and never over another one, before anything else is believed of the store; so is the prefix.
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

// PrefixKind is that of the stored object that bears a cluster's prefix, under IndexPrefix, which all clusters of one etcd share.
const (
	PrefixKind  = "Prefix.isthmus.dev"
	IndexPrefix = "/isthmus-clusters/"
)

// Objects is the store, as far as it is used here and by who goes through a Claim.
type Objects interface {
	Get(context.Context, store.Key) (store.Object, error)
	Put(context.Context, store.Object, store.Precondition) (int64, error)
}

// Claim is a cluster's on a store. All fields are required; once it is open it may be used concurrently.
type Claim struct {
	Cluster mesh.ClusterName
	Objects Objects
	// Where names the store for people, and Prefix what its keys begin with.
	Where, Prefix string
	Clock         clock.Clock
	Log           *slog.Logger

	index *store.Store // the same etcd under IndexPrefix
}

// Open is called once, before all else, with how the etcd is reached; Close ends that, also of a nil Claim.
func (c *Claim) Open(cfg store.Config) (err error) {
	cfg.Prefix = IndexPrefix
	c.index, err = store.Open(cfg)
	return err
}

// Close ends what Open began.
func (c *Claim) Close() error {
	if c == nil || c.index == nil {
		return nil
	}
	return c.index.Close()
}

// Make writes the cluster's name into the store, and fails with store.ErrRefused, without store.ErrUnavailable, where another's is
// there, else as the store does.
func (c *Claim) Make(ctx context.Context) error {
	_, err := c.Objects.Put(ctx, store.Object{Key: key, Value: []byte(c.Cluster)}, store.MustNotExist())
	if err == nil {
		return c.enter(ctx)
	} else if !errors.Is(err, store.ErrExists) {
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
	return c.enter(ctx)
}

// enter writes the cluster's prefix into the index, and fails with store.ErrRefused where another is there. Who may not write there, as a user of an etcd that is shared out by
// prefixes, is not held against it.
func (c *Claim) enter(ctx context.Context) error {
	at := store.Key{Kind: PrefixKind, Name: string(c.Cluster)}
	_, err := c.index.Put(ctx, store.Object{Key: at, Value: []byte(c.Prefix)}, store.MustNotExist())
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrExists):
	case errors.Is(err, store.ErrUnavailable) || ctx.Err() != nil:
		return err
	default:
		c.Log.Warn("under which prefix the cluster's objects are could not be written down, so replicas that are given another would not be noticed", "below", IndexPrefix, "error", err)
		return nil
	}
	o, err := c.index.Get(ctx, at)
	if err != nil {
		return err
	}
	if had := string(o.Value); had != c.Prefix {
		return fmt.Errorf("%w: the objects of cluster %s are under the prefix %s in the etcd at %s, and this replica was told %s, where it would be an authority of its own: start it with --etcd-prefix %s; if all of the cluster moves to %[5]s, stop its control planes and delete the key %[7]sobjects/%[8]s//%[2]s first",
			store.ErrRefused, c.Cluster, had, c.Where, c.Prefix, had, IndexPrefix, PrefixKind)
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
