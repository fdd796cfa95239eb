// Package secret keeps the content of Secrets out of the store that holds them. Its one idea is that it stands between a control
// plane and its store and is the store's likeness: what goes by it is sealed by the cluster's key and comes back open, so that
// nobody above knows of it, and who reads the store's disk, its backups or an etcd that is shared learns which Secrets there are,
// how long each is and when it changed, and no more.
//
// It judges no Secret (codec/manifest does), tells nobody of one, and seals nothing else: the certificate authority does so for
// itself. Read Seal.
package secret

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/trust"
)

// Kind is that of the keys whose values are sealed.
const Kind = "Secret"

// Objects is a store.
type Objects interface {
	Get(context.Context, store.Key) (store.Object, error)
	List(context.Context, store.Scope) ([]store.Object, int64, error)
	Put(context.Context, store.Object, store.Precondition) (int64, error)
	Delete(context.Context, store.Key, store.Precondition) (int64, error)
	Batch(context.Context, []store.Op) (int64, error)
	Watch(context.Context, store.Position, func(context.Context, store.Events) error) error
	Now(context.Context) (store.Position, error)
	Heard() time.Time
	Close() error
}

// Config is what a Sealed works with; all fields are required.
type Config struct {
	// Key is that of all replicas of the control plane.
	Key   trust.SealKey
	Clock clock.Clock
	Log   *slog.Logger
}

// Sealed is a store whose Secrets are sealed below and open above. It is safe for concurrent use.
type Sealed struct {
	Objects
	c Config
}

// Seal stands before a store. What a former version wrote in the clear is read as it is, and sealed when Watch first meets it.
func Seal(o Objects, c Config) *Sealed { return &Sealed{o, c} }

// purpose binds a value to its place: moved to another name, or another namespace, it does not open.
func purpose(k store.Key) string { return "Secret " + k.Namespace + "/" + k.Name }

// sealed reports whether a value is. No author's JSON begins so.
func sealed(value []byte) bool { return len(value) > 0 && value[0] != '{' }

// close seals an object if it is a Secret in the clear.
func (s *Sealed) close(o store.Object) (store.Object, error) {
	if o.Kind != Kind || sealed(o.Value) {
		return o, nil
	}
	value, err := trust.Seal(s.c.Key, purpose(o.Key), trust.Sealed{Created: s.c.Clock.Now(), Payload: o.Value})
	if err != nil {
		return o, &store.Error{Op: "seal", Key: o.Key, Cause: err}
	}
	o.Value = value
	return o, nil
}

// open returns a Secret's content. One that does not open stays as it is, which nobody can read: what was known of it stays in force.
func (s *Sealed) open(o store.Object) store.Object {
	if o.Kind != Kind || !sealed(o.Value) {
		return o
	}
	content, err := trust.Unseal(s.c.Key, purpose(o.Key), o.Value)
	if err != nil {
		s.c.Log.Error("a stored Secret does not open: give all replicas of a cluster the same seal key, or delete the Secret and apply it again", "object", o.Key.String(), "error", err)
		return o
	}
	o.Value = content.Payload
	return o
}

// Get is the store's.
func (s *Sealed) Get(ctx context.Context, k store.Key) (store.Object, error) {
	o, err := s.Objects.Get(ctx, k)
	return s.open(o), err
}

// List is the store's.
func (s *Sealed) List(ctx context.Context, scope store.Scope) ([]store.Object, int64, error) {
	all, at, err := s.Objects.List(ctx, scope)
	return s.opened(all), at, err
}

// opened are objects of which those that are Secrets are open; it does not change what it is given.
func (s *Sealed) opened(all []store.Object) []store.Object {
	if !slices.ContainsFunc(all, func(o store.Object) bool { return o.Kind == Kind }) {
		return all
	}
	all = slices.Clone(all)
	for i := range all {
		all[i] = s.open(all[i])
	}
	return all
}

// Put is the store's.
func (s *Sealed) Put(ctx context.Context, o store.Object, pre store.Precondition) (int64, error) {
	o, err := s.close(o)
	if err != nil {
		return 0, err
	}
	return s.Objects.Put(ctx, o, pre)
}

// Batch is the store's.
func (s *Sealed) Batch(ctx context.Context, ops []store.Op) (int64, error) {
	ops = slices.Clone(ops)
	for i := range ops {
		var err error
		if ops[i].Object, err = s.close(ops[i].Object); err != nil && !ops[i].Delete {
			return 0, err
		}
	}
	return s.Objects.Batch(ctx, ops)
}

// Watch is the store's. Secrets that lie there in the clear are sealed once they are delivered; where that fails, the next whole
// state tries again.
func (s *Sealed) Watch(ctx context.Context, from store.Position, deliver func(context.Context, store.Events) error) error {
	return s.Objects.Watch(ctx, from, func(ctx context.Context, e store.Events) error {
		lying := e.Puts
		e.Puts = s.opened(lying)
		if err := deliver(ctx, e); err != nil {
			return err
		}
		for _, o := range lying {
			if o.Kind != Kind || sealed(o.Value) {
				continue
			}
			if _, err := s.Put(ctx, o, store.AtRevision(o.Revision)); err != nil && !errors.Is(err, store.ErrConflict) { // somebody else has
				s.c.Log.Warn("a Secret lies in the store in the clear, and could not be sealed", "object", o.Key.String(), "error", err)
			}
		}
		return nil
	})
}
